// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/fleet"
	"muster/httpapi"
)

func signedBody(body string) request { return request{key: "akagents", body: body} }

func TestConn(t *testing.T) {
	w := newWorld(t)
	fill(w, 4)
	if got := w.data("GET /conn/count", signedBody("")); got != 2.0 {
		t.Errorf("count: %v, want 2", got)
	}
	if diff := cmp.Diff([]any{"a0001", "a0002"}, w.data("GET /conn/list", signedBody(""))); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	delete(w.live.sessions, "a0002")
	w.golden("conn_stat", w.do("GET /conn/stat", signedBody("")))
	delete(w.live.sessions, "a0001")
	for _, call := range []string{"GET /conn/list", "GET /conn/stat"} {
		if got, ok := w.data(call, signedBody("")).([]any); !ok || len(got) != 0 {
			t.Errorf("%s without streams: %v, want []", call, got)
		}
	}
}

func TestReset(t *testing.T) {
	w := newWorld(t)
	fill(w, 10)
	got := w.data("POST /conn/reset", signedBody(`{"type":"strict","id_list":["a0001","a0000"]}`)).(map[string]any)
	detail := got["detail"].(map[string]any)
	if got["count"] != 1.0 || detail["a0001"] != "ok" || detail["a0000"] == "ok" {
		t.Errorf("strict: %v", got)
	}
	got = w.data("POST /conn/reset", signedBody(`{"type":"random","count":4}`)).(map[string]any)
	if got["count"] != 4.0 || len(got["detail"].(map[string]any)) != 4 {
		t.Errorf("random: %v", got)
	}
	for _, body := range []string{`{"type":"all"}`, `{"type":"strict"}`, `{"type":"random"}`, `{"type":"random","count":99999999}`, `[`} {
		if got := w.answer("POST /conn/reset", signedBody(body), 400); got["code"] != 2.0 || got["msg"] != "param invalid" {
			t.Errorf("%s: %v, want code 2", body, got)
		}
	}
}

const restart = `{"agent_id":"a0001","command":{"agent_ctrl":0,"task":{"name":"elkeid-agent","data_type":1060,"data":"","token":"t"}}}`

func TestCommand(t *testing.T) {
	w := newWorld(t)
	fill(w, 2)
	w.live.written = func(string) error { return nil }
	for _, path := range []string{"/command", "/command/"} {
		if got := w.answer("POST "+path, signedBody(restart), 200); got["code"] != 0.0 {
			t.Errorf("POST %s: %v, want code 0", path, got)
		}
	}
	task := sorted(w.store.tasks)[0]
	if len(w.store.tasks) != 2 || task.Kind != fleet.TaskKindCommand || task.Delivery != fleet.DeliveryOnce || task.Creator != "akagents" || task.Command.Task.Token != "t" {
		t.Errorf("stored %+v", task)
	}
	for _, id := range []string{"a0000", "nobody"} {
		got := w.answer("POST /command/", signedBody(strings.Replace(restart, "a0001", id, 1)), 200)
		if got["code"] != 3.0 || got["data"] != "agentID not found" {
			t.Errorf("to %s: %v, want code 3", id, got)
		}
	}
	if len(w.store.tasks) != 2 {
		t.Errorf("%d tasks are stored, want none for agents without a stream", len(w.store.tasks))
	}
	for _, body := range []string{
		`{"agent_id":"a0001","command":{}}`, `{"agent_id":"a0001","command":{"config":[]}}`, `{"agent_id":"a0001","command":{"agent_ctrl":3}}`,
		`{"agent_id":"","command":{"task":{"name":"x"}}}`, `{"agent_id":"a0001"}`, `"x"`,
	} {
		if got := w.answer("POST /command/", signedBody(body), 400); got["code"] != 2.0 {
			t.Errorf("%s: %v, want code 2", body, got)
		}
	}
}

// TestCommandNotWritten: after five seconds the answer is code 3 and the task
// has ended; if it was written in the last moment, the answer is 0.
func TestCommandNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		fill(w, 2)
		begun := time.Now()
		got := w.answer("POST /command/", signedBody(restart), 200)
		if got["code"] != 3.0 || !strings.Contains(got["data"].(string), "will not be sent") {
			t.Errorf("not written: %v, want code 3", got)
		}
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("answered after %s, want 5 s", took)
		}
		for _, task := range w.store.tasks {
			if task.Status != fleet.TaskFinished || task.Counts.Failed != 1 {
				t.Errorf("the task is left as %+v", task)
			}
		}
		w.live.late = true
		if got := w.answer("POST /command/", signedBody(restart), 200); got["code"] != 0.0 {
			t.Errorf("written in the last moment: %v, want code 0", got)
		}
	})
}

func TestCommandFailsAtOnce(t *testing.T) {
	for _, tt := range []struct {
		change func(w *world)
		want   float64
	}{
		{func(w *world) { w.live.written = func(string) error { return fleet.ErrOffline } }, 3},
		{func(w *world) { w.store.err = fleet.ErrUnavailable }, 3},
		{func(w *world) { w.store.err = errors.New("secret") }, 3},
	} {
		w := newWorld(t)
		fill(w, 2)
		tt.change(w)
		rec := w.do("POST /command/", signedBody(restart))
		if !strings.Contains(rec.Body.String(), `"code":3`) || strings.Contains(rec.Body.String(), "secret") {
			t.Errorf("%d %s, want code 3", rec.Code, rec.Body)
		}
	}
}

func TestDiscovery(t *testing.T) {
	w := newWorld(t)
	second := w.dir.members[0]
	second.NodeID, second.AgentAddr, second.SDAddr, second.Load.Sessions = "n2", "[2001:db8::2]:6751", "[2001:db8::2]:8088", 1
	w.dir.members = append(w.dir.members, second)
	sd := request{kind: httpapi.ListenerSD}
	w.golden("registry_detail", w.do("GET /registry/detail?name=hids_svr_grpc&count=10", sd))
	if w.dir.picked != 1 {
		t.Errorf("ranked %d times, want once", w.dir.picked)
	}
	for query, want := range map[string][]any{
		"detail?name=hids_svr_grpc&count=1":         {"192.0.2.1"},
		"detail?name=hids_svr_grpc":                 {"192.0.2.1", "2001:db8::2"},
		"detail?name=hids_svr_grpc&count=x":         {"192.0.2.1", "2001:db8::2"},
		"fetch?name=hids_svr_grpc&count=1":          {"192.0.2.1"},
		"fetch?name=hids_svr_grpc&mode=max&count=1": {"192.0.2.1"},
		"detail?name=nothing":                       {},
	} {
		ips := []any{}
		for _, s := range w.answer("GET /registry/"+query, sd, 200)["data"].([]any) {
			ips = append(ips, s.(map[string]any)["ip"])
		}
		if diff := cmp.Diff(want, ips); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
	if n := len(w.answer("GET /registry/fetch?name=hids_svr_grpc&mode=rand", sd, 200)["data"].([]any)); n != 2 {
		t.Errorf("at random: %d, want 2", n)
	}
	w.golden("registry_list", w.do("GET /registry/list", sd))
	w.golden("registry_summary", w.do("GET /registry/summary", sd))
	w.golden("endpoint_stat", w.do("GET /endpoint/stat", sd))
	w.golden("endpoint_ping", w.do("GET /endpoint/ping", sd))
	for _, query := range []string{"detail", "fetch?name=x&count=101", "fetch?name=x&count=0", "fetch?name=x&mode=best", "fetch?name=" + strings.Repeat("x", 100)} {
		if got := w.answer("GET /registry/"+query, sd, http.StatusBadRequest); got["msg"] == "" || len(got) != 1 {
			t.Errorf("%s: %v, want a msg alone", query, got)
		}
	}
}

// TestDiscoveryOfTheDying: even a node that sees nobody alive has an answer.
func TestDiscoveryOfTheDying(t *testing.T) {
	w := newWorld(t)
	w.dir.members[0].Alive = false
	for _, query := range []string{"detail?name=hids_svr_grpc&count=10", "fetch?name=hids_svr_http&mode=rand", "detail?name=muster_api"} {
		if got := w.answer("GET /registry/"+query, request{kind: httpapi.ListenerSD}, 200)["data"].([]any); len(got) != 1 {
			t.Errorf("%s: %v, want the last node", query, got)
		}
	}
}

func TestRegister(t *testing.T) {
	w := newWorld(t)
	call := func(path, body string) map[string]any {
		return w.answer("POST /registry/"+path, request{kind: httpapi.ListenerSD, key: "aksd", body: body}, 200)
	}
	const svc = `{"name":"hub","ip":"192.0.2.9","port":8091,"weight":7,"extra":{"zone":"a"}}`
	entry := map[string]any{
		"name": "hub", "ip": "192.0.2.9", "port": 8091.0, "weight": 7.0, "extra": map[string]any{"zone": "a"},
		"status": 0.0, "create_at": float64(start.Unix()), "update_at": float64(start.Unix()),
	}
	equal(t, "register", map[string]any{"msg": "ok", "data": entry}, call("register", svc))
	bare := call("register", `{"name":"hub","ip":"192.0.2.8","port":8091,"weight":3}`)["data"].(map[string]any)
	equal(t, "extra of one without", any(map[string]any{}), bare["extra"])
	w.golden("registry_detail_hub", w.do("GET /registry/detail?name=hub", request{kind: httpapi.ListenerSD}))
	for range 2 { // again does no harm
		equal(t, "evict", map[string]any{"msg": "ok", "data": nil}, call("evict", svc))
	}
	if got := w.answer("GET /registry/detail?name=hub", request{}, 200)["data"].([]any); len(got) != 1 {
		t.Errorf("after evict: %v, want one", got)
	}
	for _, body := range []string{`{"name":"hub","ip":"192.0.2.9","port":"8091"}`, `{"name":"","ip":"x","port":1}`, `{"name":"hub","ip":"x","port":0}`, `x`} {
		got := w.answer("POST /registry/register", request{key: "aksd", body: body}, 400)
		if _, ok := got["msg"].(string); !ok {
			t.Errorf("%s: %v, want a msg", body, got)
		}
	}
}
