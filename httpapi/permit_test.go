// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"muster/fleet"
)

// commandCase is something that agents can be told to do.
type commandCase struct {
	kind    string // of createTask
	command string // in Elkeid's words
	native  string // in those of /v1; empty where they have none
	plugin  bool   // a task of a plugin, and nothing else
}

func commandCases() map[string]commandCase {
	task := func(dataType, name string) string {
		return `{"task":{"data_type":` + dataType + `,"name":"` + name + `","data":"{}"}}`
	}
	const config = `{"config":[{"name":"driver","version":"2"}]}`
	return map[string]commandCase{
		"scan":     {"task", task("6053", "scanner"), task("6053", "scanner"), true},
		"upload":   {"task", task("1050", fleet.AgentProduct), task("1050", fleet.AgentProduct), false},
		"settings": {"task", task("1051", fleet.AgentProduct), task("1051", fleet.AgentProduct), false},
		"shutdown": {"task", task("1060", fleet.AgentProduct), task("1060", fleet.AgentProduct), false},
		"config":   {"config", config, config, false},
		"control":  {"", `{"agent_ctrl":1,` + strings.TrimPrefix(task("6053", "scanner"), "{"), "", false},
		"both":     {"", strings.TrimSuffix(config, "}") + "," + strings.TrimPrefix(task("6053", "scanner"), "{"), "", false},
	}
}

// askers are tokens that may run tasks, and whether they may change the fleet.
func askers(w *world) map[string]bool {
	for id, narrow := range map[string]fleet.Role{"narrow": fleet.RoleTaskViewer, "wide": fleet.RoleOperator} {
		tok := w.store.tokens["t-admin"]
		tok.ID, tok.Hash, tok.Role = id, hashText(id), narrow
		w.store.tokens[id] = tok
	}
	return map[string]bool{token(fleet.RoleTaskViewer): false, token(fleet.RoleOperator): true, "narrow": false, "wide": true}
}

// TestTaskPermission: who may run tasks only can give agents nothing but tasks
// of plugins, by any route; a stored task is held against what it carries.
func TestTaskPermission(t *testing.T) {
	for name, c := range commandCases() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			fill(w, 2)
			w.live.written = func(string) error { return nil }
			for tok, writes := range askers(w) {
				for _, call := range callsOf(c) {
					id := w.storeTask(c)
					q := request{header: map[string]string{"token": tok}, body: strings.ReplaceAll(call.body, "TASK", id)}
					before := len(w.store.tasks)
					rec := w.do(strings.ReplaceAll(call.call, "TASK", id), q)
					if c.plugin || writes {
						if rec.Code >= 300 || strings.HasPrefix(call.call, "POST /v1") == strings.Contains(rec.Body.String(), `"code":0`) {
							t.Errorf("%s with %s: %d %s, want it done", call.call, tok, rec.Code, rec.Body)
						}
						continue
					}
					if rec.Code != 403 || (rec.Body.Len() == 0) == strings.HasPrefix(call.call, "POST /v1") {
						t.Errorf("%s with %s: %d %s, want 403 in the route's shape", call.call, tok, rec.Code, rec.Body)
					}
					if task := w.store.tasks[id]; len(w.store.tasks) != before || task.Status != fleet.TaskCreated {
						t.Errorf("%s with %s: refused, but done: %+v", call.call, tok, task)
					}
				}
			}
			if n := counterOf(w, "muster_httpapi_refused_total", "forbidden"); (n == 0) != c.plugin {
				t.Errorf("%v refusals counted", n)
			}
		})
	}
}

// storeTask stores a task that carries the command and does not run yet.
func (w *world) storeTask(c commandCase) string {
	w.t.Helper()
	task := fleet.NewTask{ID: fmt.Sprintf("T%d", len(w.store.tasks)), Kind: fleet.TaskKindCommand, Delivery: fleet.DeliveryOnce}
	if err := json.Unmarshal([]byte(c.command), &task.Command); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.store.CreateTask(w.t.Context(), task, []string{"a0001"}); err != nil {
		w.t.Fatal(err)
	}
	return task.ID
}

// oneCall is a request that gives agents a command.
type oneCall struct{ call, body string }

// callsOf are all requests that can give agents the command.
func callsOf(c commandCase) []oneCall {
	calls := []oneCall{
		{"POST /command/", `{"agent_id":"a0001","command":` + c.command + `}`},
		{"POST /command", `{"agent_id":"a0001","command":` + c.command + `}`},
		{"POST /api/v1/agent/controlTask", `{"task_id":"TASK","action":"run","rolling_percent":1,"concurrence":1}`},
		{"POST /api/v1/agent/controlTask", `{"task_id":"TASK","action":"cancel"}`},
		{"POST /v1/tasks/TASK/run", ""},
		{"POST /v1/tasks/TASK/cancel", ""},
	}
	if c.kind != "" {
		calls = append(calls, oneCall{"POST /api/v1/agent/createTask/" + c.kind, `{"id_list":["a0001"],"data":` + c.command + `}`})
	}
	if c.kind == "task" {
		calls = append(calls, oneCall{"POST /api/v1/agent/quickTask/task", `{"agent_id":"a0001","command":` + c.command + `}`})
	}
	if c.native != "" {
		calls = append(calls,
			oneCall{"POST /v1/tasks", `{"agents":["a0001"],"command":` + c.native + `}`},
			oneCall{"POST /v1/tasks", `{"agents":["a0001"],"hold":true,"command":` + c.native + `}`})
	}
	return calls
}

// TestStreamsNeedAnOperator: closing streams is no task of a plugin.
func TestStreamsNeedAnOperator(t *testing.T) {
	w := newWorld(t)
	fill(w, 2)
	const body = `{"type":"strict","id_list":["a0001"]}`
	if rec := w.do("POST /conn/reset", request{as: fleet.RoleTaskViewer, body: body}); rec.Code != 403 || len(w.live.reset) != 0 {
		t.Errorf("as one who may run tasks: %d, closed %v", rec.Code, w.live.reset)
	}
	w.data("POST /conn/reset", operator(body))
}
