// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/httpapi"
)

// arrivals are requests that name a1, with the answer while it is unknown.
func arrivals() map[string]struct {
	call, body      string
	status, unknown int
} {
	const task = `{"task":{"data_type":6053,"name":"scanner","data":"{}"}}`
	return map[string]struct {
		call, body      string
		status, unknown int
	}{
		"addTags":     {"POST /api/v1/agent/addTags", `{"tag":"new","id_list":["a1"]}`, 200, 200},
		"createTask":  {"POST /api/v1/agent/createTask/task", `{"id_list":["a1"],"data":` + task + `}`, 200, 200},
		"quickTask":   {"POST /api/v1/agent/quickTask/task", `{"agent_id":"a1","command":` + task + `}`, 200, 200},
		"command":     {"POST /command/", `{"agent_id":"a1","command":` + task + `}`, 200, 200},
		"v1 task":     {"POST /v1/tasks", `{"agents":["a1"],"command":` + task + `}`, 201, 404},
		"v1 tag one":  {"POST /v1/agents/a1/tags", `{"add":["new"]}`, 200, 409},
		"v1 tag many": {"POST /v1/tags/new/agents", `{"add":["a1"]}`, 200, 200},
	}
}

// done tells whether the request for a1 had its effect.
func (w *world) done() bool {
	return len(w.store.tasks) == 1 || len(w.store.agents["a1"].Tags) == 1
}

// TestAgentsArrive: an agent that has a stream but is not in the inventory yet
// is waited for, wherever a client names it.
func TestAgentsArrive(t *testing.T) {
	for name, tt := range arrivals() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.live.written = func(string) error { return nil }
				w.addAgent("a1", true)
				a1 := w.store.agents["a1"]
				delete(w.store.agents, "a1")
				begun := time.Now()
				time.AfterFunc(150*time.Millisecond, func() {
					w.store.mu.Lock()
					defer w.store.mu.Unlock()
					w.store.agents["a1"] = a1
				})
				rec := w.do(tt.call, operator(tt.body))
				if took := time.Since(begun); rec.Code != tt.status || took < 150*time.Millisecond || took > 200*time.Millisecond {
					t.Errorf("after %s: %d %s, want %d", took, rec.Code, rec.Body, tt.status)
				}
				if !w.done() {
					t.Errorf("nothing was done: %s", rec.Body)
				}
			})
		})
	}
}

// TestAgentsDoNotArrive: the wait ends after 2 s, or with the request; who has
// no stream is not waited for.
func TestAgentsDoNotArrive(t *testing.T) {
	for name, tt := range arrivals() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, c := range []struct {
					limit, want time.Duration
					status      int
				}{{0, 2 * time.Second, tt.unknown}, {time.Second, time.Second, 504}} {
					w := newWorld(t, func(o *httpapi.Options) { o.RequestTimeout = c.limit })
					w.addAgent("a1", true)
					delete(w.store.agents, "a1")
					begun := time.Now()
					rec := w.do(tt.call, operator(tt.body))
					status := c.status
					if name == "command" {
						status = 200 // its family answers nothing else
					}
					if took := time.Since(begun); took != c.want || rec.Code != status || w.done() {
						t.Errorf("after %s: %d %s, want %d after %s", took, rec.Code, rec.Body, status, c.want)
					}
				}
				w := newWorld(t)
				begun := time.Now()
				w.do(tt.call, operator(tt.body))
				if took := time.Since(begun); took != 0 {
					t.Errorf("waited %s for one without a stream", took)
				}
			})
		})
	}
}

// TestArrivingAmongOthers: agents that are there, arriving and unknown, at once.
func TestArrivingAmongOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		fill(w, 4)
		late := w.store.agents["a0001"]
		delete(w.store.agents, "a0001")
		w.addAgent("never", true)
		delete(w.store.agents, "never")
		time.AfterFunc(time.Second, func() {
			w.store.mu.Lock()
			defer w.store.mu.Unlock()
			w.store.agents["a0001"] = late
		})
		got := w.answer("POST /v1/tags/x/agents", request{as: fleet.RoleOperator, body: `{"add":["never","a0000","a0001","nobody"]}`}, 200)
		equal(t, "result", map[string]any{"changed": 2.0, "unknown": []any{"never", "nobody"}}, got)
	})
}
