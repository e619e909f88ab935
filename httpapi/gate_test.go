// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"encoding/json"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"muster/fleet"
	"muster/httpapi"
)

// noState panics whatever it is asked.
type noState struct {
	httpapi.UserStore
	httpapi.TokenStore
	httpapi.KeyStore
	httpapi.ConfigStore
	httpapi.TagStore
	httpapi.AgentStore
	httpapi.TaskStore
	httpapi.TaskControl
	httpapi.StatusStore
}

// TestWhileStarting walks the route table of a node whose state must not be
// read: everything but health and service discovery refuses in the shape of its
// family, says why, and looks at nothing.
func TestWhileStarting(t *testing.T) {
	const reason = "it is 312 entries behind the leader"
	var none noState
	w := newWorld(t, func(o *httpapi.Options) {
		o.Starting = func() string { return reason }
		o.State = httpapi.State{
			Users: none, Tokens: none, Keys: none, Config: none, Tags: none,
			Agents: none, Tasks: none, TaskControl: none, Status: none,
		}
	})
	served := slices.DeleteFunc(httpapi.OpenRoutes(), func(r string) bool { return strings.HasPrefix(r, "POST ") })
	for _, r := range w.api.Routes() {
		if got, want := r.Stateless, slices.Contains(served, r.String()); got != want {
			t.Errorf("%s is declared to be without state: %v, want %v", r, got, want)
		}
		for name, q := range map[string]request{"nobody": {}, "admin": {as: fleet.RoleAdmin}, "key": {key: "aksd"}} {
			rec := try(w, r, q)
			if slices.Contains(served, r.String()) {
				if rec.Code >= 500 {
					t.Errorf("%s as %s: %d %s", r, name, rec.Code, rec.Body)
				}
				continue
			}
			if !gated(r.Path, rec, reason) {
				t.Errorf("%s as %s: %d %v %s, want 503 with the reason", r, name, rec.Code, rec.Header(), rec.Body)
			}
		}
	}
}

// gated tells whether the answer is 503 with the reason in the shape that the
// clients of the path know.
func gated(path string, rec *httptest.ResponseRecorder, reason string) bool {
	var body struct {
		Code   any    `json:"code"`
		Detail string `json:"detail"`
		Msg    string `json:"msg"`
		Data   string `json:"data"`
	}
	if rec.Code != 503 || rec.Header().Get("Retry-After") != "2" || json.Unmarshal(rec.Body.Bytes(), &body) != nil {
		return false
	}
	text, shaped := "", false
	switch first := strings.Split(path, "/")[1]; first {
	case "v1":
		text, shaped = body.Detail, body.Code == "not_ready" && rec.Header().Get("Content-Type") == "application/problem+json"
	case "api":
		text, shaped = body.Data, body.Code == 7.0
	case "conn", "command":
		text, shaped = body.Data, body.Code == 3.0
	case "registry":
		text, shaped = body.Msg, body.Code == nil
	}
	return shaped && strings.Contains(text, reason) && strings.Contains(text, "another node")
}

// TestStartingIsToldEverywhere: probes and people see why reads are refused,
// once, although the node's health says nothing of it.
func TestStartingIsToldEverywhere(t *testing.T) {
	reason := ""
	w := newWorld(t, func(o *httpapi.Options) { o.Starting = func() string { return reason } })
	seen := func(path string) int {
		return strings.Count(w.do("GET "+path, request{}).Body.String(), "it is quarantined")
	}
	if rec := w.do(getStatus, request{as: fleet.RoleViewer}); rec.Code != 200 || seen("/readyz")+seen("/") != 0 {
		t.Fatalf("when the state may be read: %d", rec.Code)
	}
	reason = "it is quarantined"
	for _, path := range []string{"/", "/readyz"} {
		for _, h := range []httpapi.Health{{Ready: true}, {Reasons: []string{"stopping"}}, {Ready: true, Degraded: []string{reason}}, {Reasons: []string{reason}}} {
			if w.health = h; seen(path) != 1 {
				t.Errorf("GET %s with %+v: the reason is told %d times", path, h, seen(path))
			}
		}
	}
	w.health = httpapi.Health{Ready: true}
	if rec := w.do("GET /readyz", request{}); rec.Code != 200 {
		t.Errorf("a node that takes agents is not ready: %d", rec.Code)
	}
}
