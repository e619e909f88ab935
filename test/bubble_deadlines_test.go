// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"fmt"
	"testing"
	"time"

	"muster/test/bubble"
)

func TestBubbleTaskWaitsForAnOfflineAgent(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		for _, id := range []string{"early", "late"} {
			known(w, id).Leave()
		}
		early, late := quickTask(w, "early", 600, pluginTask), quickTask(w, "late", 60, pluginTask)
		w.Pass(90 * time.Second)
		a, b := w.Open("early"), w.Open("late")
		if n := len(a.Commands()); n != 0 {
			t.Errorf("%d commands before anything was heard", n)
		}
		a.Send(bubble.NewRecord(bubble.Execve)) // an agent whose process goes on beats later
		b.Beat()
		task := nextTask(w, a, 1, time.Second)
		a.Reply(5100, task.GetToken(), "succeed", "at last")
		w.Pass(time.Second)
		if s := subTasks(w, early)["early"]; s.Status != "result_succeed" || s.Result != "at last" {
			t.Errorf("delivered before its deadline: %+v", s)
		}
		w.Pass(10 * time.Minute)
		if n := len(b.Commands()); n != 0 {
			t.Errorf("a task was delivered after its deadline")
		}
		if s := subTasks(w, late)["late"]; s.Status != "failed" || s.Message != "the deadline passed before the agent could be reached" {
			t.Errorf("not delivered before its deadline: %+v", s)
		}
		if doc := getTask(w, late); doc.Status != "finished" || doc.Failed != 1 {
			t.Errorf("the task that could not be delivered: %+v", doc)
		}
	})
}

// A task is sent once, and without an answer ends as unknown at its deadline,
// whatever the agent's stream does meanwhile.
func TestBubbleTaskIsSentOnceOnly(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		a := known(w, "a1")
		ended := func(id string) string {
			var page struct {
				Items []struct {
					State string `json:"state"`
				}
			}
			w.V1("GET", "/v1/tasks/"+id+"/agents", nil, &page)
			if len(page.Items) != 1 {
				t.Fatalf("task %s has %d parts", id, len(page.Items))
			}
			return page.Items[0].State
		}
		id := quickTask(w, "a1", 600, pluginTask)
		nextTask(w, a, 1, time.Second)
		for range 5 {
			a.Cut()
			a = w.Open("a1")
			a.Beat()
			w.Pass(100 * time.Second)
			if n := len(a.Commands()); n != 0 {
				t.Fatalf("the task was sent again")
			}
		}
		if s := ended(id); s != "sent" {
			t.Errorf("before the deadline: %s, want sent", s)
		}
		w.Pass(105 * time.Second)
		if s := ended(id); s != "unknown" {
			t.Errorf("after the deadline: %s, want unknown", s)
		}
		if doc := getTask(w, id); doc.Status != "finished" {
			t.Errorf("after the deadline: %+v", doc)
		}
		// A late answer tells what became of it.
		a.Reply(5100, subTasks(w, id)["a1"].Token, "succeed", "late")
		w.Pass(time.Second)
		if s := subTasks(w, id)["a1"]; s.Status != "result_succeed" || s.Result != "late" {
			t.Errorf("after a late answer: %+v", s)
		}
	})
}

// A task of delivery `retry` is sent again until it is answered.
func TestBubbleRetriedTask(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		a := known(w, "a1")
		var made struct{ ID string }
		w.V1("POST", "/v1/tasks", map[string]any{
			"agents": []string{"a1"}, "delivery": "retry", "seconds": 600,
			"command": map[string]any{"task": map[string]any{"data_type": 5056, "name": "collector"}},
		}, &made)
		for n := 1; n <= 3; n++ {
			nextTask(w, a, n, 66*time.Second)
		}
		tasks := a.Tasks()
		if tasks[0].GetToken() != tasks[2].GetToken() {
			t.Errorf("sent with the tokens %q and %q", tasks[0].GetToken(), tasks[2].GetToken())
		}
		a.Reply(5100, tasks[0].GetToken(), "succeed", "")
		w.Pass(20 * time.Minute)
		if n := len(a.Tasks()); n != 3 {
			t.Errorf("sent %d times, want no more after the answer to the third", n)
		}
		if s := subTasks(w, made.ID)["a1"]; s.Status != "result_succeed" {
			t.Errorf("after the answer: %+v", s)
		}
	})
}

func TestBubbleConfigTaskSetsOwnConfig(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		setDefaultConfig(w, "1.0", "collector", "driver")
		a, other := known(w, "a1"), known(w, "a2")
		offline := known(w, "a3")
		offline.Leave()
		hasConfigs(w, a, 1, time.Second)
		var made struct {
			ID string `json:"task_id"`
		}
		w.Post("/api/v1/agent/createTask/config", `{"id_list":["a1","a3"],"task_name":"pin","action":"pin","subtask_running_timeout":3600,
			"data":{"config":[{"name":"driver","type":"tar.gz","version":"0.9","download_url":["http://10.9.9.9/driver"]}]}}`, &made)
		w.Pass(time.Minute)
		hasConfigs(w, a, 1, 0) // it does not run yet
		w.Post("/api/v1/agent/controlTask", fmt.Sprintf(`{"task_id":%q,"action":"run","rolling_percent":1,"concurrence":100}`, made.ID), nil)
		wantConfig(t, hasConfigs(w, a, 2, 2*time.Second), "0.9", "driver")
		w.Eventually(10*time.Second, "the part of the agent that has it has ended", func() error {
			if s := subTasks(w, made.ID); s["a1"].Status != "succeed" || s["a3"].Status != "running" {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
		// The agent's own config stays when the default one changes.
		setDefaultConfig(w, "1.1", "collector", "driver")
		wantConfig(t, hasConfigs(w, other, 2, 2*time.Second), "1.1", "collector", "driver")
		w.Pass(time.Minute)
		hasConfigs(w, a, 2, 0)
		// The one that was away gets it with its next heartbeat.
		back := w.Open("a3")
		back.Beat()
		wantConfig(t, hasConfigs(w, back, 1, time.Second), "0.9", "driver")
		w.Eventually(10*time.Second, "the task has ended", func() error {
			if doc := getTask(w, made.ID); doc.Status != "finished" || doc.Good != 2 || doc.Type != "Agent_Config" {
				return fmt.Errorf("%+v", doc)
			}
			return nil
		})
	})
}

// Whatever agents do, each task ends, and each of its parts is counted once.
func TestBubbleEveryTaskEnds(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		silent, failing, leaving := known(w, "silent"), known(w, "failing"), known(w, "leaving")
		known(w, "gone").Leave()
		known(w, "returning").Leave()
		ids := []string{"silent", "failing", "leaving", "gone", "returning"}
		var tasks []string
		create := func(kind, data string, share float64) string {
			var made struct {
				ID string `json:"task_id"`
			}
			w.Post("/api/v1/agent/createTask/"+kind, map[string]any{
				"id_list": ids, "task_name": kind, "subtask_running_timeout": 300, "data": rawJSON(data),
			}, &made)
			if share > 0 {
				w.Post("/api/v1/agent/controlTask", fmt.Sprintf(`{"task_id":%q,"action":"run","rolling_percent":%v,"concurrence":2}`, made.ID, share), nil)
			}
			tasks = append(tasks, made.ID)
			return made.ID
		}
		create("task", `{"task":`+pluginTask+`}`, 1)
		create("task", `{"task":{"data_type":1051,"name":"elkeid-agent","data":"{\"idc\":\"ams\"}"}}`, 1)
		create("config", `{"config":[{"name":"driver","version":"2"}]}`, 1)
		cancelled := create("task", `{"task":`+pluginTask+`}`, 0.5)
		never := create("task", `{"task":`+pluginTask+`}`, 0)
		w.Pass(5 * time.Second)
		w.Post("/api/v1/agent/controlTask", fmt.Sprintf(`{"task_id":%q,"action":"cancel"}`, cancelled), nil)
		w.Post("/api/v1/agent/controlTask", fmt.Sprintf(`{"task_id":%q,"action":"cancel"}`, never), nil)
		leaving.Cut()
		for _, task := range failing.Tasks() {
			failing.Reply(5100, task.GetToken(), "failed", "cannot")
		}
		w.Pass(time.Minute)
		back := w.Open("returning")
		back.Beat()
		w.Pass(5 * time.Minute)
		for _, id := range tasks {
			doc := getTask(w, id)
			want := "finished"
			if id == cancelled || id == never {
				want = "cancelled"
			}
			if doc.Status != want || doc.Run != 0 || doc.Open != 0 || doc.Failed+doc.Good != doc.Total || doc.Total != len(ids) {
				t.Errorf("a task has not ended (want %s): %+v\n%+v", want, doc, subTasks(w, id))
			}
		}
		if silent.Ended() || failing.Ended() || back.Ended() {
			t.Error("a stream has ended")
		}
	})
}
