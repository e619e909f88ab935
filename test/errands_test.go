// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"muster/internal/agentpb"
	"muster/internal/apiclient"
	"muster/internal/apiv1"
	"muster/test/process"
)

// endedWithin is how long after its deadline a task may take to have ended.
const endedWithin = 20 * time.Second

// errands are tasks, each for one agent, given to any node.
type errands struct {
	agents  []string
	seconds int64 // from giving a task to its deadline

	mu    sync.Mutex
	given []*errand
	sent  map[string]int // by what the task says
}

type errand struct {
	text, delivery string
	id             string // "" without an answer
}

// see is a hook of the agents.
func (e *errands) see(_ string, command *agentpb.Command) {
	if task := command.GetTask(); task != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.sent == nil {
			e.sent = make(map[string]int)
		}
		e.sent[task.GetData()]++
	}
}

// client gives tasks to one node until ctx ends.
func (e *errands) client(ctx context.Context, n *process.Node, token string, rest time.Duration) {
	client := n.API(token, callWithin)
	for k := 0; ctx.Err() == nil; k++ {
		e.give(client, fmt.Sprintf("%s %d", n.Name, k))
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(rand.Int64N(int64(2 * rest)))):
		}
	}
}

func (e *errands) give(client *apiclient.Client, text string) {
	one := &errand{text: text, delivery: []string{"once", "retry"}[rand.IntN(2)]}
	e.mu.Lock()
	e.given = append(e.given, one)
	agent := e.agents[rand.IntN(len(e.agents))]
	e.mu.Unlock()
	var made apiv1.Task
	err := client.Do(context.Background(), http.MethodPost, "/v1/tasks", apiv1.NewTask{
		Name: text, Agents: []string{agent}, Delivery: one.delivery, Seconds: e.seconds,
		Command: apiv1.Command{Task: &apiv1.AgentTask{DataType: 6053, Name: "driver", Data: text}},
	}, &made)
	if err == nil {
		e.mu.Lock()
		one.id = made.ID
		e.mu.Unlock()
	}
}

// check waits until every task that was accepted has ended, and wants none to be
// lost, none to be there twice, none that may be sent once to be sent again, and
// what is said of each to be true.
func (e *errands) check(t testing.TB, n *process.Node, token string) {
	t.Helper()
	client := n.Linearizable(token, callWithin)
	var tasks map[string][]apiv1.Task
	process.Eventually(t, time.Duration(e.seconds)*time.Second+endedWithin, "all tasks have ended", func() error {
		tasks = make(map[string][]apiv1.Task)
		for task, err := range apiclient.All[apiv1.Task](t.Context(), client, "/v1/tasks", nil, 0) {
			if err != nil {
				return err
			}
			if task.Status != "finished" {
				return fmt.Errorf("task %q is %s: %+v", task.Name, task.Status, task.Counts)
			}
			tasks[task.Name] = append(tasks[task.Name], task)
		}
		return nil
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	accepted := 0
	var sum apiv1.TaskCounts
	for _, one := range e.given {
		if one.id != "" {
			accepted++
		}
		e.judge(t, one, tasks[one.text])
		for _, task := range tasks[one.text] {
			sum.Total += task.Counts.Total
			sum.Succeeded += task.Counts.Succeeded
			sum.Failed += task.Counts.Failed
			sum.Unknown += task.Counts.Unknown
			sum.Expired += task.Counts.Expired
		}
	}
	t.Logf("%d tasks given, %d accepted: %+v", len(e.given), accepted, sum)
}

// judge needs the lock.
func (e *errands) judge(t testing.TB, one *errand, found []apiv1.Task) {
	t.Helper()
	sent := e.sent[one.text]
	switch {
	case one.delivery == "once" && sent > 1:
		t.Errorf("task %q may be sent once, and an agent got it %d times", one.text, sent)
	case len(found) > 1:
		t.Errorf("task %q is there %d times", one.text, len(found))
	case len(found) == 0 && one.id != "":
		t.Errorf("task %q was accepted as %s and is lost", one.text, one.id)
	case len(found) == 0 && sent > 0:
		t.Errorf("task %q is unknown, and an agent got it", one.text)
	}
	if len(found) != 1 {
		return
	}
	switch c := found[0].Counts; {
	case c.Succeeded+c.Failed+c.Unknown+c.Expired != 1:
		t.Errorf("task %q has ended with %+v", one.text, c)
	case c.Succeeded == 1 && sent == 0:
		t.Errorf("task %q succeeded, and no agent got it", one.text)
	case c.Expired == 1 && sent > 0:
		t.Errorf("task %q was never sent in time, and an agent got it", one.text)
	}
}
