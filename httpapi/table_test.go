// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"muster/fleet"
	"muster/httpapi"
)

var roles = []fleet.Role{
	fleet.RoleAdmin, fleet.RoleOperator, fleet.RoleViewer, fleet.RoleTaskViewer,
	fleet.RoleRuleEditor, fleet.RoleRuleReader, fleet.RoleResponder,
}

// try calls a route with an empty object as its body; names in its path are "x".
func try(w *world, r httpapi.Route, q request) *httptest.ResponseRecorder {
	parts := strings.Split(r.Path, "/")
	for i, p := range parts {
		if strings.HasPrefix(p, ":") || strings.HasPrefix(p, "*") {
			parts[i] = "x"
		}
	}
	if r.Method != http.MethodGet {
		q.body = "{}"
	}
	return w.do(r.Method+" "+strings.Join(parts, "/"), q)
}

// TestOpenRoutes: the table is open where the list says so, and nowhere else.
func TestOpenRoutes(t *testing.T) {
	w := newWorld(t)
	var opened []string
	for _, r := range w.api.Routes() {
		if r.Access.Open() {
			opened = append(opened, r.String())
		}
	}
	slices.Sort(opened)
	if diff := cmp.Diff(httpapi.OpenRoutes(), opened); diff != "" {
		t.Errorf("open routes (-list +table):\n%s", diff)
	}
}

// TestWithoutCredential: whatever is not open says no, in the shape that the
// route's clients know.
func TestWithoutCredential(t *testing.T) {
	w := newWorld(t)
	for _, r := range w.api.Routes() {
		if r.Access.Open() {
			continue
		}
		w.pass(time.Minute) // or unknown tokens are throttled
		for name, q := range map[string]request{
			"none": {}, "unknown": {header: map[string]string{"token": "x"}}, "basic": {header: map[string]string{"Authorization": "Basic eDp5"}},
		} {
			if rec := try(w, r, q); !refused(rec) {
				t.Errorf("%s, credential %s: %d %s, want a refusal", r, name, rec.Code, rec.Body)
			}
		}
	}
	if got := counterOf(w, "muster_httpapi_refused_total", "unauthenticated"); got == 0 {
		t.Error("refusals are not counted")
	}
}

// refused tells a refused credential by the shape of the answer.
func refused(rec *httptest.ResponseRecorder) bool {
	var body struct {
		Code any    `json:"code"`
		Msg  string `json:"msg"`
	}
	_ = json.Unmarshal(rec.Body.Bytes(), &body)
	switch {
	case rec.Code == 401 && rec.Body.Len() == 0,
		rec.Code == 401 && rec.Header().Get("Content-Type") == "application/problem+json" && body.Code == "unauthenticated",
		rec.Code == 200 && body.Code == 1.0 && body.Msg == "auth failed",
		rec.Code == 403 && body.Code == -1.0 && body.Msg == "auth failed":
		return true
	}
	return false
}

// TestRoles holds every route against what fleet says each role may do.
func TestRoles(t *testing.T) {
	w := newWorld(t)
	for _, r := range w.api.Routes() {
		if r.Access.Open() || r.Access.Permission() == "" {
			continue
		}
		for _, role := range roles {
			w.seed() // the last call may have ended the token
			rec := try(w, r, request{as: role})
			// The header is set for who is let in, and for nobody else.
			let, may := rec.Header().Get("user") == string(role), role.May(r.Access.Permission())
			if let != may {
				t.Errorf("%s as %s: let in %v, want %v", r, role, let, may)
			}
			if !may && rec.Code != http.StatusForbidden {
				t.Errorf("%s as %s: status %d, want 403", r, role, rec.Code)
			}
		}
	}
}

// TestKeys: a key opens the routes of its scope and no others.
func TestKeys(t *testing.T) {
	w := newWorld(t)
	for _, r := range w.api.Routes() {
		if r.Access.Open() {
			continue
		}
		for _, scope := range []fleet.KeyScope{fleet.KeyScopeSD, fleet.KeyScopeAgents} {
			rec := try(w, r, request{key: "ak" + string(scope)})
			if let, may := !refused(rec), scope == r.Access.Scope(); let != may {
				t.Errorf("%s with a key for %s: let in %v, want %v", r, scope, let, may)
			}
		}
	}
}

// TestNarrowedToken: a token's own role takes permissions away, and gives none.
func TestNarrowedToken(t *testing.T) {
	w := newWorld(t)
	for user, narrow := range map[fleet.Role]fleet.Role{fleet.RoleAdmin: fleet.RoleViewer, fleet.RoleViewer: fleet.RoleAdmin} {
		tok := w.store.tokens["t-"+string(user)]
		tok.Role = narrow
		w.store.tokens[tok.ID] = tok
	}
	for _, role := range []fleet.Role{fleet.RoleAdmin, fleet.RoleViewer} {
		if rec := w.do("POST /api/v1/user/update", request{as: role, body: `{"username":"viewer","level":0}`}); rec.Code != 403 || rec.Body.Len() != 0 {
			t.Errorf("narrowed token of %s: %d %s, want 403 and nothing", role, rec.Code, rec.Body)
		}
	}
}

// TestListeners: each route is served where the table says, and only there.
func TestListeners(t *testing.T) {
	w := newWorld(t)
	onSD := []string{"/registry/", "/endpoint/", "/agent/", "/ping", "/livez", "/readyz", "/metrics"}
	for _, r := range w.api.Routes() {
		small := slices.ContainsFunc(onSD, func(p string) bool { return r.Path == p || strings.HasSuffix(p, "/") && strings.HasPrefix(r.Path, p) })
		if got := r.Listeners&httpapi.ListenerSD != 0; got != small {
			t.Errorf("%s is on the listener of service discovery: %v, want %v", r, got, small)
		}
		if big := httpapi.ListenerHTTP | httpapi.ListenerHTTPS; r.Listeners&big != big {
			t.Errorf("%s is not on both listeners of the API", r)
		}
	}
	for _, path := range []string{"/", "/api/v1/agent/getStatus", "/v1/status", "/conn/list", "/api/v1/user/login"} {
		if rec := w.do("GET "+path, request{kind: httpapi.ListenerSD, as: fleet.RoleAdmin}); rec.Code != 404 {
			t.Errorf("GET %s on the listener of service discovery: %d, want 404", path, rec.Code)
		}
	}
}

// TestUnrouted: what is not in the table gets a proper answer.
func TestUnrouted(t *testing.T) {
	w := newWorld(t)
	for call, want := range map[string]struct {
		status      int
		contentType string
	}{
		"GET /v1/nothing":               {404, "application/problem+json"},
		"PATCH /v1/status":              {405, "application/problem+json"},
		"GET /nothing":                  {404, "text/plain; charset=utf-8"},
		"GET /api/v1/user/login":        {405, "text/plain; charset=utf-8"},
		"OPTIONS /api/v1/user/login":    {204, ""},
		"HEAD /ping":                    {200, "application/json; charset=utf-8"},
		"GET /api/v1/agent/getStatus/":  {301, "text/html; charset=utf-8"},
		"POST /api/v1/agent/addTags/":   {307, ""},
		"GET /api/v1/agent/../../../v1": {404, "text/plain; charset=utf-8"},
	} {
		rec := w.do(call, request{as: fleet.RoleAdmin})
		if rec.Code != want.status || rec.Header().Get("Content-Type") != want.contentType {
			t.Errorf("%s: %d %q, want %d %q", call, rec.Code, rec.Header().Get("Content-Type"), want.status, want.contentType)
		}
	}
	if got := w.do("GET /api/v1/user/login", request{}).Header().Get("Allow"); !strings.Contains(got, "POST") {
		t.Errorf("Allow is %q, want POST in it", got)
	}
}

// TestMetricsHaveRoutesOnly: paths that clients make up do not become labels.
func TestMetricsHaveRoutesOnly(t *testing.T) {
	w := newWorld(t)
	for i := range 50 {
		w.do(fmt.Sprintf("GET /made/up/%d", i), request{})
		w.do(fmt.Sprintf("GET /api/v1/agent/getStatus/%d", i), request{as: fleet.RoleViewer})
	}
	n, err := testutil.GatherAndCount(w.reg, "muster_httpapi_requests_total")
	if err != nil || n != 2 {
		t.Errorf("%d series of requests, %v, want 2", n, err)
	}
	problems, err := testutil.GatherAndLint(w.reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
}
