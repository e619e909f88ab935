// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"maps"
	"slices"

	"muster/fleet"
	"muster/raftstore"
)

func (m *model) applyTask(index uint64, cmd raftstore.Command) fleet.Code {
	switch c := cmd.(type) {
	case *raftstore.CreateTaskCmd:
		return m.createTask(index, c)
	case *raftstore.RunTaskCmd:
		return m.runTask(index, c)
	case *raftstore.CancelTaskCmd:
		t := m.tasks[c.ID]
		switch {
		case t == nil:
			return fleet.CodeNotFound
		case t.Status == fleet.TaskCancelled || t.ended():
			return fleet.CodeConflict
		}
		t.Status, t.EndedAt = fleet.TaskCancelled, 0
		t.moveAll(fleet.SubTaskWaiting, fleet.SubTaskCancelled)
		t.moveAll(fleet.SubTaskPending, fleet.SubTaskCancelled)
		t.settle(m.now)
	case *raftstore.FailTaskCmd:
		t := m.tasks[c.ID]
		if t == nil {
			return fleet.CodeNotFound
		}
		for id, s := range t.states {
			if s == fleet.SubTaskWaiting || s == fleet.SubTaskPending {
				t.texts[id] = c.Reason
			}
		}
		t.moveAll(fleet.SubTaskWaiting, fleet.SubTaskFailed)
		t.moveAll(fleet.SubTaskPending, fleet.SubTaskFailed)
		t.moveAll(fleet.SubTaskSent, fleet.SubTaskUnknown)
		t.settle(m.now)
	case *raftstore.MarkSentCmd:
		for _, mark := range c.Marks {
			if t, id := m.tasks[mark.TaskID], m.agentOf(mark.Number); t != nil && t.states[id] == fleet.SubTaskPending {
				t.states[id] = fleet.SubTaskSent
			}
		}
	case *raftstore.SetResultsCmd:
		m.results(c.Results)
	}
	return fine
}

func (m *model) createTask(index uint64, c *raftstore.CreateTaskCmd) fleet.Code {
	if _, ok := m.tasks[c.Task.ID]; ok {
		return fleet.CodeExists
	}
	t := &modelTask{states: map[string]fleet.SubTaskState{}, texts: map[string]string{}}
	t.NewTask, t.Status, t.CreatedAt = c.Task, fleet.TaskCreated, m.now
	for _, id := range c.Targets {
		if m.agents[id] == nil {
			return fleet.CodeNotFound
		}
		t.states[id] = fleet.SubTaskWaiting
	}
	if len(t.states) == 0 {
		return fleet.CodeInvalid
	}
	if task := c.Task.Command.Task; task != nil && task.Token != "" {
		if len(t.states) > 1 {
			return fleet.CodeInvalid
		}
		m.owned[task.Token] = c.Task.ID
	}
	m.tasks[c.Task.ID] = t
	if c.Task.Run {
		m.release(index, t, len(t.states))
	}
	t.settle(m.now)
	return fine
}

func (m *model) runTask(index uint64, c *raftstore.RunTaskCmd) fleet.Code {
	t := m.tasks[c.ID]
	switch {
	case t == nil:
		return fleet.CodeNotFound
	case t.Status == fleet.TaskCancelled, t.Deadline != 0 && m.now >= t.Deadline, t.count(fleet.SubTaskWaiting) == 0:
		return fleet.CodeConflict
	}
	m.release(index, t, (len(t.states)*c.Millionths+999_999)/1_000_000)
	t.settle(m.now)
	return fine
}

func (m *model) release(index uint64, t *modelTask, n int) {
	ids := slices.Collect(maps.Keys(t.states))
	slices.SortFunc(ids, func(a, b string) int { return int(m.agents[a].number) - int(m.agents[b].number) })
	for _, id := range ids {
		if n == 0 || t.states[id] != fleet.SubTaskWaiting {
			continue
		}
		n--
		t.states[id] = fleet.SubTaskPending
		if t.Kind == fleet.TaskKindConfig {
			m.agents[id].config, m.agents[id].rev = t.ID, index
		}
	}
	if t.Deadline == 0 {
		seconds := t.Seconds
		if seconds == 0 {
			seconds = fleet.DefaultTaskSeconds
		}
		t.Deadline = m.now + seconds
	}
	t.Status, t.EndedAt = fleet.TaskRunning, 0
}

func (m *model) results(results []fleet.TaskResult) {
	for _, r := range results {
		task, n, ok := fleet.ParseTaskToken(r.Token)
		id := m.agentOf(n)
		if own, mine := m.owned[r.Token]; mine {
			task, ok = own, true
			for only := range m.tasks[own].states {
				id = only
			}
		}
		t := m.tasks[task]
		if !ok || t == nil || id != r.AgentID || t.states[id] == "" {
			continue
		}
		if r.State != "" {
			switch t.states[id] {
			case fleet.SubTaskPending, fleet.SubTaskSent, fleet.SubTaskUnknown:
				t.states[id] = r.State
			default:
				continue
			}
		}
		if r.State != fleet.SubTaskSucceeded || t.KeepResults {
			t.texts[id] = r.Message
		}
	}
	for _, t := range m.tasks {
		t.settle(m.now)
	}
}

func (m *model) agentOf(n uint32) string {
	for id, a := range m.agents {
		if a.number == n {
			return id
		}
	}
	return ""
}

func (t *modelTask) count(s fleet.SubTaskState) (n int) {
	for _, have := range t.states {
		if have == s {
			n++
		}
	}
	return n
}

func (t *modelTask) moveAll(from, to fleet.SubTaskState) {
	for id, s := range t.states {
		if s == from {
			t.states[id] = to
		}
	}
}

func (t *modelTask) ended() bool {
	return t.count(fleet.SubTaskWaiting)+t.count(fleet.SubTaskPending)+t.count(fleet.SubTaskSent) == 0
}

// settle ends the task when nothing of it is open any more.
func (t *modelTask) settle(now int64) {
	open := t.count(fleet.SubTaskPending) + t.count(fleet.SubTaskSent)
	switch t.Status {
	case fleet.TaskRunning:
		if open == 0 {
			t.Status, t.EndedAt = fleet.TaskFinished, now
		}
	case fleet.TaskCreated:
		if t.ended() {
			t.Status, t.EndedAt = fleet.TaskFinished, now
		}
	case fleet.TaskCancelled:
		if t.count(fleet.SubTaskSent) == 0 && t.EndedAt == 0 {
			t.EndedAt = now
		}
	case fleet.TaskFinished:
	}
}

func (t *modelTask) counts() fleet.TaskCounts {
	return fleet.TaskCounts{
		Total: len(t.states), Waiting: t.count(fleet.SubTaskWaiting), Pending: t.count(fleet.SubTaskPending),
		Sent: t.count(fleet.SubTaskSent), Succeeded: t.count(fleet.SubTaskSucceeded), Failed: t.count(fleet.SubTaskFailed),
		Unknown: t.count(fleet.SubTaskUnknown), Expired: t.count(fleet.SubTaskExpired), Cancelled: t.count(fleet.SubTaskCancelled),
	}
}
