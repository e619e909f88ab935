// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/fleet"
	"muster/httpapi"
)

// items are the members called name of a page's items.
func items(page map[string]any, name string) []any {
	out := []any{}
	for _, item := range page["items"].([]any) {
		out = append(out, item.(map[string]any)[name])
	}
	return out
}

func equal(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestV1Refusals(t *testing.T) {
	doc := newV1World(t).doc
	op := fleet.RoleOperator
	tests := map[string]struct {
		call   string
		q      request
		status int
		code   string
		field  string
	}{
		"no token":            {"GET /v1/status", request{}, 401, "unauthenticated", ""},
		"unknown token":       {"GET /v1/status", request{header: map[string]string{"Authorization": "Bearer nonsense"}}, 401, "unauthenticated", ""},
		"not permitted":       {"GET /v1/users", request{as: op}, 403, "forbidden", ""},
		"unknown member":      {"POST /v1/users", request{as: fleet.RoleAdmin, body: `{"name":"x","pasword":"y"}`}, 400, "invalid", ""},
		"two values":          {"POST /v1/users", request{as: fleet.RoleAdmin, body: `{"name":"x"}{}`}, 400, "invalid", ""},
		"not json":            {"POST /v1/users", request{as: fleet.RoleAdmin, body: `name=x`}, 400, "invalid", ""},
		"no body":             {"POST /v1/users", request{as: fleet.RoleAdmin}, 400, "invalid", ""},
		"wrong type":          {"POST /v1/users", request{as: fleet.RoleAdmin, body: `{"name":7}`}, 400, "invalid", "name"},
		"form":                {"POST /v1/users", request{as: fleet.RoleAdmin, body: `{}`, header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}}, 415, "unsupported_media_type", "Content-Type"},
		"malformed type":      {"POST /v1/users", request{as: fleet.RoleAdmin, body: `{}`, header: map[string]string{"Content-Type": "application/json;;"}}, 415, "unsupported_media_type", "Content-Type"},
		"limit 0":             {"GET /v1/agents?limit=0", request{as: op}, 400, "invalid", "limit"},
		"limit 1001":          {"GET /v1/agents?limit=1001", request{as: op}, 400, "invalid", "limit"},
		"limit empty":         {"GET /v1/tasks?limit=", request{as: op}, 400, "invalid", "limit"},
		"misspelt filter":     {"GET /v1/agents?sate=offline", request{as: op}, 400, "invalid", "sate"},
		"filter twice":        {"GET /v1/agents?tag=a&tag=b", request{as: op}, 400, "invalid", "tag"},
		"unknown state":       {"GET /v1/agents?state=dead", request{as: op}, 400, "invalid", "state"},
		"malformed query":     {"GET /v1/agents?tag=%zz", request{as: op}, 400, "invalid", ""},
		"no such agent":       {"GET /v1/agents/nobody", request{as: op}, 404, "not_found", ""},
		"no such task":        {"GET /v1/tasks/1", request{as: op}, 404, "not_found", ""},
		"no such task's part": {"GET /v1/tasks/1/agents", request{as: op}, 404, "not_found", ""},
		"reset of nobody":     {"POST /v1/agents/nobody/reset", request{as: op}, 404, "not_found", ""},
		"viewer runs a task":  {"POST /v1/tasks", request{as: fleet.RoleViewer, body: `{}`}, 403, "forbidden", ""},
		"no certificates":     {"POST /v1/pki/agent-bundles", request{as: fleet.RoleAdmin, body: `{"kind":"fleet","name":"f"}`}, 503, "unavailable", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := v1World{newWorld(t), doc}.v1(tt.call, tt.q, tt.status)
			if field, _ := got["field"].(string); got["code"] != tt.code || field != tt.field {
				t.Errorf("code %v, field %q, want %s, %q: %v", got["code"], field, tt.code, tt.field, got["detail"])
			}
			if got["status"] != float64(tt.status) || got["detail"] == "" {
				t.Errorf("problem %v", got)
			}
		})
	}
}

func TestV1NeedsTransportSecurity(t *testing.T) {
	w := newV1World(t)
	far := request{as: fleet.RoleAdmin, kind: httpapi.ListenerHTTP}
	w.v1("GET /v1/status", far, 403)
	far.as, far.body = "", `{"username":"admin","password":"secret"}`
	w.v1("POST /v1/tokens", far, 403)
	far.from = "127.0.0.1:5555"
	w.v1("POST /v1/tokens", far, 201)
}

func TestV1Agents(t *testing.T) {
	w := newV1World(t)
	q := request{as: fleet.RoleViewer}
	for i := range 5 {
		w.addAgent(fmt.Sprintf("a%d", i), i%2 == 0, []string{"web", "db"}[i%2])
	}
	w.v1("GET /v1/agents/a0", q, 200)
	w.golden("v1_agent_online", w.do("GET /v1/agents/a0", q))
	w.v1("GET /v1/agents/a1", q, 200)
	w.golden("v1_agent_offline", w.do("GET /v1/agents/a1", q))

	tests := map[string][]any{
		"":                        {"a0", "a1", "a2", "a3", "a4"},
		"?state=running":          {"a0", "a2", "a4"},
		"?state=offline":          {"a1", "a3"},
		"?tag=db":                 {"a1", "a3"},
		"?tag=db&state=running":   {},
		"?tag=none":               {},
		"?hostname=host-a3":       {"a3"},
		"?hostname=ost":           {},
		"?q=HOST-A4":              {"a4"},
		"?q=10.0.0":               {"a0", "a1", "a2", "a3", "a4"},
		"?after=a2":               {"a3", "a4"},
		"?after=a0&tag=web":       {"a2", "a4"},
		"?limit=2&after=a1&q=a":   {"a2", "a3"},
		"?q=nothing+looks+so":     {},
		"?hostname=host-&limit=1": {"a0"},
	}
	for query, want := range tests {
		equal(t, query, want, items(w.v1("GET /v1/agents"+query, q, 200), "id"))
	}
	for query, want := range map[string][]any{
		"?limit=2": tests[""], "?limit=1&state=running": tests["?state=running"], "?limit=2&tag=web": {"a0", "a2", "a4"},
	} {
		var walked []any
		after := ""
		for range 10 {
			page := w.v1("GET /v1/agents"+query+"&after="+after, q, 200)
			walked = append(walked, items(page, "id")...)
			next, more := page["next"].(string)
			if !more {
				break
			}
			after = next
		}
		if !slices.Equal(walked, want) {
			t.Errorf("%s walked over %v", query, walked)
		}
	}
}

// An agent that has just connected is listed before the inventory has it.
func TestV1AgentOfStreamAlone(t *testing.T) {
	w := newV1World(t)
	w.addAgent("a1", true)
	w.addAgent("a2", true)
	delete(w.store.agents, "a1")
	q := request{as: fleet.RoleViewer}
	equal(t, "listed", []any{"a1", "a2"}, items(w.v1("GET /v1/agents", q, 200), "id"))
	if n, ok := w.v1("GET /v1/agents/a1", q, 200)["number"]; ok {
		t.Errorf("number %v, want none", n)
	}
}

func TestV1Tags(t *testing.T) {
	w := newV1World(t)
	w.addAgent("a1", true, "old")
	w.addAgent("a2", false)
	q := func(body string) request { return request{as: fleet.RoleOperator, body: body} }
	got := w.v1("POST /v1/agents/a1/tags", q(`{"add":["web","eu"],"remove":["old"]}`), 200)
	equal(t, "tags", []any{"eu", "web"}, got["tags"])
	got = w.v1("POST /v1/tags/web/agents", q(`{"add":["a2","a9"],"remove":["a1"]}`), 200)
	equal(t, "result", map[string]any{"changed": 2.0, "unknown": []any{"a9"}}, got)
	list := w.v1("GET /v1/tags", q(""), 200)
	equal(t, "tags", []any{"eu", "web"}, items(list, "tag"))
	page := w.v1("GET /v1/tags?limit=1", q(""), 200)
	equal(t, "next", "eu", page["next"])
	equal(t, "second page", []any{"web"}, items(w.v1("GET /v1/tags?limit=1&after=eu", q(""), 200), "tag"))

	w.v1("POST /v1/agents/a9/tags", q(`{"add":["x"]}`), 404)
	w.v1("POST /v1/agents/a1/tags", q(`{}`), 400)
	w.v1("POST /v1/agents/a1/tags", q(`{"add":["a,b"]}`), 400)
	w.v1("POST /v1/tags/x/agents", q(`{}`), 400)
	w.v1("POST /v1/tags/a%2Cb/agents", q(`{"add":["a1"]}`), 400)
	w.v1("POST /v1/tags/x/agents", request{as: fleet.RoleViewer, body: `{"add":["a1"]}`}, 403)
}

func TestV1ResetAndDefaultConfig(t *testing.T) {
	w := newV1World(t)
	w.addAgent("a1", true)
	w.addAgent("a2", false)
	q := request{as: fleet.RoleOperator}
	w.v1("POST /v1/agents/a1/reset", q, http.StatusNoContent)
	equal(t, "reset", []string{"a1"}, w.live.reset)
	equal(t, "offline", "offline", w.v1("POST /v1/agents/a2/reset", q, 409)["code"])

	equal(t, "no config", map[string]any{"config": []any{}}, w.v1("GET /v1/config/default", q, 200))
	q.body = `{"version":"7","config":[{"name":"driver","version":"1.7","download_url":["https://x/y"]}]}`
	put := w.v1("PUT /v1/config/default", q, 200)
	equal(t, "revision", 1.0, put["revision"])
	equal(t, "read back", put, w.v1("GET /v1/config/default", q, 200))
	q.body = `{"config":[]}`
	equal(t, "empty", "config", w.v1("PUT /v1/config/default", q, 400)["field"])
	q.as = fleet.RoleViewer
	w.v1("PUT /v1/config/default", q, 403)
}
