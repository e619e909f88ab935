// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"muster/fleet"
	"muster/httpapi"
)

// document is the part of an OpenAPI document that the tests read.
type document struct {
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Schemas map[string]schema `json:"schemas"`
	} `json:"components"`
}

type operation struct {
	Tags        []string              `json:"tags"`
	Summary     string                `json:"summary"`
	Description string                `json:"description"`
	Parameters  []parameter           `json:"parameters"`
	Body        *content              `json:"requestBody"`
	Responses   map[string]content    `json:"responses"`
	Security    []map[string][]string `json:"security"`
}

type parameter struct {
	Name   string `json:"name"`
	In     string `json:"in"`
	Schema schema `json:"schema"`
}

type content struct {
	Content map[string]struct {
		Schema schema `json:"schema"`
	} `json:"content"`
}

// schema is the part of JSON Schema that the document uses.
type schema struct {
	Ref         string            `json:"$ref"`
	Type        string            `json:"type"`
	Format      string            `json:"format"`
	Description string            `json:"description"`
	Enum        []any             `json:"enum"`
	Default     any               `json:"default"`
	Minimum     *float64          `json:"minimum"`
	Maximum     *float64          `json:"maximum"`
	Required    []string          `json:"required"`
	Properties  map[string]schema `json:"properties"`
	Items       *schema           `json:"items"`
	// Additional is nil where no other members may stand.
	Additional *schema `json:"additionalProperties"`
}

func (d document) resolve(s schema) schema {
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		target := d.Components.Schemas[name]
		target.Ref = name
		return target
	}
	return s
}

// operation finds what the document says of a request.
func (d document) operation(method, path string) (operation, bool) {
	want := strings.Split(strings.Trim(path, "/"), "/")
	for template, methods := range d.Paths {
		parts := strings.Split(strings.Trim(template, "/"), "/")
		op, ok := methods[strings.ToLower(method)]
		fits := ok && len(parts) == len(want)
		for i := 0; fits && i < len(parts); i++ {
			fits = parts[i] == want[i] || strings.HasPrefix(parts[i], "{")
		}
		if fits {
			return op, true
		}
	}
	return operation{}, false
}

// mismatch says where a decoded JSON value is not what the schema says, or
// nothing. A member that the schema does not know is a mismatch.
func (d document) mismatch(at string, s schema, v any) string {
	s = d.resolve(s)
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
		return fmt.Sprintf("%s is %v, none of %v", at, v, s.Enum)
	}
	switch v := v.(type) {
	case map[string]any:
		return d.objectMismatch(at, s, v)
	case []any:
		if s.Type != "array" || s.Items == nil {
			return fmt.Sprintf("%s is a list, want %s", at, s.Type)
		}
		for i, item := range v {
			if m := d.mismatch(fmt.Sprintf("%s[%d]", at, i), *s.Items, item); m != "" {
				return m
			}
		}
	case string:
		if s.Type != "string" && s.Type != "" {
			return fmt.Sprintf("%s is a string, want %s", at, s.Type)
		}
		if s.Format == "date-time" {
			if _, err := time.Parse(time.RFC3339, v); err != nil || !strings.HasSuffix(v, "Z") {
				return fmt.Sprintf("%s is %q, no RFC 3339 time in UTC", at, v)
			}
		}
	case float64:
		if s.Type != "" && s.Type != "number" && (s.Type != "integer" || v != float64(int64(v))) {
			return fmt.Sprintf("%s is %v, want %s", at, v, s.Type)
		}
		if s.Minimum != nil && v < *s.Minimum || s.Maximum != nil && v > *s.Maximum {
			return fmt.Sprintf("%s is %v, out of range", at, v)
		}
	case bool:
		if s.Type != "boolean" && s.Type != "" {
			return fmt.Sprintf("%s is a boolean, want %s", at, s.Type)
		}
	case nil:
		return at + " is null"
	}
	return ""
}

func (d document) objectMismatch(at string, s schema, v map[string]any) string {
	if s.Type != "object" && s.Type != "" {
		return fmt.Sprintf("%s is an object, want %s", at, s.Type)
	}
	for _, name := range s.Required {
		if _, ok := v[name]; !ok {
			return fmt.Sprintf("%s lacks %s", at, name)
		}
	}
	for name, member := range v {
		property, known := s.Properties[name]
		if !known && s.Additional == nil {
			return fmt.Sprintf("%s has %s, which is not described", at, name)
		}
		if !known {
			property = *s.Additional
		}
		if m := d.mismatch(at+"."+name, property, member); m != "" {
			return m
		}
	}
	return ""
}

// v1World is a world whose answers under /v1 are held against the document.
type v1World struct {
	*world
	doc document
}

func newV1World(t *testing.T, change ...func(*httpapi.Options)) v1World {
	t.Helper()
	w := v1World{world: newWorld(t, change...)}
	if err := json.Unmarshal(w.do("GET /v1/openapi.json", request{as: fleet.RoleViewer}).Body.Bytes(), &w.doc); err != nil {
		t.Fatal(err)
	}
	return w
}

// v1 sends a request and holds status and body of the answer against what the
// API's own description says; it returns the body, nil if there is none.
func (w v1World) v1(call string, q request, status int) map[string]any {
	w.t.Helper()
	rec := w.do(call, q)
	if rec.Code != status {
		w.t.Fatalf("%s: status %d, want %d: %s", call, rec.Code, status, rec.Body)
	}
	method, target, _ := strings.Cut(call, " ")
	path, _, _ := strings.Cut(target, "?")
	op, ok := w.doc.operation(method, path)
	if !ok {
		w.t.Fatalf("%s is not described", call)
	}
	described, mime := op.Responses[fmt.Sprint(status)], "application/json"
	if status >= 400 {
		described, mime = op.Responses["default"], "application/problem+json"
	}
	if status == http.StatusNoContent {
		if rec.Body.Len() > 0 {
			w.t.Fatalf("%s: 204 with a body: %s", call, rec.Body)
		}
		return nil
	}
	if got, _, _ := strings.Cut(rec.Header().Get("Content-Type"), ";"); got != mime {
		w.t.Fatalf("%s: Content-Type %q, want %q", call, got, mime)
	}
	var v map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &v); err != nil {
		w.t.Fatalf("%s: %v: %s", call, err, rec.Body)
	}
	if m := w.doc.mismatch("answer", described.Content[mime].Schema, v); m != "" {
		w.t.Fatalf("%s: not as described: %s\n%s", call, m, rec.Body)
	}
	return v
}

func TestEveryV1RouteIsDescribed(t *testing.T) {
	w := newV1World(t)
	doc := w.doc
	described := 0
	for _, methods := range doc.Paths {
		described += len(methods)
	}
	routes := 0
	for _, r := range w.api.Routes() {
		if !strings.HasPrefix(r.Path, "/v1/") {
			continue
		}
		routes++
		op, ok := doc.operation(r.Method, strings.ReplaceAll(r.Path, ":", ""))
		switch {
		case !ok:
			t.Errorf("%s is not described", r)
		case op.Summary == "":
			t.Errorf("%s has no summary", r)
		case (len(op.Security) == 0) != r.Access.Open():
			t.Errorf("%s: described security %v, open: %t", r, op.Security, r.Access.Open())
		case strings.Count(r.Path, ":") != len(slices.DeleteFunc(slices.Clone(op.Parameters), func(p parameter) bool { return p.In != "path" })):
			t.Errorf("%s: its path's variables are not all described", r)
		}
	}
	if routes < 30 || routes != described {
		t.Errorf("%d routes, %d described", routes, described)
	}
}
