// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/swaggest/jsonschema-go"
	"github.com/swaggest/openapi-go"
	"github.com/swaggest/openapi-go/openapi31"

	"muster/fleet"
	"muster/internal/apiv1"
)

// v1DocumentRoutes describe the API itself.
func (a *API) v1DocumentRoutes() []Route {
	// The routes are complete only after New, so this waits for the first request.
	document := sync.OnceValues(func() ([]byte, error) { return openAPI(a.routes) })
	return []Route{{
		Method: http.MethodGet, Path: "/v1/openapi.json", Access: permit(fleet.PermSelf),
		Summary: "This description, OpenAPI 3.1.", Response: map[string]any{},
		handle: func(w http.ResponseWriter, _ *http.Request, _ *call) error {
			doc, err := document()
			if err != nil {
				return fmt.Errorf("describe the api: %w", err)
			}
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			_, _ = w.Write(doc)
			return nil
		},
	}}
}

// openAPI describes the routes of /v1, from what the route table says of them.
func openAPI(routes []Route) ([]byte, error) {
	r := openapi31.NewReflector()
	r.DefaultOptions = append(r.DefaultOptions,
		jsonschema.InterceptDefName(definitionName),
		jsonschema.InterceptProp(requireAlwaysThere),
		jsonschema.InterceptNullability(func(p jsonschema.InterceptNullabilityParams) { p.Schema.RemoveType(jsonschema.Null) }),
	)
	r.Spec.Info = openapi31.Info{Title: "Muster", Version: "1"}
	r.Spec.Info.WithDescription("The native API. A token of POST /v1/tokens, or of Elkeid's log-in, goes in the header " +
		"Authorization: Bearer, or in the header token. Times are RFC 3339 in UTC. Lists are paged by key: give the next of a page as ?after=. " +
		"Refusals are application/problem+json. Any node takes any request; the answer to a write carries X-Muster-Index, and a request " +
		"with X-Muster-Min-Index waits, at most 10 s, until the node that is asked shows that write. X-Muster-Consistency: linearizable " +
		"asks for all that any node answered before. X-Muster-Missing, and page_info.missing of a list, name nodes that did not answer in time.")
	r.Spec.SetHTTPBearerTokenSecurity("bearer", "opaque", "Authorization: Bearer TOKEN")
	r.Spec.SetAPIKeySecurity("token", "token", openapi.InHeader, "token: TOKEN, as clients of Elkeid send it")
	for _, route := range routes {
		if styleOf(route.Path) != styleV1 {
			continue
		}
		if err := addOperation(r, route); err != nil {
			return nil, fmt.Errorf("%s: %w", route, err)
		}
	}
	doc, err := json.MarshalIndent(r.Spec, "", "  ")
	return append(doc, '\n'), err
}

func addOperation(r *openapi31.Reflector, route Route) error {
	parts := strings.Split(strings.TrimPrefix(route.Path, "/v1/"), "/")
	id := []string{strings.ToLower(route.Method)}
	for i, p := range parts {
		if name, ok := strings.CutPrefix(p, ":"); ok {
			parts[i] = "{" + name + "}"
			id = append(id, "By", title(name))
			continue
		}
		for word := range strings.FieldsFuncSeq(p, func(r rune) bool { return r == '-' || r == '.' }) {
			id = append(id, title(word))
		}
	}
	op, err := r.NewOperationContext(route.Method, "/v1/"+strings.Join(parts, "/"))
	if err != nil {
		return err
	}
	op.SetID(strings.Join(id, ""))
	op.SetTags(strings.TrimSuffix(parts[0], ".json"))
	op.SetSummary(route.Summary)
	if route.Access.Open() {
		op.SetDescription("Needs no credential in a header.")
	} else {
		op.SetDescription(fmt.Sprintf("Needs the permission %s.", route.Access.Permission()))
		op.AddSecurity("bearer")
		op.AddSecurity("token")
	}
	if route.Query != nil {
		op.AddReqStructure(route.Query)
	}
	if route.Request != nil {
		op.AddReqStructure(route.Request, openapi.WithContentType("application/json"), openapi.WithCustomize(requireBody(route)))
	}
	status := route.Status
	if status == 0 {
		status = http.StatusOK
	}
	op.AddRespStructure(route.Response, openapi.WithHTTPStatus(status), openapi.WithContentType("application/json"))
	if route.Events != nil {
		op.AddRespStructure(route.Events, openapi.WithHTTPStatus(status), openapi.WithContentType(eventType))
	}
	op.AddRespStructure(Problem{}, openapi.WithContentType("application/problem+json"), func(cu *openapi.ContentUnit) {
		cu.IsDefault = true
		cu.Description = "What is wrong, and what to do about it."
	})
	return r.AddOperation(op)
}

// requireBody marks the body as needed: every route but one refuses a request
// without.
func requireBody(route Route) func(openapi.ContentOrReference) {
	_, optional := route.Request.(apiv1.RunTask)
	return func(c openapi.ContentOrReference) {
		if body, ok := c.(*openapi31.RequestBodyOrReference); ok && !optional {
			body.RequestBodyEns().WithRequired(true)
		}
	}
}

func title(word string) string { return strings.ToUpper(word[:1]) + word[1:] }

// definitionName drops the package from a type's name, and writes Page[Agent]
// as AgentPage.
func definitionName(t reflect.Type, _ string) string {
	outer, inner, generic := strings.Cut(t.Name(), "[")
	if !generic {
		return outer
	}
	inner = strings.TrimSuffix(inner, "]")
	return inner[strings.LastIndexByte(inner, '.')+1:] + outer
}

// requireAlwaysThere marks the members that are in every answer, and those
// that every request must have: the ones that JSON does not leave out.
func requireAlwaysThere(p jsonschema.InterceptPropParams) error {
	name, rest, _ := strings.Cut(p.Field.Tag.Get("json"), ",")
	if !p.Processed || name == "" || name == "-" || strings.Contains(rest, "omit") {
		return nil
	}
	if slices.Contains(p.ParentSchema.Required, p.Name) {
		return nil
	}
	p.ParentSchema.Required = append(p.ParentSchema.Required, p.Name)
	return nil
}
