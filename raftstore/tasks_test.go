// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/fleet"
	"muster/raftstore"
)

func newTask(id string) fleet.NewTask {
	return fleet.NewTask{
		ID: id, Kind: fleet.TaskKindTask, Delivery: fleet.DeliveryOnce, Run: true,
		Command: fleet.AgentCommand{Task: &fleet.AgentTask{Name: "scanner", DataType: fleet.DataTypeScanPath, Data: "<x>"}},
	}
}

func TestTaskOnce(t *testing.T) {
	n, ctx := lone(t, t.TempDir()), t.Context()
	ids := agents(t, n.Store, 4)
	made, err := n.CreateTask(ctx, newTask("k1"), ids[:3])
	must(t, err)
	if made.Counts != (fleet.TaskCounts{Total: 3, Pending: 3}) || made.Deadline != made.CreatedAt+fleet.DefaultTaskSeconds {
		t.Fatalf("made %+v", made)
	}
	if len(n.PendingDispatch(ids[3])) != 0 {
		t.Fatal("an agent that is no target has something to do")
	}
	todo := n.PendingDispatch(ids[1])
	if len(todo) != 1 || todo[0].Command.Task.Token != fleet.TaskToken("k1", 2) || todo[0].Command.Task.Data != "<x>" || todo[0].Sent {
		t.Fatalf("PendingDispatch = %+v", todo)
	}
	marks := []fleet.TaskMark{{TaskID: "k1", Number: 1}, {TaskID: "k1", Number: 2}, {TaskID: "k1", Number: 1}, {TaskID: "k1", Number: 4}, {TaskID: "k9", Number: 1}}
	granted, err := n.MarkSent(ctx, "n1", marks)
	if err != nil || !cmp.Equal(granted, []bool{true, true, false, false, false}) {
		t.Fatalf("MarkSent = %v, %v", granted, err)
	}
	if len(n.PendingDispatch(ids[1])) != 0 {
		t.Fatal("what was sent once would be sent again")
	}
	must(t, n.SetResults(ctx, []fleet.TaskResult{
		{Token: "k1.1", AgentID: ids[1], State: fleet.SubTaskFailed},     // not its own
		{Token: "nonsense", AgentID: ids[0], State: fleet.SubTaskFailed}, // nobody's
		{Token: "k1.4", AgentID: ids[3], State: fleet.SubTaskFailed},     // no target
		{Token: "k1.1", AgentID: ids[0], State: fleet.SubTaskSucceeded, Message: "good"},
		{Token: "k1.1", AgentID: ids[0], State: fleet.SubTaskFailed, Message: "late"},
		{Token: "k1.2", AgentID: ids[1], State: fleet.SubTaskFailed, Message: strings.Repeat("é", 4000)},
		{Token: "k1.3", AgentID: ids[2], State: fleet.SubTaskFailed, DataType: fleet.DataTypeVerification, Message: "only text"},
	}))
	subs, err := n.SubTasks("k1", 0, 0)
	must(t, err)
	if subs[0].State != fleet.SubTaskSucceeded || subs[0].Result != nil || subs[1].State != fleet.SubTaskFailed ||
		len(subs[1].Result.Message) != fleet.MaxResultBytes || subs[2].State != fleet.SubTaskPending || subs[2].Result.Message != "only text" {
		t.Fatalf("SubTasks = %+v", subs)
	}
	ended, err := n.CancelTask(ctx, "k1")
	must(t, err)
	if ended.Status != fleet.TaskCancelled || ended.EndedAt == 0 || ended.Counts != (fleet.TaskCounts{Total: 3, Succeeded: 1, Failed: 1, Cancelled: 1}) {
		t.Fatalf("cancelled: %+v", ended)
	}
	_, err = n.CancelTask(ctx, "k1")
	wantError(t, err, fleet.ErrConflict)
	_, err = n.RunTask(ctx, "k1", "j", 1, 1)
	wantError(t, err, fleet.ErrConflict)
	_, err = n.Task("k9")
	wantError(t, err, fleet.ErrNotFound)
}

func TestTaskRetryAndRolling(t *testing.T) {
	n, ctx := lone(t, t.TempDir()), t.Context()
	ids := agents(t, n.Store, 10)
	task := newTask("k1")
	task.Delivery, task.Run = fleet.DeliveryRetry, false
	_, err := n.CreateTask(ctx, task, ids)
	must(t, err)
	if len(n.PendingDispatch(ids[0])) != 0 {
		t.Fatal("a task that does not run is sent")
	}
	ran, err := n.RunTask(ctx, "k1", "job-1", 0.25, 7)
	must(t, err)
	if ran.Counts.Pending != 3 || ran.JobID != "job-1" || ran.Concurrence != 7 || ran.RollingPercent != 0.25 {
		t.Fatalf("a quarter of ten: %+v", ran)
	}
	for range 2 {
		granted, err := n.MarkSent(ctx, "n1", []fleet.TaskMark{{TaskID: "k1", Number: 1}})
		if err != nil || !granted[0] {
			t.Fatalf("MarkSent = %v, %v", granted, err)
		}
		if todo := n.PendingDispatch(ids[0]); len(todo) != 1 || !todo[0].Sent {
			t.Fatalf("PendingDispatch = %+v", todo)
		}
	}
	must(t, n.FailTask(ctx, "k1", "nobody waits"))
	got, err := n.Task("k1")
	must(t, err)
	if got.Status != fleet.TaskFinished || got.Counts != (fleet.TaskCounts{Total: 10, Failed: 9, Unknown: 1}) {
		t.Fatalf("failed: %+v", got)
	}
	// A late answer is better than none.
	must(t, n.SetResults(ctx, []fleet.TaskResult{{Token: "k1.1", AgentID: ids[0], State: fleet.SubTaskSucceeded}}))
	if got, _ = n.Task("k1"); got.Counts.Succeeded != 1 || got.Counts.Unknown != 0 {
		t.Fatalf("late answer: %+v", got)
	}
	for _, bad := range []float64{0, -1, 1.5} {
		_, err = n.RunTask(ctx, "k1", "j", bad, 1)
		wantError(t, err, fleet.ErrInvalid)
	}
}

func TestTaskRefusals(t *testing.T) {
	n, ctx := lone(t, t.TempDir()), t.Context()
	ids := agents(t, n.Store, 3)
	own := newTask("k1")
	own.Command.Task.Token = "caller's"
	_, err := n.CreateTask(ctx, own, ids[:1])
	must(t, err)
	sub, err := n.SubTaskByToken("caller's")
	if err != nil || sub.TaskID != "k1" || sub.AgentID != ids[0] || sub.Token != "caller's" {
		t.Fatalf("SubTaskByToken = %+v, %v", sub, err)
	}
	if todo := n.PendingDispatch(ids[0]); len(todo) != 1 || todo[0].Command.Task.Token != "caller's" {
		t.Fatalf("PendingDispatch = %+v", todo)
	}
	_, err = n.SubTaskByToken("k1.9")
	wantError(t, err, fleet.ErrNotFound)

	before, _ := n.Dump()
	_, err = n.CreateTask(ctx, newTask("k2"), []string{ids[0], "x1", "x2", "x3", "x4"})
	wantError(t, err, fleet.ErrNotFound)
	if want := "unknown agents: x1, x2, x3 and 1 more"; err.Error() != want {
		t.Fatalf("error %q, want %q", err, want)
	}
	_, err = n.CreateTask(ctx, newTask("k2"), nil)
	wantError(t, err, fleet.ErrInvalid)
	_, err = n.CreateTask(ctx, newTask("k1"), ids)
	wantError(t, err, fleet.ErrExists)
	own.ID = "k2"
	_, err = n.CreateTask(ctx, own, ids)
	wantError(t, err, fleet.ErrInvalid)
	own.Command.Task = &fleet.AgentTask{Name: "scanner", Token: "k1.2"}
	_, err = n.CreateTask(ctx, own, ids[:1])
	wantError(t, err, fleet.ErrConflict)
	if after, _ := n.Dump(); !cmp.Equal(before, after) {
		t.Fatalf("refusals changed the state: %s", cmp.Diff(before, after))
	}
	for i := range 5 {
		_, err = n.CreateTask(ctx, newTask(fmt.Sprint("m", i)), ids)
		must(t, err)
	}
	page, err := n.Tasks("m3", 2)
	if err != nil || len(page) != 2 || page[0].ID != "m2" || page[1].ID != "m1" {
		t.Fatalf("Tasks = %+v, %v", page, err)
	}
}

// The leader's clock ends tasks, tokens and kept answers.
func TestTimePasses(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n, ctx := lone(t, dir), t.Context()
		ids := agents(t, n.Store, 3)
		must(t, n.CreateUser(ctx, fleet.User{Name: "admin", PasswordHash: "h"}))
		session := token("s1", "admin")
		session.ExpiresAt = time.Now().Unix() + 100
		must(t, n.CreateToken(ctx, session))
		task := newTask("k1")
		task.Seconds = 60
		_, err := n.CreateTask(ctx, task, ids)
		must(t, err)
		_, err = n.MarkSent(ctx, "n1", []fleet.TaskMark{{TaskID: "k1", Number: 2}})
		must(t, err)
		wake, stop := n.Watch(fleet.TableTasks)
		defer stop()

		time.Sleep(62 * time.Second)
		synctest.Wait()
		got, err := n.Task("k1")
		must(t, err)
		if got.Status != fleet.TaskFinished || got.Counts != (fleet.TaskCounts{Total: 3, Expired: 2, Unknown: 1}) || got.EndedAt == 0 {
			t.Fatalf("after the deadline: %+v", got)
		}
		<-wake
		if len(n.PendingDispatch(ids[0])) != 0 {
			t.Fatal("an expired task is sent")
		}
		applied := n.Status().Applied
		time.Sleep(30 * time.Second)
		if now := n.Status().Applied; now != applied {
			t.Fatalf("an idle store's log grew from %d to %d", applied, now)
		}
		time.Sleep(20 * time.Second)
		if _, err := n.TokenByHash(session.Hash); err == nil {
			t.Fatal("an expired token stays")
		}
		n.stop()
	})
}

// Targets on both sides of a chunk's end are one task.
func TestTaskOverChunks(t *testing.T) {
	s := machine(t)
	must(t, s.SetLastNumber(1<<16-3))
	ids := []string{"a1", "a2", "a3", "a4", "a5"} // numbers 65534 to 65538
	task := newTask("k1")
	task.Run, task.Delivery = false, fleet.DeliveryRetry
	_, err := s.ApplyBatch(
		raftstore.Entry(1, 10, "", &raftstore.ReportAgentsCmd{Agents: reports(ids...)}),
		raftstore.Entry(2, 10, "", &raftstore.CreateTaskCmd{Task: task, Targets: ids}),
		raftstore.Entry(3, 10, "", &raftstore.RunTaskCmd{ID: "k1", Millionths: 600_000}),
		raftstore.Entry(4, 10, "", &raftstore.MarkSentCmd{Marks: []fleet.TaskMark{{TaskID: "k1", Number: 1<<16 - 1}, {TaskID: "k1", Number: 1 << 16}}}),
	)
	must(t, err)
	want := map[string]fleet.SubTaskState{
		"a1": fleet.SubTaskPending, "a2": fleet.SubTaskSent, "a3": fleet.SubTaskSent, "a4": fleet.SubTaskWaiting, "a5": fleet.SubTaskWaiting,
	}
	got := map[string]fleet.SubTaskState{}
	for after := uint32(0); ; { // one by one, over the end
		page, err := s.SubTasks("k1", after, 1)
		must(t, err)
		if len(page) == 0 {
			break
		}
		after = page[0].Number
		got[page[0].AgentID] = page[0].State
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	if all, _ := s.SubTasks("k1", 0, 4); len(all) != 4 || all[3].Number != 1<<16+1 {
		t.Fatalf("SubTasks = %+v", all)
	}
	for id, n := range map[string]int{"a1": 1, "a3": 1, "a4": 0} {
		if todo := s.PendingDispatch(id); len(todo) != n {
			t.Fatalf("PendingDispatch(%s) = %+v", id, todo)
		}
	}
	_, err = s.ApplyBatch(raftstore.Entry(5, 1<<40, "", &raftstore.Tick{}))
	must(t, err)
	if k, _ := s.Task("k1"); k.Counts != (fleet.TaskCounts{Total: 5, Expired: 3, Unknown: 2}) {
		t.Fatalf("after the deadline: %+v", k.Counts)
	}
}

// A tick forgets tasks a month after their end, with all that was theirs.
func TestTasksAreForgotten(t *testing.T) {
	s := machine(t)
	own := newTask("k1")
	own.Command.Task.Token = "own"
	_, err := s.ApplyBatch(
		raftstore.Entry(1, 10, "", &raftstore.ReportAgentsCmd{Agents: reports("a1")}),
		raftstore.Entry(2, 10, "", &raftstore.Tick{}))
	must(t, err)
	before, _ := s.Dump()
	_, err = s.ApplyBatch(
		raftstore.Entry(3, 10, "", &raftstore.CreateTaskCmd{Task: own, Targets: []string{"a1"}}),
		raftstore.Entry(4, 10, "", &raftstore.SetResultsCmd{Results: []fleet.TaskResult{{Token: "own", AgentID: "a1", State: fleet.SubTaskFailed}}}),
		raftstore.Entry(5, 10, "", &raftstore.CreateTaskCmd{Task: newTask("part"), Part: true}),
		raftstore.Entry(6, 10, "", &raftstore.AddTargetsCmd{ID: "part", Targets: []string{"a1"}}),
		raftstore.Entry(7, 700, "", &raftstore.Tick{}), // the part was never completed
		raftstore.Entry(8, 10+30*24*3600-1, "", &raftstore.Tick{}))
	must(t, err)
	if tasks, _ := s.Tasks("", 0); len(tasks) != 1 || tasks[0].ID != "k1" {
		t.Fatalf("Tasks = %+v", tasks)
	}
	_, err = s.ApplyBatch(raftstore.Entry(9, 10+30*24*3600, "", &raftstore.Tick{}))
	must(t, err)
	if after, _ := s.Dump(); !cmp.Equal(before, after) {
		t.Fatalf("something stays: %s", cmp.Diff(before, after))
	}
}
