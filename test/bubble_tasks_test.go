// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/internal/agentpb"
	"muster/test/bubble"
)

// taskDoc is a task as Elkeid's routes show it.
type taskDoc struct {
	ID     string   `json:"task_id"`
	Type   string   `json:"task_type"`
	Status string   `json:"task_status"`
	Todo   []string `json:"todo_list"`
	Total  int      `json:"id_count"`
	Open   int      `json:"sub_task_created"`
	Run    int      `json:"sub_task_running"`
	Failed int      `json:"sub_task_failed"`
	Good   int      `json:"sub_task_succeed"`
}

// subTaskDoc is an agent's part of a task.
type subTaskDoc struct {
	Agent   string `json:"agent_id"`
	Token   string `json:"token"`
	Status  string `json:"status"`
	Message string `json:"status_msg"`
	Result  string `json:"task_result"`
}

func getTask(w *bubble.Node, id string) taskDoc {
	w.T.Helper()
	var doc taskDoc
	w.Get("/api/v1/agent/getTask/"+id, &doc)
	return doc
}

// subTasks returns the parts of a task by agent.
func subTasks(w *bubble.Node, taskID string) map[string]subTaskDoc {
	w.T.Helper()
	var list []subTaskDoc
	w.Get("/api/v1/agent/getSubTask/"+taskID, &list)
	docs := map[string]subTaskDoc{}
	for _, s := range list {
		docs[s.Agent] = s
	}
	return docs
}

// quickTask sends a task to one agent and returns its ID; 0 seconds means the
// default deadline.
func quickTask(w *bubble.Node, agentID string, seconds int, task string) string {
	w.T.Helper()
	var id string
	w.Post(fmt.Sprintf("/api/v1/agent/quickTask/task?token=true&timeout=%d", seconds),
		fmt.Sprintf(`{"agent_id":%q,"command":{"task":%s}}`, agentID, task), &id)
	if id == "" {
		w.T.Fatal("quickTask answered no task ID")
	}
	return id
}

const pluginTask = `{"data_type":6053,"name":"scanner","data":"{}"}`

// nextTask waits for an agent's n-th task.
func nextTask(w *bubble.Node, a *bubble.Agent, n int, within time.Duration) *agentpb.Task {
	w.T.Helper()
	w.Eventually(within, fmt.Sprintf("task %d", n), func() error {
		if got := len(a.Tasks()); got < n {
			return fmt.Errorf("%d tasks", got)
		}
		return nil
	})
	if got := len(a.Tasks()); got != n {
		w.T.Fatalf("%d tasks, want %d", got, n)
	}
	return a.Tasks()[n-1]
}

// known opens the stream of an agent that the inventory has then.
func known(w *bubble.Node, id string) *bubble.Agent {
	w.T.Helper()
	a := w.Open(id)
	a.Beat()
	w.Eventually(5*time.Second, "the inventory has "+id, func() error {
		e, err := w.Do(bubble.Request{Method: "GET", Path: "/v1/agents/" + id, Token: w.Token()}).Envelope()
		if err != nil || e.Code != 0 {
			return fmt.Errorf("%v %w", e, err)
		}
		return nil
	})
	w.Pass(time.Second)
	return a
}

func TestBubbleRepliesSetTheResult(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		a := known(w, "a1")
		n := 0
		for _, dataType := range []int32{2001, 2003, 5100, 6000, 8010} {
			for _, outcome := range []string{"succeed", "failed"} {
				id := quickTask(w, "a1", 600, pluginTask)
				n++
				task := nextTask(w, a, n, time.Second)
				if task.GetDataType() != 6053 || task.GetName() != "scanner" || task.GetData() != "{}" || !strings.HasPrefix(task.GetToken(), id+".") {
					t.Fatalf("task %v of %s", task, id)
				}
				if s := subTasks(w, id)["a1"]; s.Status != "succeed" || s.Token != task.GetToken() {
					t.Errorf("sent, not answered: %+v, want status succeed and token %s", s, task.GetToken())
				}
				text := fmt.Sprintf("%d %s", dataType, outcome)
				a.Reply(dataType, task.GetToken(), outcome, text)
				w.Pass(time.Second)
				want := subTaskDoc{Agent: "a1", Token: task.GetToken(), Status: "result_" + outcome, Message: outcome, Result: text}
				if diff := cmp.Diff(want, subTasks(w, id)["a1"]); diff != "" {
					t.Errorf("%d %s (-want +got):\n%s", dataType, outcome, diff)
				}
				if doc := getTask(w, id); doc.Status != "finished" {
					t.Errorf("%d %s: the task is %+v, want finished", dataType, outcome, doc)
				}
			}
		}
		// 5101 is a text only.
		id := quickTask(w, "a1", 600, pluginTask)
		task := nextTask(w, a, n+1, time.Second)
		a.Reply(5101, task.GetToken(), "succeed", "verified")
		w.Pass(time.Second)
		if s := subTasks(w, id)["a1"]; s.Status != "succeed" || s.Result != "verified" {
			t.Errorf("after 5101: %+v, want the status unchanged and the text", s)
		}
		a.Reply(5100, task.GetToken(), "failed", "no room")
		w.Pass(time.Second)
		if s := subTasks(w, id)["a1"]; s.Status != "result_failed" || s.Result != "no room" {
			t.Errorf("after 5101 and 5100: %+v", s)
		}
		// Every reply is in Kafka too.
		if got := len(bubble.Of(w.Records(), "a1", 2001, 2003, 5100, 5101, 6000, 8010)); got != n+2 {
			t.Errorf("%d replies in Kafka, want %d", got, n+2)
		}
	})
}

// An agent cannot answer for another.
func TestBubbleForeignReplyChangesNothing(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		a, liar := known(w, "a1"), known(w, "a2")
		id := quickTask(w, "a1", 600, pluginTask)
		token := nextTask(w, a, 1, time.Second).GetToken()
		liar.Reply(5100, token, "succeed", "done by a2")
		liar.Reply(5100, "nonsense", "succeed", "")
		w.Pass(5 * time.Second)
		if s := subTasks(w, id)["a1"]; s.Status != "succeed" || s.Result != "" {
			t.Errorf("after another agent's reply: %+v", s)
		}
		if n := w.Metric(`muster_agentrpc_results_total{outcome="unknown_token"}`); n != 2 {
			t.Errorf("%v replies counted as of unknown tokens, want 2", n)
		}
		a.Reply(5100, token, "succeed", "done by a1")
		w.Pass(time.Second)
		if s := subTasks(w, id)["a1"]; s.Status != "result_succeed" || s.Result != "done by a1" {
			t.Errorf("after its own reply: %+v", s)
		}
	})
}

func TestBubbleTaskRunsInParts(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		agents := map[string]*bubble.Agent{}
		ids := []string{"a1", "a2", "a3", "a4"}
		for _, id := range ids {
			agents[id] = known(w, id)
		}
		var made struct {
			ID    string `json:"task_id"`
			Count int
		}
		w.Post("/api/v1/agent/createTask/task", map[string]any{
			"id_list": ids, "task_name": "scan all", "action": "scan", "subtask_running_timeout": 3600,
			"data": map[string]any{"task": map[string]any{"data_type": 6057, "name": "scanner", "data": "full"}},
		}, &made)
		w.Pass(time.Minute)
		if doc := getTask(w, made.ID); made.Count != 4 || doc.Status != "created" || doc.Total != 4 || !cmp.Equal(doc.Todo, ids) {
			t.Errorf("created: count %d, %+v", made.Count, doc)
		}
		sent := func() (n int) {
			for _, a := range agents {
				n += len(a.Tasks())
			}
			return n
		}
		if n := sent(); n != 0 {
			t.Fatalf("%d tasks were sent before the task ran", n)
		}
		for part, want := range []int{2, 4} {
			var ran struct {
				Count int `json:"id_count"`
			}
			w.Post("/api/v1/agent/controlTask", fmt.Sprintf(`{"task_id":%q,"action":"run","rolling_percent":0.5,"concurrence":10}`, made.ID), &ran)
			w.Pass(5 * time.Second)
			if doc := getTask(w, made.ID); ran.Count != 2 || sent() != want || doc.Open != 4-want || doc.Status != "running" {
				t.Errorf("part %d: released %d, sent %d, %+v", part, ran.Count, sent(), doc)
			}
		}
		agents["a1"].Reply(6000, agents["a1"].Tasks()[0].GetToken(), "succeed", "clean")
		agents["a2"].Reply(6000, agents["a2"].Tasks()[0].GetToken(), "failed", "busy")
		w.Pass(time.Second)
		if doc := getTask(w, made.ID); doc.Good != 1 || doc.Failed != 1 || doc.Run != 2 {
			t.Errorf("after two answers: %+v", doc)
		}
		filters := map[string][]string{
			`{"filter":[{"key":"status","rules":[{"operator":"$eq","value":"result_failed"}]}]}`:                                                                        {"a2"},
			`{"filter":[{"key":"agent_id","rules":[{"operator":"$in","value":["a3","a1"]}]}]}`:                                                                          {"a1", "a3"},
			`{"filter":[{"key":"task_result","rules":[{"operator":"$regex","value":"^cl"}]},{"key":"task_id","rules":[{"operator":"$eq","value":"` + made.ID + `"}]}]}`: {"a1"},
			`{"filter":[{"key":"task_id","rules":[{"operator":"$eq","value":"no such task"}]}]}`:                                                                        {},
		}
		for filter, want := range filters {
			var page struct {
				Total int
				Items []subTaskDoc
			}
			w.Post("/api/v1/agent/getSubTask/filter?order_key=agent_id&order_value=1", filter, &page)
			got := []string{}
			for _, s := range page.Items {
				got = append(got, s.Agent)
			}
			if page.Total != len(want) || !cmp.Equal(got, want) {
				t.Errorf("getSubTask/filter %s: %q, want %q", filter, got, want)
			}
		}
		var tasks struct{ Items []taskDoc }
		w.Post("/api/v1/agent/getTask/filter", `{"filter":[{"key":"task_name","rules":[{"operator":"$eq","value":"scan all"}]}]}`, &tasks)
		if len(tasks.Items) != 1 || tasks.Items[0].ID != made.ID {
			t.Errorf("getTask/filter: %+v", tasks.Items)
		}
		w.Pass(time.Hour)
		if doc := getTask(w, made.ID); doc.Status != "finished" || doc.Failed != 3 || doc.Good != 1 || doc.Run != 0 || sent() != 4 {
			t.Errorf("after the deadline: %+v, %d sent", doc, sent())
		}
	})
}

// rawJSON stands in another value's JSON as it is.
type rawJSON string

// MarshalJSON implements json.Marshaler.
func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }
