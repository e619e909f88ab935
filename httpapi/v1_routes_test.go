// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"fmt"
	"strings"
	"testing"

	"muster/fleet"
	"muster/httpapi"
)

// Every route of /v1 wants a token that grants what the table says, in either
// header, before it looks at anything else.
func TestV1DeniesByDefault(t *testing.T) {
	w := newV1World(t)
	narrow := w.store.tokens["t-admin"]
	narrow.ID, narrow.Hash, narrow.Role = "narrow", hashText("narrow"), fleet.RoleRuleReader
	w.store.tokens["narrow"] = narrow
	for _, r := range w.api.Routes() {
		if !strings.HasPrefix(r.Path, "/v1/") {
			continue
		}
		call := r.Method + " " + strings.ReplaceAll(r.Path, ":", "")
		if r.Access.Open() {
			if call != "POST /v1/tokens" {
				t.Errorf("%s is open", call)
			}
			continue
		}
		w.v1(call, request{}, 401)
		w.v1(call, request{header: map[string]string{"Authorization": "Basic YWRtaW46c2VjcmV0"}}, 401)
		for _, role := range []fleet.Role{fleet.RoleViewer, fleet.RoleOperator, fleet.RoleTaskViewer} {
			if !role.May(r.Access.Permission()) {
				w.v1(call, request{as: role}, 403)
			}
		}
		if p := r.Access.Permission(); !fleet.RoleRuleReader.May(p) {
			w.v1(call, request{header: map[string]string{"Authorization": "bearer narrow"}}, 403)
		}
	}
}

// longInventory holds n agents, all offline but the last.
type longInventory struct {
	*fakeStore
	n      int
	looked *int
}

func (l longInventory) agent(i int) fleet.Agent {
	seen := start.Unix() - 86400
	if i == l.n-1 {
		seen = start.Unix()
	}
	return fleet.Agent{AgentReport: fleet.AgentReport{Identity: fleet.Identity{AgentID: fmt.Sprintf("%08d", i)}, SeenAt: seen}, Number: uint32(i + 1)}
}

func (l longInventory) Agent(id string) (fleet.Agent, error) {
	*l.looked++
	var i int
	_, err := fmt.Sscanf(id, "%08d", &i)
	return l.agent(i), err
}

func (l longInventory) Agents(after string, limit int) ([]fleet.Agent, error) {
	from := 0
	if after != "" {
		if _, err := fmt.Sscanf(after, "%08d", &from); err != nil {
			return nil, err
		}
		from++
	}
	var out []fleet.Agent
	for i := from; i < min(l.n, from+limit); i++ {
		out = append(out, l.agent(i))
	}
	return out, nil
}

// A filter that few agents pass must not keep a request busy with all of them.
func TestV1AgentsScanIsBounded(t *testing.T) {
	looked := 0
	w := newV1World(t, func(o *httpapi.Options) {
		o.State.Agents = longInventory{n: 25_000, looked: &looked}
	})
	q := request{as: fleet.RoleViewer}
	first := w.v1("GET /v1/agents?state=running&limit=5", q, 200)
	equal(t, "first page", []any{}, items(first, "id"))
	if looked > 20_000 {
		t.Errorf("looked at %d agents", looked)
	}
	second := w.v1(fmt.Sprintf("GET /v1/agents?state=running&limit=5&after=%s", first["next"]), q, 200)
	equal(t, "second page", []any{"00024999"}, items(second, "id"))
	if next, more := second["next"]; more {
		t.Errorf("next %v behind the last", next)
	}
	looked = 0
	w.v1("GET /v1/agents?limit=5", q, 200)
	if looked > 10 {
		t.Errorf("looked at %d agents for a page of 5", looked)
	}
}

// FuzzV1Bodies: no body makes a route fail, or answer anything but JSON.
func FuzzV1Bodies(f *testing.F) {
	calls := []string{
		"POST /v1/tokens", "POST /v1/users", "PATCH /v1/users/viewer", "POST /v1/keys", "POST /v1/tasks", "POST /v1/tasks/x/run",
		"PUT /v1/config/default", "POST /v1/agents/a1/tags", "POST /v1/tags/web/agents", "POST /v1/pki/agent-bundles",
	}
	for i, body := range []string{
		`{"username":"admin","password":"secret"}`, `{"name":"x","password":"long enough","level":-1}`, `{"role":"admin","password":"\u0000"}`,
		`{"scope":"sd","import":":"}`, `{"all":true,"command":{"task":{}}}`, `{"percent":1e308}`, `{"config":[{"name":"x","download_url":[null]}]}`,
		`{"add":["\ud800"]}`, `{"add":null}`, `{"kind":"agent","agent_id":"../x"}`, `null`, `[]`, `{`, "\xff", "",
	} {
		f.Add(byte(i), []byte(body))
	}
	f.Fuzz(func(t *testing.T, which byte, body []byte) {
		w := newWorld(t, func(o *httpapi.Options) { o.Native.AgentCertificates = issuer{} })
		w.addAgent("a1", true)
		call := calls[int(which)%len(calls)]
		rec := w.do(call, request{as: fleet.RoleAdmin, body: string(body)})
		if rec.Code >= 500 {
			t.Fatalf("%s %q: status %d: %s", call, body, rec.Code, rec.Body)
		}
		if kind := rec.Header().Get("Content-Type"); !strings.HasPrefix(kind, "application/") {
			t.Fatalf("%s %q: Content-Type %q", call, body, kind)
		}
	})
}
