// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"muster/fleet"
	"muster/httpapi"
)

// draw puts agents on the nodes: online, offline, on two nodes for a
// moment; some nodes do not answer.
func (f *fleetWorld) draw(t *rapid.T) {
	f.clear()
	one := func(name string, of ...string) string { return rapid.SampledFrom(of).Draw(t, name) }
	for i := 1; i < len(f.nodes); i++ {
		f.peers[fmt.Sprintf("n%d", i+1)].older = rapid.IntRange(0, 7).Draw(t, "answers") == 0
	}
	for i := range rapid.IntRange(0, 40).Draw(t, "agents") {
		id := fmt.Sprintf("a%02d", i)
		ident := fleet.Identity{AgentID: id, Hostname: one("host", "web-1", "web-2", "db", ""), IntranetIPv4: []string{one("ip", "10.0.0.1", "10.0.0.2")}}
		agent := fleet.Agent{
			AgentReport: fleet.AgentReport{Identity: ident, Node: "n1", SeenAt: start.Unix() - rapid.SampledFrom([]int64{10, 7200}).Draw(t, "seen")},
			Number:      uint32(i + 1), FirstSeen: start.Unix() - 86400,
		}
		if tag := one("tag", "", "t0", "t1"); tag != "" {
			agent.Tags = []string{tag}
		}
		if idc := one("idc", "", "ams", "nyc"); idc != "" {
			agent.Facts = map[string]string{"idc": idc}
		}
		f.nodes[0].store.agents[id] = agent
		for range rapid.SampledFrom([]int{0, 1, 1, 1, 2}).Draw(t, "streams") {
			s := fleet.Session{
				Identity: ident, Epoch: uint64(rapid.IntRange(1, 5).Draw(t, "epoch")), ConnectedAt: start.Unix() - 60,
				SeenAt: start.Unix() - 1, HeartbeatAt: start.Unix() - 2, Heartbeat: map[string]string{"state": one("state", "running", "abnormal")},
			}
			s.Hostname = cmp.Or(one("new host", "", "web-3"), s.Hostname)
			for _, field := range []string{"cpu", "idc"} {
				if v := one(field, "", "1", "20", "x", "ams"); v != "" {
					s.Heartbeat[field] = v
				}
			}
			f.connect(rapid.IntRange(0, len(f.nodes)-1).Draw(t, "node"), s)
		}
	}
	f.settle()
}

var drawnFilters = []string{
	`{}`,
	`{"filter":[{"key":"status","rules":[{"operator":"$eq","value":"running"}]}]}`,
	`{"filter":[{"key":"status","rules":[{"operator":"$ne","value":"offline"}]},{"key":"idc","rules":[{"operator":"$eq","value":"ams"}]}],"condition":"$or"}`,
	`{"filter":[{"key":"cpu","rules":[{"operator":"$gte","value":2}]}]}`,
	`{"filter":[{"key":"tags","rules":[{"operator":"$eq","value":"t1"}]},{"key":"hostname","rules":[{"operator":"$regex","value":"^web"}]}]}`,
	`{"filter":[{"key":"agent_id","rules":[{"operator":"$eq","value":"a03"}]}]}`,
	`{"filter":[{"key":"agent_addr","rules":[{"operator":"$nin","value":["x"]}]}],"condition":"$nor"}`,
}

// same holds the answer of the first node against the lone one's.
func (f *fleetWorld) same(t *rapid.T, call string, q request) {
	want, got := f.lone.answer(call, q, 200), f.nodes[0].answer(call, q, 200)
	delete(got, "page_info")
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Fatalf("%s %s (-knows all +fleet):\n%s", call, q.body, diff)
	}
}

// TestFleetIsOne: lists of a cluster are those of a node that knows everything,
// page by page.
func TestFleetIsOne(t *testing.T) {
	for _, nodes := range []int{2, 4} {
		f := newFleetWorld(t, nodes)
		rapid.Check(t, func(t *rapid.T) {
			f.draw(t)
			q := url.Values{}
			q.Set("page", fmt.Sprint(rapid.IntRange(1, 4).Draw(t, "page")))
			q.Set("page_size", fmt.Sprint(rapid.IntRange(1, 15).Draw(t, "size")))
			if key := rapid.SampledFrom([]string{"", "cpu", "idc", "tags", "hostname", "status", "agent_id", "create_at"}).Draw(t, "order"); key != "" {
				q.Set("order_key", key)
				q.Set("order_value", rapid.SampledFrom([]string{"1", "-1"}).Draw(t, "direction"))
			}
			r := request{as: fleet.RoleViewer, body: rapid.SampledFrom(drawnFilters).Draw(t, "filter")}
			f.same(t, "POST /api/v1/agent/getStatus/filter?"+q.Encode(), r)
			f.same(t, "GET /api/v1/agent/getStatus?"+q.Encode(), request{as: fleet.RoleViewer})
			if _, here := f.nodes[0].live.sessions["a03"]; !here { // else the others are not asked
				f.same(t, "GET /api/v1/agent/getStatus/a03", request{as: fleet.RoleViewer})
			}
		})
	}
}

// TestFleetWalksAsOne: so are the lists of /v1, walked to their end.
func TestFleetWalksAsOne(t *testing.T) {
	for _, nodes := range []int{2, 4} {
		f := newFleetWorld(t, nodes)
		rapid.Check(t, func(t *rapid.T) {
			f.draw(t)
			q := url.Values{}
			for name, of := range map[string][]string{
				"state": {"", "", "running", "abnormal", "offline"}, "tag": {"", "", "t0", "none"},
				"hostname": {"", "", "web-", "db"}, "q": {"", "", "A1", "10.0.0.2", "we"},
			} {
				if v := rapid.SampledFrom(of).Draw(t, name); v != "" {
					q.Set(name, v)
				}
			}
			q.Set("limit", fmt.Sprint(rapid.IntRange(1, 12).Draw(t, "limit")))
			most := rapid.SampledFrom([]int{1, 3, 1000}).Draw(t, "walk")
			for _, w := range f.nodes {
				w.api.WalkAtMost(most)
			}
			if len(q) > 1 && q.Get("tag") == "" && rapid.Bool().Draw(t, "arriving") {
				id := "a40"
				f.connect(len(f.nodes)-1, fleet.Session{Identity: fleet.Identity{AgentID: id, Hostname: "web-9"}, Epoch: 1, SeenAt: start.Unix()})
				f.settle()
			}
			want, got := walkAll(f.lone, q), walkAll(f.nodes[0], q)
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Fatalf("%v (-knows all +fleet):\n%s", q, diff)
			}
		})
	}
}

// walkAll returns the items of all pages.
func walkAll(w *world, q url.Values) (items []any) {
	q.Del("after")
	for {
		page := w.answer("GET /v1/agents?"+q.Encode(), request{as: fleet.RoleViewer}, 200)
		items = append(items, page["items"].([]any)...)
		next, more := page["next"].(string)
		if !more {
			return items
		}
		if next <= q.Get("after") {
			w.t.Fatalf("%v: next %q leads nowhere", q, next)
		}
		q.Set("after", next)
	}
}

// agentOn puts an agent into the inventory, with a stream to node i.
func (f *fleetWorld) agentOn(i int, id string, cpu float64) {
	f.nodes[0].addAgent(id, true)
	s := f.nodes[0].live.sessions[id]
	delete(f.nodes[0].live.sessions, id)
	s.Heartbeat["cpu"] = fmt.Sprint(cpu)
	f.connect(i, s)
}

// TestSilentNode: it is waited for for 2 s, once a request, and named; its agents
// are shown as the inventory knows them.
func TestSilentNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetWorld(t, 4)
		for i := range 8 {
			f.agentOn(i%4, fmt.Sprintf("a%d", i), float64(i))
		}
		f.peers["n4"].silent, f.peers["n3"].older = true, true
		w := f.nodes[0]
		for _, call := range []string{
			"GET /api/v1/agent/getStatus", "GET /api/v1/agent/getStatus?order_key=cpu&order_value=-1",
			"GET /v1/agents", "GET /v1/agents?state=running", "GET /v1/agents?state=offline",
		} {
			begun := time.Now()
			rec := w.do(call, request{as: fleet.RoleViewer})
			if took := time.Since(begun); took != 2*time.Second {
				t.Errorf("%s took %v, want 2 s", call, took)
			}
			if got := rec.Header().Get(httpapi.HeaderMissing); got != "n3,n4" {
				t.Errorf("%s: header %q", call, got)
			}
			var body map[string]any
			if err := json.Unmarshal(rec.Body.Bytes(), &body); err != nil || rec.Code != 200 {
				t.Fatalf("%s: %d, %v", call, rec.Code, err)
			}
			if diff := gocmp.Diff([]any{"n3", "n4"}, body["page_info"].(map[string]any)["missing"]); diff != "" {
				t.Errorf("%s: missing (-want +got):\n%s", call, diff)
			}
		}
		list := w.answer("GET /v1/agents", request{as: fleet.RoleViewer}, 200)
		equal(t, "states", []any{"running", "running", "offline", "offline", "running", "running", "offline", "offline"}, items(list, "state"))
		equal(t, "some node that does not answer", []any{"a5", "a4", "a1", "a0", "a2", "a3", "a6", "a7"},
			toAny(idsOf(w.data("GET /api/v1/agent/getStatus?order_key=cpu&order_value=-1", request{as: fleet.RoleViewer}))))
		f.peers["n4"].silent, f.peers["n3"].older = false, false
		f.peers["n2"].gone = true
		if got := w.do("GET /v1/agents", request{as: fleet.RoleViewer}).Header().Get(httpapi.HeaderMissing); got != "n2" {
			t.Errorf("a member that nobody can ask: %q are missing", got)
		}
		f.peers["n2"].gone = false
		rec := w.do("GET /v1/agents", request{as: fleet.RoleViewer})
		if rec.Header().Get(httpapi.HeaderMissing) != "" || strings.Contains(rec.Body.String(), "page_info") {
			t.Errorf("when all answer: %v %s", rec.Header(), rec.Body)
		}
	})
}

func toAny(ids []string) (out []any) {
	for _, id := range ids {
		out = append(out, id)
	}
	return out
}

// TestOneAgentAnywhere: single agents are found at once, even if another node is
// silent; only if nobody has it the silent one is waited for.
func TestOneAgentAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetWorld(t, 3)
		f.agentOn(0, "a0", 0)
		f.agentOn(1, "a1", 0.5)
		f.nodes[0].addAgent("a2", false)
		delete(f.nodes[0].store.agents, "a1") // it has just connected
		f.peers["n3"].silent = true
		w, q := f.nodes[0], request{as: fleet.RoleViewer}
		for id, want := range map[string]time.Duration{"a0": 0, "a1": 100 * time.Millisecond, "a2": 2 * time.Second, "nobody": 2 * time.Second} {
			begun := time.Now()
			rec := w.do("GET /v1/agents/"+id, q)
			if took := time.Since(begun); took != want || rec.Code != map[bool]int{true: 404, false: 200}[id == "nobody"] {
				t.Errorf("%s: %d after %v, want %v", id, rec.Code, took, want)
			}
			if missing := rec.Header().Get(httpapi.HeaderMissing); (missing == "n3") != (want == 2*time.Second) {
				t.Errorf("%s: missing %q", id, missing)
			}
		}
		doc := w.data("GET /api/v1/agent/getStatus/a1", q).(map[string]any)
		if doc["cpu"] != 0.5 {
			t.Errorf("a1: %v", doc)
		}
	})
}

func TestResetAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetWorld(t, 3)
		f.agentOn(1, "a1", 0)
		f.nodes[0].addAgent("a2", false)
		w, q := f.nodes[0], request{as: fleet.RoleOperator}
		w.do("POST /v1/agents/a1/reset", q)
		if !slices.Equal(f.nodes[1].live.reset, []string{"a1"}) {
			t.Errorf("node 2 has reset %v", f.nodes[1].live.reset)
		}
		for id, want := range map[string]int{"a1": 204, "a2": 409, "nobody": 404} {
			if rec := w.do("POST /v1/agents/"+id+"/reset", q); rec.Code != want {
				t.Errorf("%s: %d %s, want %d", id, rec.Code, rec.Body, want)
			}
		}
		f.peers["n3"].silent = true
		for id, want := range map[string]int{"a1": 204, "a2": 504} {
			if rec := w.do("POST /v1/agents/"+id+"/reset", q); rec.Code != want || rec.Header().Get(httpapi.HeaderMissing) != "n3" {
				t.Errorf("%s with a silent node: %d %s, want %d", id, rec.Code, rec.Body, want)
			}
		}
	})
}

// TestFilterChoosesAnywhere: what is done to the agents that a filter chooses is
// done to those of all nodes.
func TestFilterChoosesAnywhere(t *testing.T) {
	f := newFleetWorld(t, 3)
	for i := range 6 {
		f.agentOn(i%3, fmt.Sprintf("a%d", i), float64(i))
	}
	w := f.nodes[0]
	filter := `{"filter":[{"key":"cpu","rules":[{"operator":"$gte","value":3}]}]}`
	got := w.data("POST /api/v1/agent/addTags/filter?tag=hot", request{as: fleet.RoleOperator, body: filter})
	equal(t, "tagged", any(map[string]any{"count": 3.0}), got)
	ids, _ := w.store.AgentsByTag("hot")
	equal(t, "tagged", []string{"a3", "a4", "a5"}, ids)
	task := `{"task_name":"x","action":"y","data":{"task":{"name":"driver","data_type":1,"data":"z"}},"filter":` + filter + `}`
	got = w.data("POST /api/v1/agent/createTask/task", request{as: fleet.RoleOperator, body: task})
	if n := got.(map[string]any)["count"]; n != 3.0 {
		t.Errorf("a task for %v agents, want 3", n)
	}
}

// TestSearchIsBounded: how many agents other nodes are asked about depends on
// the page, not on the fleet.
func TestSearchIsBounded(t *testing.T) {
	f := newFleetWorld(t, 2)
	for i := range 500 {
		f.agentOn(1, fmt.Sprintf("a%03d", i), float64(i%7))
	}
	w, p := f.nodes[0], f.peers["n2"]
	for call, searches := range map[string]int{
		"GET /api/v1/agent/getStatus?page=3&page_size=20":                             0,
		"GET /api/v1/agent/getStatus?page=3&page_size=20&order_key=cpu&order_value=1": 1,
		"GET /v1/agents?limit=20&after=a300":                                          0,
		"GET /v1/agents?limit=20&after=a300&state=running":                            1,
	} {
		p.searches, p.sessions, p.looked = 0, 0, 0
		w.answer(call, request{as: fleet.RoleViewer}, 200)
		if p.searches != searches || p.sessions != 1 || p.looked != 20 {
			t.Errorf("%s: %d searches, %d calls for the sessions of %d agents", call, p.searches, p.sessions, p.looked)
		}
	}
	for name, s := range map[string]fleet.AgentSearch{"sorted": {Order: "cpu", Limit: 10}, "walk": {Walk: 100, Limit: 10, After: "a100"}} {
		hits, err := f.nodes[1].api.SearchAgents(t.Context(), s)
		if err != nil || len(hits.Hits) != 10 || (hits.Upto == "") != (name == "sorted") {
			t.Errorf("%s: %d hits up to %q, %v", name, len(hits.Hits), hits.Upto, err)
		}
	}
	if _, err := w.api.SearchAgents(t.Context(), fleet.AgentSearch{Limit: -1}); err == nil {
		t.Error("a malformed search was carried out")
	}
	deep := w.answer("GET /api/v1/agent/getStatus?page=99999&page_size=5000&order_key=cpu&order_value=1", request{as: fleet.RoleViewer}, 200)
	if ids := idsOf(deep["data"]); len(ids) != 0 {
		t.Errorf("a page behind the end: %v", ids)
	}
}

const toAgent = `{"agent_id":"%s","command":{"task":{"name":"driver","data_type":1,"data":"z","token":"t"}}}`

// TestCommandAnywhere: a command goes to the node that holds the stream, and
// nothing is stored for an agent that nobody holds.
func TestCommandAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetWorld(t, 3)
		f.agentOn(1, "a1", 0)
		f.nodes[0].addAgent("a2", false)
		w := f.nodes[0]
		send := func(id string) (code any, data string, took time.Duration) {
			begun := time.Now()
			got := w.answer("POST /command/", signedBody(fmt.Sprintf(toAgent, id)), 200)
			data, _ = got["data"].(string)
			return got["code"], data, time.Since(begun)
		}
		f.nodes[1].live.written = func(string) error { return nil }
		if code, data, _ := send("a1"); code != 0.0 || f.peers["n2"].awaits != 1 || len(w.store.tasks) != 1 {
			t.Errorf("to an agent elsewhere: %v %s, %d tasks", code, data, len(w.store.tasks))
		}
		for _, id := range []string{"a2", "nobody"} {
			if code, data, took := send(id); code != 3.0 || data != "agentID not found" || took != 0 || len(w.store.tasks) != 1 {
				t.Errorf("to %s: %v %s after %v", id, code, data, took)
			}
		}
		f.nodes[1].live.written = nil
		code, data, took := send("a1")
		if code != 3.0 || !strings.Contains(data, "will not be sent") || took != 5*time.Second {
			t.Errorf("not written: %v %s after %v", code, data, took)
		}
		failed := 0
		for _, task := range w.store.tasks {
			failed += task.Counts.Failed
		}
		if failed != 1 {
			t.Errorf("%d tasks have failed, want the one that was not written", failed)
		}
		f.nodes[1].live.late = true
		if code, data, _ := send("a1"); code != 0.0 {
			t.Errorf("written in the last moment: %v %s", code, data)
		}
		f.nodes[1].live.written, f.nodes[1].live.late = func(string) error { return fleet.ErrOffline }, false
		if code, data, _ := send("a1"); code != 3.0 || !strings.Contains(data, "will not be sent") {
			t.Errorf("a stream that broke: %v %s", code, data)
		}
	})
}

// TestCommandWithoutHolder: a node that answered for its sessions and then is
// silent gets nothing stored for it.
func TestCommandWithoutHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetWorld(t, 3)
		f.agentOn(1, "a1", 0)
		w := f.nodes[0]
		peer := f.peers["n2"]
		peer.awaitFails = true
		got := w.answer("POST /command/", signedBody(fmt.Sprintf(toAgent, "a1")), 200)
		if text, _ := got["data"].(string); got["code"] != 3.0 || !strings.Contains(text, "node n2") || len(w.store.tasks) != 0 {
			t.Errorf("%v, %d tasks", got, len(w.store.tasks))
		}
		peer.silent = true
		begun := time.Now()
		rec := w.do("POST /command/", signedBody(fmt.Sprintf(toAgent, "a1")))
		if !strings.Contains(rec.Body.String(), `"code":3`) || rec.Header().Get(httpapi.HeaderMissing) != "n2" || time.Since(begun) != 2*time.Second {
			t.Errorf("held by a silent node: %s %v after %v", rec.Body, rec.Header(), time.Since(begun))
		}
		if len(w.store.tasks) != 0 {
			t.Errorf("%d tasks are stored", len(w.store.tasks))
		}
	})
}

// FuzzReadSet: a set that another node sends is read or refused, and is then
// what it is.
func FuzzReadSet(f *testing.F) {
	for _, numbers := range [][]uint32{{}, {1}, {1, 2, 3, 70_000, 1 << 31}} {
		b, err := httpapi.WriteSet(roaring.BitmapOf(numbers...))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		set, err := httpapi.ReadSet(b)
		if err != nil {
			return
		}
		again, err := httpapi.WriteSet(set)
		if err != nil {
			t.Fatal(err)
		}
		back, err := httpapi.ReadSet(again)
		if err != nil || !back.Equals(set) {
			t.Fatalf("%x is read as %v, again as %v, %v", b, set, back, err)
		}
	})
}

// TestSearchWithSeveralHands: a search is the same however many do it, and again
// when the numbers of the agents are known.
func TestSearchWithSeveralHands(t *testing.T) {
	f := newFleetWorld(t, 1)
	for i := range 2503 {
		f.agentOn(0, fmt.Sprintf("a%04d", i*7919%10000), float64(i*31%1009))
	}
	w := f.nodes[0]
	delete(w.store.agents, "a0000") // just connected
	s := fleet.AgentSearch{
		Filters: []fleet.Filter{{Keys: []fleet.FilterKey{{Key: "cpu", Rules: []fleet.FilterRule{{Operator: "$gte", Value: 100.0}}}}}},
		Order:   "cpu", Descending: true, Limit: 321,
	}
	w.api.SearchWith(1)
	want, err := w.api.SearchAgents(t.Context(), s)
	if err != nil || len(want.Hits) != 321 {
		t.Fatalf("%d hits, %v", len(want.Hits), err)
	}
	held, err := httpapi.ReadSet(want.Held)
	if err != nil || held.GetCardinality() != 2502 {
		t.Errorf("%d agents are held, %v", held.GetCardinality(), err)
	}
	for _, hands := range []int{1, 2, 5} {
		w.api.SearchWith(hands)
		got, err := w.api.SearchAgents(t.Context(), s)
		if diff := gocmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("with %d hands: %v (-one +now):\n%s", hands, err, diff)
		}
	}
}

// FuzzAgentSearch: what another node asks is answered or refused.
func FuzzAgentSearch(f *testing.F) {
	for i, filter := range drawnFilters {
		f.Add([]byte(fmt.Sprintf(`{"filters":[%s],"limit":%d,"walk":%d}`, filter, i, i%2)))
		f.Add([]byte(fmt.Sprintf(`{"filters":[%s,%s],"order":"cpu","descending":true,"limit":3}`, filter, drawnFilters[0])))
	}
	f.Add([]byte(`{"order":"plugins.name","after":"a2","limit":20001}`))
	w := newFleetWorld(f, 1)
	for i := range 5 {
		w.agentOn(0, fmt.Sprintf("a%d", i), float64(i))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s fleet.AgentSearch
		if json.Unmarshal(b, &s) != nil {
			return
		}
		hits, err := w.nodes[0].api.SearchAgents(t.Context(), s)
		switch _, refused := errors.AsType[*fleet.Refusal](err); {
		case err != nil && !refused:
			t.Fatalf("%s: %v", b, err)
		case len(hits.Hits) > s.Limit:
			t.Fatalf("%s: %d hits", b, len(hits.Hits))
		case !slices.IsSortedFunc(hits.Hits, s.Compare):
			t.Fatalf("%s: hits in no order: %v", b, hits.Hits)
		}
	})
}

// TestLongSortKeys: texts that are long, or cut within a letter, and lists are
// sorted on a fleet as on one node.
func TestLongSortKeys(t *testing.T) {
	f := newFleetWorld(t, 3)
	for i, detail := range []string{"b", "a" + strings.Repeat("ü", 300), "a" + strings.Repeat("ü", 299) + "a", "a" + strings.Repeat("ü", 200), "", strings.Repeat("c", 5000), "ab"} {
		id := fmt.Sprintf("a%d", i)
		f.agentOn(i%3, id, 1)
		s := f.nodes[i%3].live.sessions[id]
		s.Heartbeat["state_detail"] = detail
		s.IntranetIPv4 = []string{detail, "10.0.0.1"}[i%2:]
		f.connect(i%3, s)
	}
	f.settle()
	for _, order := range []string{"state_detail", "intranet_ipv4", "plugins.name"} {
		for _, direction := range []string{"1", "-1"} {
			call := "GET /api/v1/agent/getStatus?order_key=" + order + "&order_value=" + direction
			q := request{as: fleet.RoleViewer}
			want, got := idsOf(f.lone.data(call, q)), idsOf(f.nodes[0].data(call, q))
			if diff := gocmp.Diff(want, got); diff != "" || len(got) != 7 {
				t.Errorf("%s %s (-knows all +fleet):\n%s", order, direction, diff)
			}
		}
	}
	hits, err := f.nodes[1].api.SearchAgents(t.Context(), fleet.AgentSearch{Order: "state_detail", Limit: 9})
	if b, _ := json.Marshal(hits); err != nil || len(b) > 1000 {
		t.Errorf("%d bytes of hits, %v", len(b), err)
	}
}
