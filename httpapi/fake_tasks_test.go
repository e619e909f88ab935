// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"muster/fleet"
)

func (f *fakeStore) CreateTask(_ context.Context, t fleet.NewTask, ids []string) (fleet.Task, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := cmp.Or(f.err, t.Check()); err != nil {
		return fleet.Task{}, err
	}
	if len(ids) == 0 {
		return fleet.Task{}, fleet.Invalid("id_list", "names no agent")
	}
	task := fleet.Task{NewTask: t, Status: fleet.TaskCreated, CreatedAt: f.now(), UpdatedAt: f.now()}
	var subs []fleet.SubTask
	for i, id := range ids {
		if _, ok := f.agents[id]; !ok {
			return fleet.Task{}, fleet.Refuse(fleet.CodeNotFound, "unknown agents: %s", id)
		}
		n := uint32(i + 1)
		subs = append(subs, fleet.SubTask{TaskID: t.ID, AgentID: id, Number: n, Token: fleet.TaskToken(t.ID, n), State: fleet.SubTaskWaiting})
	}
	f.tasks[t.ID], f.subs[t.ID] = task, subs
	if t.Run {
		return f.run(t.ID, 1), nil
	}
	return f.counted(t.ID), nil
}

// counted stores and returns the task with its counts as they are.
func (f *fakeStore) counted(id string) fleet.Task {
	t := f.tasks[id]
	c := fleet.TaskCounts{Total: len(f.subs[id])}
	for _, s := range f.subs[id] {
		*map[fleet.SubTaskState]*int{
			fleet.SubTaskWaiting: &c.Waiting, fleet.SubTaskPending: &c.Pending, fleet.SubTaskSent: &c.Sent,
			fleet.SubTaskSucceeded: &c.Succeeded, fleet.SubTaskFailed: &c.Failed, fleet.SubTaskUnknown: &c.Unknown,
			fleet.SubTaskExpired: &c.Expired, fleet.SubTaskCancelled: &c.Cancelled,
		}[s.State]++
	}
	t.Counts = c
	f.tasks[id] = t
	return t
}

func (f *fakeStore) run(id string, percent float64) fleet.Task {
	t := f.tasks[id]
	t.Status, t.Deadline = fleet.TaskRunning, f.now()+cmp.Or(t.Seconds, fleet.DefaultTaskSeconds)
	left := int(percent*float64(len(f.subs[id])) + 0.999999)
	for i := range f.subs[id] {
		if f.subs[id][i].State == fleet.SubTaskWaiting && left > 0 {
			f.subs[id][i].State = fleet.SubTaskPending
			left--
		}
	}
	f.tasks[id] = t
	return f.counted(id)
}

func (f *fakeStore) Task(id string) (fleet.Task, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, ok := f.tasks[id]
	if !ok {
		return t, fleet.Refuse(fleet.CodeNotFound, "there is no task %q", id)
	}
	return t, nil
}

func (f *fakeStore) Tasks(after string, limit int) ([]fleet.Task, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := sorted(f.tasks)
	slices.SortFunc(all, func(a, b fleet.Task) int { return strings.Compare(b.ID, a.ID) })
	all = slices.DeleteFunc(all, func(t fleet.Task) bool { return after != "" && t.ID >= after })
	return all[:min(len(all), limit)], nil
}

func (f *fakeStore) SubTasks(id string, after uint32, limit int) ([]fleet.SubTask, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	subs, ok := f.subs[id]
	if !ok {
		return nil, fleet.Refuse(fleet.CodeNotFound, "there is no task %q", id)
	}
	subs = subs[min(int(after), len(subs)):]
	return slices.Clone(subs[:min(len(subs), limit)]), nil
}

func (f *fakeStore) RunTask(_ context.Context, id, jobID string, percent float64, concurrence int) (fleet.Task, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, ok := f.tasks[id]
	if !ok {
		return t, fleet.Refuse(fleet.CodeNotFound, "there is no task %q", id)
	}
	t.JobID, t.RollingPercent, t.Concurrence = jobID, percent, concurrence
	f.tasks[id] = t
	return f.run(id, percent), f.err
}

// endAll moves what has not ended to the state.
func (f *fakeStore) endAll(id string, status fleet.TaskStatus, state fleet.SubTaskState) (fleet.Task, error) {
	t, ok := f.tasks[id]
	if !ok {
		return t, fleet.Refuse(fleet.CodeNotFound, "there is no task %q", id)
	}
	if t.Status == fleet.TaskFinished || t.Status == fleet.TaskCancelled {
		return t, fleet.Refuse(fleet.CodeConflict, "task %q has ended", id)
	}
	t.Status, t.EndedAt = status, f.now()
	f.tasks[id] = t
	for i := range f.subs[id] {
		if !f.subs[id][i].State.Ended() {
			f.subs[id][i].State = state
		}
	}
	return f.counted(id), f.err
}

func (f *fakeStore) CancelTask(_ context.Context, id string) (fleet.Task, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.endAll(id, fleet.TaskCancelled, fleet.SubTaskCancelled)
}

func (f *fakeStore) FailTask(_ context.Context, id, _ string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.endAll(id, fleet.TaskFinished, fleet.SubTaskFailed)
	return err
}
