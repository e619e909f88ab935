// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"muster/fleet"
	"muster/httpapi"
)

// TestAgentIDsInPaths: an agent is found by whatever ID it may have, once that
// is escaped.
func TestAgentIDsInPaths(t *testing.T) {
	w := newV1World(t)
	for _, id := range []string{
		"a/b", "/a", "a/", "/a/", "/", "//", "a//b", "..", ".", "../../status", "a/../b", "%", "%2F", "a%2Fb", "100%", "%zz",
		"a?b", "?", "a#b", "#", "a;b", "a+b", "a&b=c", "a:b", "~", "tags", "a/tags", `a\b`, `"`, "{id}", "*", strings.Repeat("/", fleet.MaxAgentIDBytes),
	} {
		if err := fleet.CheckAgentID(id); err != nil {
			t.Fatal(err)
		}
		w.addAgent(id, true)
		equal(t, "/v1", id, w.v1("GET /v1/agents/"+url.PathEscape(id), request{as: fleet.RoleViewer}, 200)["id"])
		doc := w.data("GET /api/v1/agent/getStatus/"+url.PathEscape(id), request{as: fleet.RoleViewer}).(map[string]any)
		equal(t, "getStatus", id, doc["agent_id"])
		tagged := w.v1("POST /v1/agents/"+url.PathEscape(id)+"/tags", operator(`{"add":["a/b"]}`), 200)
		equal(t, "tagged", id, tagged["id"])
		delete(w.store.agents, id)
		delete(w.live.sessions, id)
	}
	w.addAgent("a1", false)
	equal(t, "a tag with a slash", map[string]any{"changed": 1.0, "unknown": []any{}}, w.v1("POST /v1/tags/a%2Fb/agents", operator(`{"add":["a1"]}`), 200))
}

// TestEveryAgentIDHasAPath is the law of which the above are the hard cases.
func TestEveryAgentIDHasAPath(t *testing.T) {
	w := newWorld(t)
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringMatching(`[!-~]{1,128}`).Draw(t, "id")
		w.addAgent(id, false)
		defer delete(w.store.agents, id)
		doc := w.data("GET /api/v1/agent/getStatus/"+url.PathEscape(id), request{as: fleet.RoleViewer}).(map[string]any)
		if doc["agent_id"] != id {
			t.Errorf("%q is answered with %q", id, doc["agent_id"])
		}
	})
}

// TestPathsAreNotGuessed: an escape does not lead to another route, nor a slash
// that is none of an ID's.
func TestPathsAreNotGuessed(t *testing.T) {
	w := newWorld(t)
	w.addAgent("a/b", false)
	for call, want := range map[string]struct {
		status   int
		location string
	}{
		"GET /v1/agents/a/b":                       {404, ""},
		"GET /v1%2Fagents/a":                       {404, ""},
		"GET /api/v1/agent%2FgetStatus":            {404, ""},
		"GET /v1/agents/a%2Fb/":                    {301, "/v1/agents/a%2Fb"},
		"GET /api/v1/agent/getStatus/a%2Fb/?x=%2F": {301, "/api/v1/agent/getStatus/a%2Fb?x=%2F"},
		"DELETE /v1/agents/a%2Fb":                  {405, ""},
	} {
		rec := w.do(call, request{as: fleet.RoleAdmin})
		if rec.Code != want.status || rec.Header().Get("Location") != want.location {
			t.Errorf("%s: %d to %q, want %v", call, rec.Code, rec.Header().Get("Location"), want)
		}
	}
}

// TestMalformedEscapes are refused before any route sees them.
func TestMalformedEscapes(t *testing.T) {
	srv := httptest.NewServer(newWorld(t).api.Handler(httpapi.ListenerHTTP))
	defer srv.Close()
	for _, path := range []string{"/v1/agents/a%zz", "/v1/agents/%", "/api/v1/agent/getStatus/%2"} {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		conn.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("GET %s: %d, want 400", path, resp.StatusCode)
		}
	}
}
