// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/fleet"
	"muster/httpapi"
)

func TestAgentDocuments(t *testing.T) {
	w := newWorld(t)
	w.addAgent("a-live", true, "prod", "web")
	w.addAgent("a-off", false)
	w.store.config = fleet.DefaultConfig{Revision: 1, Items: []fleet.ConfigItem{{Name: "driver", Type: "exec", Version: "1.7.0.4", DownloadURL: []string{}}}}
	w.golden("agent_live", w.do("GET /api/v1/agent/getStatus/a-live", request{as: fleet.RoleViewer}))
	w.golden("agent_offline", w.do("GET /api/v1/agent/getStatus/a-off", request{as: fleet.RoleViewer}))
	got := w.answer("GET /api/v1/agent/getStatus/none", request{as: fleet.RoleViewer}, http.StatusOK)
	if got["code"] != 3.0 || got["msg"] != "db operate error" {
		t.Errorf("unknown agent: %v, want code 3", got)
	}
	delete(w.store.agents, "a-live")
	doc := w.data("GET /api/v1/agent/getStatus/a-live", request{as: fleet.RoleViewer}).(map[string]any)
	if doc["cpu"] != 0.0125 || doc["agent_addr"] != "192.0.2.7:50123" {
		t.Errorf("an agent that the inventory does not have yet: %v", doc)
	}
}

// TestAgentCannotPose: what an agent calls its heartbeat's fields does not
// overwrite what the server knows.
func TestAgentCannotPose(t *testing.T) {
	w := newWorld(t)
	w.addAgent("a1", true)
	s := w.live.sessions["a1"]
	s.Heartbeat["agent_id"], s.Heartbeat["tags"], s.Heartbeat["source_ip"] = "a2", "admin", "6.6.6.6"
	doc := w.data("GET /api/v1/agent/getStatus/a1", request{as: fleet.RoleViewer}).(map[string]any)
	if doc["agent_id"] != "a1" || doc["source_ip"] != "192.0.2.1" || len(doc["tags"].([]any)) != 0 {
		t.Errorf("document %v", doc)
	}
}

// fill adds n agents a0000, a0001 ...; each third is offline.
func fill(w *world, n int) {
	for i := range n {
		w.addAgent(fmt.Sprintf("a%04d", i), i%3 != 0, fmt.Sprintf("t%d", i%2))
	}
}

func idsOf(page any) (ids []string) {
	for _, item := range page.(map[string]any)["items"].([]any) {
		ids = append(ids, item.(map[string]any)["agent_id"].(string))
	}
	return ids
}

func TestAgentPages(t *testing.T) {
	w := newWorld(t)
	fill(w, 2500)
	var seen []string
	for page := 1; ; page++ {
		data := w.data(fmt.Sprintf("GET /api/v1/agent/getStatus?page=%d&page_size=999", page), request{as: fleet.RoleViewer})
		seen = append(seen, idsOf(data)...)
		p := data.(map[string]any)
		if p["total"] != 2500.0 || p["pages"] != 3.0 || p["has_prev"] != (page > 1) || p["has_next"] != (page < 3) {
			t.Fatalf("page %d: %v", page, p)
		}
		if p["has_next"] == false {
			break
		}
	}
	if len(seen) != 2500 || !slices.IsSorted(seen) || len(slices.Compact(seen)) != 2500 {
		t.Errorf("three pages hold %d agents, want each of 2500 once, in order", len(seen))
	}
	data := w.data("GET /api/v1/agent/getStatus?page=99", request{as: fleet.RoleViewer})
	if ids := idsOf(data); len(ids) != 0 {
		t.Errorf("page behind the end: %v", ids)
	}
	sorted := idsOf(w.data("GET /api/v1/agent/getStatus?page_size=5000&order_key=agent_id&order_value=-1", request{as: fleet.RoleViewer}))
	if len(sorted) != 2500 || sorted[0] != "a2499" || sorted[2499] != "a0000" {
		t.Errorf("by agent_id downwards: %d from %s", len(sorted), sorted[0])
	}
}

func TestPageRefusals(t *testing.T) {
	w := newWorld(t)
	for _, query := range []string{"page=0", "page=-1", "page=x", "page_size=0", "page_size=5001", "page=99999999999999999999"} {
		for _, call := range []string{"GET /api/v1/agent/getStatus?", "POST /api/v1/agent/getStatus/filter?", "POST /api/v1/agent/getTask/filter?", "POST /api/v1/agent/getSubTask/filter?"} {
			got := w.answer(call+query, request{as: fleet.RoleViewer, body: `{}`}, http.StatusBadRequest)
			if got["code"] != 5.0 || !strings.Contains(got["data"].(string), "is not a number between 1 and") {
				t.Errorf("%s%s: %v, want code 5", call, query, got)
			}
		}
	}
}

func TestAgentFilters(t *testing.T) {
	w := newWorld(t)
	fill(w, 12)
	w.store.config = fleet.DefaultConfig{Revision: 1, Items: []fleet.ConfigItem{{Name: "driver", Version: "9"}}}
	for filter, want := range map[string][]string{
		`{}`: {"a0000", "a0001", "a0002"},
		`{"filter":[{"key":"agent_id","rules":[{"operator":"$eq","value":"a0007"}]}]}`:                                                                                       {"a0007"},
		`{"filter":[{"key":"agent_id","rules":[{"operator":"$eq","value":"none"}]}]}`:                                                                                        nil,
		`{"filter":[{"key":"tags","rules":[{"operator":"$eq","value":"t1"}]}]}`:                                                                                              {"a0001", "a0003", "a0005"},
		`{"filter":[{"key":"agent_addr","rules":[{"operator":"$ne","value":""}]}]}`:                                                                                          {"a0001", "a0002", "a0004"},
		`{"filter":[{"key":"status","rules":[{"operator":"$in","value":["offline"]}]},{"key":"tags","rules":[{"operator":"$nin","value":["t0"]}]}]}`:                         {"a0003", "a0009"},
		`{"filter":[{"key":"agent_id","rules":[{"operator":"$regex","value":"[45]$"}]},{"key":"agent_id","rules":[{"operator":"$gte","value":"a0011"}]}],"condition":"$or"}`: {"a0004", "a0005", "a0011"},
		`{"filter":[{"key":"cpu","rules":[{"operator":"$gt","value":0.01},{"operator":"$lt","value":0.02}],"condition":"$and"}]}`:                                            {"a0001", "a0002", "a0004"},
		`{"filter":[{"key":"plugins.pversion","rules":[{"operator":"$regex","value":"^1\\.7"}]}]}`:                                                                           {"a0000", "a0001", "a0002"},
		`{"filter":[{"key":"config.version","rules":[{"operator":"$ne","value":"9"}]}]}`:                                                                                     nil,
		`{"filter":[{"key":"nproc","rules":[{"operator":"$eq","value":4}]}]}`:                                                                                                {"a0000", "a0001", "a0002"},
	} {
		got := idsOf(w.data("POST /api/v1/agent/getStatus/filter?page_size=3", request{as: fleet.RoleViewer, body: filter}))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", filter, diff)
		}
	}
	got := w.answer("POST /api/v1/agent/getStatus/filter", request{as: fleet.RoleViewer, body: `{"filter":[{"key":"a","rules":[{"operator":"$where","value":1}]}]}`}, 400)
	if text := got["data"].(string); got["code"] != 5.0 || !strings.Contains(text, `"$where" is none of $eq,`) {
		t.Errorf("unknown operator: %v", got)
	}
}

func TestTags(t *testing.T) {
	w := newWorld(t)
	fill(w, 4)
	op := func(body string) request { return request{as: fleet.RoleOperator, body: body} }
	if got := w.data("POST /api/v1/agent/addTags", op(`{"tag":"new","id_list":["a0000","a0001","nobody"]}`)); got != nil {
		t.Errorf("addTags: %v, want null", got)
	}
	w.data("POST /api/v1/agent/addTags", op(`{"tag":"lan","ipv4_list":["10.0.0.1"]}`))
	w.data("POST /api/v1/agent/addTags", op(`{"tag":"six","ipv6_list":["fd00::1"]}`))
	w.data("POST /api/v1/agent/delTags", op(`{"tag":"new","id_list":["a0000"]}`))
	count := w.data("POST /api/v1/agent/addTags/filter?tag=odd", op(`{"filter":[{"key":"tags","rules":[{"operator":"$eq","value":"t1"}]}]}`))
	if count.(map[string]any)["count"] != 2.0 {
		t.Errorf("addTags/filter: %v, want 2", count)
	}
	if diff := cmp.Diff([]any{"lan", "new", "odd", "six", "t0", "t1"}, w.data("GET /api/v1/agent/getTags", op(""))); diff != "" {
		t.Errorf("getTags (-want +got):\n%s", diff)
	}
	got := w.data("POST /api/v1/agent/getTags", op(`{"id_list":["a0000","a0001","nobody"]}`))
	if diff := cmp.Diff(map[string]any{"a0000": "lan,six,t0", "a0001": "lan,new,odd,six,t1"}, got); diff != "" {
		t.Errorf("getTags of agents (-want +got):\n%s", diff)
	}
	for _, body := range []string{`{"tag":"","id_list":["a"]}`, `{"tag":"a,b","id_list":["a"]}`, `{"tag":"x"}`, `{"tag":"` + strings.Repeat("x", 129) + `","id_list":["a"]}`} {
		if got := w.answer("POST /api/v1/agent/addTags", op(body), 400); got["code"] != 5.0 {
			t.Errorf("%s: %v, want code 5", body, got)
		}
	}
}

// TestFilterWithoutRules: an entry that asks nothing, as a misspelt one does, is
// refused; it would choose the whole fleet. No entries choose all where all may
// be meant.
func TestFilterWithoutRules(t *testing.T) {
	w := newWorld(t)
	fill(w, 3)
	for _, entry := range []string{`{"key":"tags"}`, `{"key":"tags","rules":null}`, `{"key":"tags","rules":[]}`, `{"key":"tags","rule":[{"operator":"$eq","value":"t1"}]}`} {
		for call, body := range map[string]string{
			"POST /api/v1/agent/addTags/filter?tag=x": `{"filter":[` + entry + `]}`,
			"POST /api/v1/agent/getStatus/filter":     `{"filter":[` + entry + `]}`,
			"POST /api/v1/agent/getTask/filter":       `{"filter":[` + entry + `]}`,
			"POST /api/v1/agent/getSubTask/filter":    `{"filter":[` + entry + `]}`,
			"POST /api/v1/agent/createTask/task":      `{"id_list":["a0001"],"filter":{"filter":[` + entry + `]},` + scanTask + `}`,
		} {
			got := w.answer(call, operator(body), 400)
			text, _ := got["data"].(string)
			if got["code"] != 5.0 || !strings.Contains(text, `"tags" has no rules`) && !strings.Contains(text, `unknown field "rule"`) {
				t.Errorf("%s %s: %v, want code 5", call, body, got)
			}
		}
	}
	if got := w.answer("POST /api/v1/agent/addTags/filter?tag=x", operator(`{"filtre":[]}`), 400); got["code"] != 5.0 {
		t.Errorf("a misspelt member: %v, want code 5", got)
	}
	if len(w.store.tasks) != 0 || slices.ContainsFunc(sorted(w.store.agents), func(a fleet.Agent) bool { return slices.Contains(a.Tags, "x") }) {
		t.Error("something was done by a refused filter")
	}
	for _, body := range []string{`{}`, `{"filter":[]}`, `{"filter":null}`} {
		if ids := idsOf(w.data("POST /api/v1/agent/getStatus/filter", operator(body))); len(ids) != 3 {
			t.Errorf("getStatus/filter %s: %v, want all", body, ids)
		}
		if got := w.data("POST /api/v1/agent/addTags/filter?tag=all", operator(body)); got.(map[string]any)["count"] != 3.0 {
			t.Errorf("addTags/filter %s: %v, want all", body, got)
		}
	}
}

func TestDefaultConfig(t *testing.T) {
	w := newWorld(t)
	op := func(body string) request { return request{as: fleet.RoleOperator, body: body} }
	if got := w.data("GET /api/v1/agent/getDefaultConfig", op("")); len(got.([]any)) != 0 {
		t.Errorf("before the first: %v, want []", got)
	}
	w.golden("default_config", w.do("POST /api/v1/agent/updateDefaultConfig", op(`{"type":"agent_default","version":"1","config":[{"name":"driver","type":"exec","version":"1.7","download_url":["https://x/y"]},{"name":"scanner"}]}`)))
	if got := w.data("GET /api/v1/agent/getDefaultConfig", op("")); len(got.([]any)) != 2 {
		t.Errorf("after: %v, want two items", got)
	}
	for body, says := range map[string]string{
		`{"type":"x","config":[]}`:  "deletes all its plugins",
		`{"type":"x"}`:              "deletes all its plugins",
		`{"config":[{"name":"a"}]}`: "type",
		`{"type":"x","config":[{"name":"a","download_urls":["x"]}]}`: "unknown field",
		`{"type":"x","config":[{"name":"a"},{"name":"a"}]}`:          "twice",
		`{"type":"x","config":[{"name":"a","sha256":"zz"}]}`:         "SHA-256",
	} {
		got := w.answer("POST /api/v1/agent/updateDefaultConfig", op(body), 400)
		if text := got["data"].(string); got["code"] != 5.0 || !strings.Contains(text, says) {
			t.Errorf("%s: %v, want code 5 and %q", body, got, says)
		}
	}
}

func TestBodyLimit(t *testing.T) {
	w := newWorld(t, func(o *httpapi.Options) { o.MaxBodyBytes = 100 })
	long := `{"tag":"x","id_list":["` + strings.Repeat("a", 100) + `"]}`
	if got := w.answer("POST /api/v1/agent/addTags", request{as: fleet.RoleOperator, body: long}, 413); got["code"] != 5.0 || !strings.Contains(got["data"].(string), "100 bytes") {
		t.Errorf("long body: %v", got)
	}
	if rec := w.do("POST /conn/reset", request{key: "akagents", body: long}); rec.Code != 413 {
		t.Errorf("long signed body: %d, want 413", rec.Code)
	}
}

func TestPanicIsCaught(t *testing.T) {
	w := newWorld(t, func(o *httpapi.Options) { o.Live.Sessions = panicky{} })
	rec := w.do("GET /conn/count", request{as: fleet.RoleViewer})
	if rec.Code != 500 || strings.Contains(rec.Body.String(), "oh no") {
		t.Errorf("%d %s, want 500 without the reason", rec.Code, rec.Body)
	}
	if log := w.log.String(); !strings.Contains(log, "oh no") || !strings.Contains(log, "connCount") {
		t.Errorf("log %q, want the panic and its stack", log)
	}
}

// panicky panics at every call.
type panicky struct{ *fakeLive }

func (panicky) SessionCount() int { panic("oh no") }
