// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"muster/fleet"
	"muster/httpapi"
)

func TestV1Users(t *testing.T) {
	w := newV1World(t)
	q := func(body string) request { return request{as: fleet.RoleAdmin, body: body} }
	got := w.v1("POST /v1/users", q(`{"name":"eve","password":"long enough","role":"operator"}`), 201)
	equal(t, "user", map[string]any{
		"name": "eve", "role": "operator", "level": 2.0,
		"created_at": "2026-03-14T09:26:53Z", "password_changed_at": "2026-03-14T09:26:53Z",
	}, got)
	w.v1("POST /v1/users", q(`{"name":"eve","password":"long enough","level":3}`), 409)
	for body, field := range map[string]string{
		`{"name":"a b","password":"long enough","role":"viewer"}`:               "name",
		`{"name":"x","password":"short","role":"viewer"}`:                       "password",
		`{"name":"x","password":"long enough"}`:                                 "role",
		`{"name":"x","password":"long enough","role":"god"}`:                    "role",
		`{"name":"x","password":"long enough","level":9}`:                       "level",
		`{"name":"x","password":"long enough","role":"viewer","level":3}`:       "level",
		`{"name":"x","password":"` + strings.Repeat("x", 5000) + `","level":3}`: "password",
	} {
		equal(t, body[:min(len(body), 60)], field, w.v1("POST /v1/users", q(body), 400)["field"])
	}
	w.v1("PATCH /v1/users/eve", q(`{"role":"viewer","password":"another one"}`), 200)
	if u := w.store.users["eve"]; u.Level != 3 || u.PasswordHash != "hash:another one" {
		t.Errorf("user %+v", u)
	}
	w.v1("PATCH /v1/users/eve", q(`{}`), 400)
	w.v1("PATCH /v1/users/nobody", q(`{"level":3}`), 404)
	equal(t, "last admin", "conflict", w.v1("PATCH /v1/users/admin", q(`{"role":"viewer"}`), 409)["code"])
	w.v1("DELETE /v1/users/admin", q(""), 409)
	w.v1("DELETE /v1/users/eve", q(""), http.StatusNoContent)
	w.v1("DELETE /v1/users/eve", q(""), 404)
	page := w.v1("GET /v1/users?limit=2", q(""), 200)
	equal(t, "first page", []any{"admin", "operator"}, items(page, "name"))
	equal(t, "second page", []any{"responder", "rule-editor"}, items(w.v1("GET /v1/users?limit=2&after=operator", q(""), 200), "name"))
	if body := w.do("GET /v1/users", q("")).Body.String(); strings.Contains(body, "hash") {
		t.Errorf("a hash is shown: %s", body)
	}
}

func TestV1OwnAccount(t *testing.T) {
	w := newV1World(t)
	viewer := func(body string) request { return request{as: fleet.RoleViewer, body: body} }
	w.v1("GET /v1/users/viewer", viewer(""), 200)
	w.v1("GET /v1/users/admin", viewer(""), 403)
	w.v1("GET /v1/users/nobody", viewer(""), 403)
	w.v1("PATCH /v1/users/admin", viewer(`{"password":"long enough"}`), 403)
	w.v1("PATCH /v1/users/viewer", viewer(`{"role":"admin"}`), 403)
	equal(t, "without", "current_password", w.v1("PATCH /v1/users/viewer", viewer(`{"password":"long enough"}`), 400)["field"])
	equal(t, "wrong", "current_password", w.v1("PATCH /v1/users/viewer", viewer(`{"password":"long enough","current_password":"x"}`), 400)["field"])
	other := w.v1("POST /v1/tokens", viewer(`{"name":"other"}`), 201)["id"].(string)
	w.v1("PATCH /v1/users/viewer", viewer(`{"password":"long enough","current_password":"secret"}`), 200)
	w.v1("GET /v1/users/viewer", viewer(""), 200) // the token that asked is still good
	if _, ok := w.store.tokens[other]; ok {
		t.Error("another token outlived the password")
	}
	// An admin is asked for the own password too, but not for that of others.
	admin := request{as: fleet.RoleAdmin, body: `{"password":"long enough"}`}
	w.v1("PATCH /v1/users/admin", admin, 400)
	w.v1("PATCH /v1/users/viewer", admin, 200)
}

func TestV1Tokens(t *testing.T) {
	w := newV1World(t)
	made := w.v1("POST /v1/tokens", request{body: `{"username":"operator","password":"secret","name":"ci","role":"viewer","expires_in":3600}`}, 201)
	if made["role"] != "viewer" || made["user"] != "operator" || made["expires_at"] != "2026-03-14T10:26:53Z" {
		t.Errorf("token %v", made)
	}
	secret := made["token"].(string)
	by := func(secret, body string) request {
		return request{header: map[string]string{"Authorization": "Bearer " + secret}, body: body}
	}
	w.v1("GET /v1/status", by(secret, ""), 200)
	w.v1("POST /v1/tasks", by(secret, `{}`), 403) // narrowed
	w.v1("POST /v1/tokens", by(secret, `{"role":"operator"}`), 403)
	equal(t, "inherited", "viewer", w.v1("POST /v1/tokens", by(secret, `{}`), 201)["role"])
	wide := w.v1("POST /v1/tokens", request{body: `{"username":"viewer","password":"secret","role":"operator"}`}, 400)
	equal(t, "wider than the user's", "role", wide["field"])
	wide = w.v1("POST /v1/tokens", request{as: fleet.RoleOperator, body: `{"role":"rule-editor"}`}, 400) // less in one thing, more in another
	equal(t, "wider than the user's", "role", wide["field"])

	own := w.v1("GET /v1/tokens", by(secret, ""), 200)
	equal(t, "own", []any{"operator", "operator", "operator"}, items(own, "user"))
	w.v1("GET /v1/tokens?all=true", by(secret, ""), 403)
	w.v1("GET /v1/tokens?all=perhaps", by(secret, ""), 400)
	all := w.v1("GET /v1/tokens?all=true", request{as: fleet.RoleAdmin}, 200)
	if n := len(items(all, "id")); n != 9 {
		t.Errorf("%d tokens, want 9", n)
	}
	for _, members := range all["items"].([]any) {
		for _, hidden := range []string{"token", "hash"} {
			if _, shown := members.(map[string]any)[hidden]; shown {
				t.Errorf("%s is listed", hidden)
			}
		}
	}
	w.v1("DELETE /v1/tokens/t-admin", by(secret, ""), 404)
	w.v1("DELETE /v1/tokens/"+made["id"].(string), by(secret, ""), http.StatusNoContent)
	w.v1("GET /v1/status", by(secret, ""), 401)
	w.v1("DELETE /v1/tokens/t-viewer", request{as: fleet.RoleAdmin}, http.StatusNoContent)

	for _, body := range []string{
		`{"username":"admin"}`, `{"password":"x"}`, `{"username":"admin","password":"secret","role":"god"}`,
		`{"username":"admin","password":"secret","expires_in":59}`, `{"username":"admin","password":"secret","expires_in":99999999}`,
		`{"username":"admin","password":"secret","name":"` + strings.Repeat("x", 65) + `"}`,
	} {
		w.v1("POST /v1/tokens", request{body: body}, 400)
	}
	w.v1("POST /v1/tokens", request{body: `{}`}, 401)
	w.v1("POST /v1/tokens", request{body: `{"username":"admin","password":"wrong"}`}, 401)
	w.v1("POST /v1/tokens", request{body: `{"username":"nobody","password":"wrong"}`}, 401)
}

func TestV1TokenExpiresAndGuessingIsSlowed(t *testing.T) {
	w := newV1World(t)
	made := w.v1("POST /v1/tokens", request{body: `{"username":"viewer","password":"secret","expires_in":60}`}, 201)
	q := request{header: map[string]string{"Authorization": "Bearer " + made["token"].(string)}}
	w.pass(59 * time.Second)
	w.v1("GET /v1/status", q, 200)
	w.pass(time.Second)
	w.v1("GET /v1/status", q, 401)

	last := 0
	for range 50 {
		last = w.do("POST /v1/tokens", request{body: `{"username":"admin","password":"guess"}`}).Code
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("after 50 guesses: status %d", last)
	}
	w.v1("POST /v1/tokens", request{body: `{"username":"admin","password":"secret"}`}, 429)
}

func TestV1Keys(t *testing.T) {
	w := newV1World(t)
	q := func(body string) request { return request{as: fleet.RoleAdmin, body: body} }
	made := w.v1("POST /v1/keys", q(`{"scope":"agents","note":"ci"}`), 201)
	access, secret := made["access_key"].(string), made["secret_key"].(string)
	if len(access) < 16 || access != strings.ToLower(access) || len(secret) < 32 || string(w.store.secrets[access]) != secret {
		t.Errorf("key %v, stored %q", made, w.store.secrets[access])
	}
	imported := w.v1("POST /v1/keys", q(`{"scope":"sd","import":"OldKey:old-secret-with-some-length:and-colon"}`), 201)
	equal(t, "imported", "oldkey", imported["access_key"])
	equal(t, "secret", "old-secret-with-some-length:and-colon", string(w.store.secrets["oldkey"]))
	w.v1("POST /v1/keys", q(`{"scope":"sd","import":"oldkey:old-secret-with-some-length"}`), 409)
	for _, body := range []string{
		`{}`, `{"scope":"all"}`, `{"scope":"sd","import":"nocolon"}`, `{"scope":"sd","import":":0123456789abcdef"}`,
		`{"scope":"sd","import":"a b:0123456789abcdef"}`, `{"scope":"sd","import":"ak:short"}`,
		`{"scope":"sd","note":"` + strings.Repeat("x", 257) + `"}`,
	} {
		w.v1("POST /v1/keys", q(body), 400)
	}
	if body := w.do("GET /v1/keys", q("")).Body.String(); strings.Contains(body, "secret") {
		t.Errorf("a secret is listed: %s", body)
	}
	listed := items(w.v1("GET /v1/keys", q(""), 200), "access_key")
	if !slices.Contains(listed, any("oldkey")) || !slices.Contains(listed, any(access)) {
		t.Errorf("keys %v", listed)
	}
	w.v1("DELETE /v1/keys/OLDKEY", q(""), http.StatusNoContent)
	w.v1("DELETE /v1/keys/oldkey", q(""), 404)
}

// issuer makes certificates of paper.
type issuer struct{ err error }

func (i issuer) IssueFleet(name string) (httpapi.Bundle, error) {
	return httpapi.Bundle{CA: []byte("CA"), Cert: []byte("fleet " + name), Key: []byte("KEY"), NotAfter: start.Add(time.Hour)}, i.err
}

func (i issuer) IssueAgent(id string) (httpapi.Bundle, error) {
	return httpapi.Bundle{CA: []byte("CA"), Cert: []byte("agent " + id), Key: []byte("KEY"), NotAfter: start.Add(time.Hour)}, i.err
}

func TestV1AgentBundle(t *testing.T) {
	issue := &issuer{}
	w := newV1World(t, func(o *httpapi.Options) { o.Native.AgentCertificates = issue })
	q := func(body string) request { return request{as: fleet.RoleAdmin, body: body} }
	got := w.v1("POST /v1/pki/agent-bundles", q(`{"kind":"fleet","name":"prod"}`), 201)
	equal(t, "bundle", map[string]any{"ca": "CA", "cert": "fleet prod", "key": "KEY", "not_after": "2026-03-14T10:26:53Z"}, got)
	equal(t, "agent", "agent a1", w.v1("POST /v1/pki/agent-bundles", q(`{"kind":"agent","agent_id":"a1"}`), 201)["cert"])
	for body, field := range map[string]string{
		`{"kind":"agent","agent_id":"a b"}`:          "agent_id",
		`{"kind":"node","name":"f"}`:                 "kind",
		`{"kind":"fleet"}`:                           "name",
		`{"kind":"agent"}`:                           "agent_id",
		`{"kind":"fleet","name":"f","agent_id":"a"}`: "agent_id",
	} {
		equal(t, body, field, w.v1("POST /v1/pki/agent-bundles", q(body), 400)["field"])
	}
	w.v1("POST /v1/pki/agent-bundles", request{as: fleet.RoleOperator, body: `{"kind":"fleet","name":"f"}`}, 403)
	if !strings.Contains(w.log.String(), "agent certificate issued") || strings.Contains(w.log.String(), "KEY") {
		t.Errorf("log: %s", w.log)
	}
	issue.err = errors.New("disk on fire")
	if detail := w.v1("POST /v1/pki/agent-bundles", q(`{"kind":"fleet","name":"f"}`), 500)["detail"]; strings.Contains(fmt.Sprint(detail), "fire") {
		t.Errorf("internal text is shown: %v", detail)
	}
}

func TestV1Tasks(t *testing.T) {
	w := newV1World(t)
	for i := range 3 {
		w.addAgent(fmt.Sprintf("a%d", i), true, "web")
	}
	q := func(body string) request { return request{as: fleet.RoleOperator, body: body} }
	work := `"command":{"task":{"name":"scanner","data_type":6053,"data":"/"}}`
	one := w.v1("POST /v1/tasks", q(`{"name":"scan","agents":["a1","a0","a1"],"hold":true,"delivery":"retry","seconds":600,`+work+`}`), 201)
	id := one["id"].(string)
	equal(t, "held", "created", one["status"])
	equal(t, "targets", 2.0, one["counts"].(map[string]any)["total"])
	equal(t, "creator", "operator", one["creator"])
	got := w.store.tasks[id]
	if got.Delivery != fleet.DeliveryRetry || got.Seconds != 600 || got.Kind != fleet.TaskKindTask || got.Command.Task.DataType != fleet.DataTypeScanPath {
		t.Errorf("stored %+v", got)
	}
	w.pass(time.Second)
	two := w.v1("POST /v1/tasks", q(`{"tag":"web",`+work+`}`), 201)
	equal(t, "run at once", "running", two["status"])
	equal(t, "once by default", "once", two["delivery"])
	w.pass(time.Second)
	three := w.v1("POST /v1/tasks", q(`{"all":true,"command":{"config":[{"name":"driver","version":"2"}]}}`), 201)
	equal(t, "kind", "config", three["kind"])

	list := w.v1("GET /v1/tasks?limit=2", q(""), 200)
	equal(t, "newest first", []any{three["id"], two["id"]}, items(list, "id"))
	equal(t, "next page", []any{id}, items(w.v1(fmt.Sprintf("GET /v1/tasks?limit=2&after=%s", list["next"]), q(""), 200), "id"))

	w.v1("POST /v1/tasks/"+id+"/run", q(`{"percent":0.5,"concurrence":10}`), 200)
	got = w.store.tasks[id]
	if got.RollingPercent != 0.5 || got.Concurrence != 10 || got.JobID == "" {
		t.Errorf("run: %+v", got)
	}
	w.v1("POST /v1/tasks/"+id+"/run", q(""), 200) // a body is not needed
	equal(t, "percent", 1.0, w.store.tasks[id].RollingPercent)
	parts := w.v1("GET /v1/tasks/"+id+"/agents?limit=1", q(""), 200)
	equal(t, "first part", []any{"a0"}, items(parts, "agent_id"))
	equal(t, "second part", []any{"a1"}, items(w.v1(fmt.Sprintf("GET /v1/tasks/%s/agents?limit=1&after=%s", id, parts["next"]), q(""), 200), "agent_id"))
	w.store.subs[id][0].Result = &fleet.TaskResult{State: fleet.SubTaskFailed, DataType: 5100, Status: "failed", Message: "no", At: start.Unix()}
	w.v1("GET /v1/tasks/"+id+"/agents", q(""), 200)
	w.v1("GET /v1/tasks/"+id+"/agents?after=x", q(""), 400)
	equal(t, "cancelled", "cancelled", w.v1("POST /v1/tasks/"+id+"/cancel", q(""), 200)["status"])
	w.v1("POST /v1/tasks/"+id+"/cancel", q(""), 409)
	w.v1("POST /v1/tasks/1/run", q(""), 404)
	w.v1("GET /v1/tasks/"+id, q(""), 200)
	rec := w.do("GET /v1/tasks/"+id, q(""))
	rec.Body = bytes.NewBufferString(strings.ReplaceAll(rec.Body.String(), id, "ID"))
	w.golden("v1_task", rec)
}

func TestV1TaskRefusals(t *testing.T) {
	w := newV1World(t)
	w.addAgent("a1", true)
	work := `"command":{"task":{"name":"scanner","data_type":6053}}`
	for body, field := range map[string]string{
		`{` + work + `}`: "agents",
		`{"agents":["a1"],"all":true,` + work + `}`: "agents",
		`{"tag":"none",` + work + `}`:               "tag",
		`{"agents":["a1"]}`:                         "command.task",
		`{"agents":["a1"],"command":{"config":[]}}`: "config",
		`{"agents":["a1"],"command":{"task":{"name":"x","data_type":1},"config":[{"name":"y"}]}}`: "command",
		`{"agents":["a1"],"command":{"task":{"name":"","data_type":1}}}`:                          "command.task.name",
		`{"agents":["a1"],"delivery":"twice",` + work + `}`:                                       "delivery",
		`{"agents":["a1"],"seconds":-1,` + work + `}`:                                             "seconds",
		`{"agents":["a1"],"name":"` + strings.Repeat("x", 129) + `",` + work + `}`:                "name",
	} {
		got := w.v1("POST /v1/tasks", request{as: fleet.RoleOperator, body: body}, 400)
		equal(t, body[:min(len(body), 80)], field, got["field"])
	}
	w.v1("POST /v1/tasks", request{as: fleet.RoleOperator, body: `{"agents":["a9"],` + work + `}`}, 404)
	for _, body := range []string{`{"percent":1.1}`, `{"percent":-1}`, `{"concurrence":1000}`, `{"concurrence":-1}`} {
		w.v1("POST /v1/tasks/x/run", request{as: fleet.RoleOperator, body: body}, 400)
	}
}
