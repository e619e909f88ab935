// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/fleet"
)

// TestAPIDocs holds docs/openapi.json and docs/api.md against the route table,
// and rewrites them with -update.
func TestAPIDocs(t *testing.T) {
	w := newV1World(t)
	served := w.do("GET /v1/openapi.json", request{as: fleet.RoleViewer}).Body.Bytes()
	again := w.do("GET /v1/openapi.json", request{as: fleet.RoleViewer}).Body.Bytes()
	if !bytes.Equal(served, again) || !json.Valid(served) {
		t.Fatal("the document is not JSON, or not always the same")
	}
	for name, want := range map[string][]byte{"openapi.json": served, "api.md": apiMarkdown(w.doc)} {
		file := filepath.Join("..", "docs", name)
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(got), string(want)); diff != "" {
			t.Errorf("%s is out of date: go test ./httpapi -run TestAPIDocs -update (-there +now):\n%s", file, diff)
		}
	}
}

// TestElkeidRoutesAreListed holds the list of docs/elkeid.md against the table.
func TestElkeidRoutesAreListed(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "docs", "elkeid.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```\n")
	block, _, _ := strings.Cut(rest, "```")
	listed := slices.Sorted(slices.Values(strings.Split(strings.TrimSpace(block), "\n")))
	var served []string
	for _, r := range newWorld(t).api.Routes() {
		own := []string{"/", "/livez", "/readyz", "/metrics"}
		if !strings.HasPrefix(r.Path, "/v1/") && !slices.Contains(own, r.Path) {
			served = append(served, r.String())
		}
	}
	slices.Sort(served)
	if diff := cmp.Diff(served, listed); diff != "" {
		t.Errorf("docs/elkeid.md (-served +listed):\n%s", diff)
	}
}

const apiIntro = `# The native API

Generated from the route table by ` + "`go test ./httpapi -run TestAPIDocs -update`" + `; do not edit. The same as OpenAPI 3.1: [openapi.json](openapi.json), or ` + "`GET /v1/openapi.json`" + ` of a node.

` + "```" + `
curl -X POST URL/v1/tokens -H 'Content-Type: application/json' -d '{"username":"admin","password":"..."}'
curl -H "Authorization: Bearer TOKEN" URL/v1/status
` + "```" + `

- **Credential**: a token, as ` + "`Authorization: Bearer TOKEN`" + ` or ` + "`token: TOKEN`" + `; one of Elkeid's log-in, ` + "`POST /api/v1/user/login`" + `, does too. Over plain HTTP it is taken from this machine only, unless the node runs with ` + "`--allow-plain-http`" + `.
- **Bodies** are JSON, with ` + "`Content-Type: application/json`" + ` or none; members that a route does not know are refused. Times are RFC 3339 in UTC. In the tables, **bold** members are always there.
- **Lists** are paged by key: ` + "`?limit=`" + ` (1 to 1000, default 100), and the ` + "`next`" + ` of a page as ` + "`?after=`" + `; the last page has no ` + "`next`" + `.
- **Refusals** are ` + "`application/problem+json`" + ` (RFC 9457) with ` + "`code`" + `, ` + "`detail`" + ` and, where one is wrong, ` + "`field`" + `.
- **Changes** answer when the node that was asked has applied them: it shows its own writes. 504 ` + "`committed_not_visible`" + ` means that the change stands, but is not visible on this node yet.
- **Any node** takes any request. The answer to a write carries ` + "`X-Muster-Index`" + `; a request to another node that sends it back as ` + "`X-Muster-Min-Index`" + ` waits, at most 10 s, until that node shows the write, else it is answered 504 ` + "`not_yet_visible`" + `. With ` + "`X-Muster-Consistency: linearizable`" + ` a request sees every write that any node answered before; without, it sees the state of the node that is asked. Elkeid's routes take the same headers. A token or AK/SK pair is good on every node as soon as it was answered, and a user may log in on every node.
- **Streams** are sent to who asks for a list with ` + "`Accept: text/event-stream`" + `, where the route says so: server-sent events, as browsers' EventSource reads them. They last until the client closes them; one that reads too slowly is cut off. A stream begins with the whole list, so ` + "`Last-Event-ID`" + ` is not needed, and not looked at.
- **What other nodes know** (streams, heartbeats, how far they are) is asked for, at most 2 s. A node that does not answer is named in the header ` + "`X-Muster-Missing`" + `, and in ` + "`page_info.missing`" + ` of a list.

| status | code | |
|--:|---|---|
| 400 | invalid | the content cannot be accepted |
| 401 | unauthenticated | no token, or one that is unknown or has expired |
| 403 | forbidden | the user's role, or the token's, does not permit it |
| 404 | not_found | |
| 405 | method_not_allowed | see the header ` + "`Allow`" + ` |
| 409 | exists, conflict, offline | the present state forbids it |
| 413 | too_large | |
| 415 | unsupported_media_type | |
| 429 | throttled | wait for ` + "`Retry-After`" + ` seconds |
| 500 | internal | the node's log says more |
| 503 | not_ready | this node's state may be old, because it starts, catches up or is quarantined: wait for ` + "`Retry-After`" + ` seconds, or ask another node |
| 503 | unavailable | no leader, or stopping: try again, or another node; also when a token is not known here and no leader can say whether it exists |
| 504 | committed_not_visible | the change stands; this node shows it from ` + "`index`" + ` on |
| 504 | not_yet_visible | this node has not come to the index that was asked for |
| 504 | timeout | no answer in time; ask whether the change was made |
`

// apiMarkdown writes the document for people.
func apiMarkdown(d document) []byte {
	var b bytes.Buffer
	b.WriteString(apiIntro)
	group := ""
	for _, path := range slices.SortedFunc(maps.Keys(d.Paths), func(x, y string) int { return strings.Compare(x, y) }) {
		methods := d.Paths[path]
		for _, method := range []string{"get", "post", "put", "patch", "delete"} {
			op, ok := methods[method]
			if !ok {
				continue
			}
			if op.Tags[0] != group {
				group = op.Tags[0]
				fmt.Fprintf(&b, "\n## %s\n", group)
			}
			writeOperation(&b, d, strings.ToUpper(method), path, op)
		}
	}
	b.WriteString("\n## Types\n")
	for _, name := range slices.Sorted(maps.Keys(d.Components.Schemas)) {
		if s := d.Components.Schemas[name]; s.Type == "object" && !strings.HasSuffix(name, "Page") {
			fmt.Fprintf(&b, "\n### %s\n\n", name)
			writeMembers(&b, s)
		}
	}
	return b.Bytes()
}

func writeOperation(b *bytes.Buffer, d document, method, path string, op operation) {
	fmt.Fprintf(b, "\n### `%s %s`\n\n%s %s\n", method, path, op.Summary, op.Description)
	var query []parameter
	for _, p := range op.Parameters {
		if p.In == "query" {
			query = append(query, p)
		}
	}
	if len(query) > 0 {
		b.WriteString("\n| query | | |\n|---|---|---|\n")
		for _, p := range query {
			fmt.Fprintf(b, "| %s | %s | %s |\n", p.Name, typeName(p.Schema), p.Schema.Description)
		}
	}
	var lines []string
	if op.Body != nil {
		for _, c := range op.Body.Content {
			lines = append(lines, "Body: "+typeName(c.Schema)+".")
		}
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		c, ok := op.Responses[status].Content["application/json"]
		switch {
		case status == "204":
			lines = append(lines, "Answers 204, without a body.")
		case ok:
			schema := d.resolve(c.Schema)
			name := typeName(c.Schema)
			if items, isPage := schema.Properties["items"]; isPage {
				name = "a page of " + typeName(*items.Items)
			}
			lines = append(lines, "Answers "+status+" with "+name+".")
		}
		if c, ok := op.Responses[status].Content["text/event-stream"]; ok {
			lines = append(lines, "As a stream, with events of "+typeName(c.Schema)+".")
		}
	}
	if len(lines) > 0 {
		fmt.Fprintf(b, "\n%s\n", strings.Join(lines, " "))
	}
}

func writeMembers(b *bytes.Buffer, s schema) {
	b.WriteString("| member | | |\n|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name]
		shown := name
		if slices.Contains(s.Required, name) {
			shown = "**" + name + "**"
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", shown, typeName(p), p.Description)
	}
}

// plainNumber is a bound without an exponent, which nobody can paste.
func plainNumber(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// typeName says in a word or two what a schema takes.
func typeName(s schema) string {
	name := s.Type
	if ref, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		return fmt.Sprintf("[%s](#%s)", ref, strings.ToLower(ref))
	}
	switch {
	case s.Items != nil:
		name = "list of " + typeName(*s.Items)
	case s.Format == "date-time":
		name = "time"
	case len(s.Enum) > 0:
		words := make([]string, len(s.Enum))
		for i, e := range s.Enum {
			words[i] = fmt.Sprint(e)
		}
		name = strings.Join(words, ", ")
	case s.Additional != nil:
		name = "map of " + typeName(*s.Additional)
	case name == "":
		name = "any"
	}
	if s.Minimum != nil && s.Maximum != nil {
		name += ", " + plainNumber(*s.Minimum) + " to " + plainNumber(*s.Maximum)
	}
	if s.Default != nil {
		name += fmt.Sprintf(", default %v", s.Default)
	}
	return name
}
