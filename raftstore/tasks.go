// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"context"
	"errors"
	"math"
	"strings"
	"unicode/utf8"

	"muster/fleet"
)

// CreateTask stores a task for the agents. Unknown IDs refuse the whole task.
// Up to 1,000 targets are one log entry; a larger task is invisible until all
// are stored. With t.Run it is released at once, see RunTask.
func (s *Store) CreateTask(ctx context.Context, t fleet.NewTask, agentIDs []string) (fleet.Task, error) {
	if err := checkNewTask(t, agentIDs); err != nil {
		return fleet.Task{}, err
	}
	if err := s.checkTargets(agentIDs); err != nil {
		return fleet.Task{}, err
	}
	cmd := &createTask{Task: t, Targets: agentIDs}
	if len(agentIDs) <= maxEntryItems && jsonSize(cmd) <= maxItemBytes {
		if err := s.propose(ctx, cmd, nil); err != nil {
			return fleet.Task{}, err
		}
		return s.Task(t.ID)
	}
	if err := s.createInParts(ctx, t, agentIDs); err != nil {
		return fleet.Task{}, err
	}
	task, err := s.Task(t.ID)
	if err != nil || !t.Run || t.Kind != fleet.TaskKindConfig {
		return task, err
	}
	return s.runOn(ctx, &runTask{ID: t.ID, Percent: 1, Concurrence: fleet.MaxConcurrence, Count: task.Counts.Waiting})
}

func checkNewTask(t fleet.NewTask, agentIDs []string) error {
	if err := t.Check(); err != nil {
		return err
	}
	if hasControl(t.ID) {
		return fleet.Invalid("task_id", "%q has control characters", t.ID)
	}
	if len(agentIDs) == 0 {
		return fleet.Invalid("id_list", "is empty: a task needs at least one agent")
	}
	if t.Command.Task != nil && t.Command.Task.Token != "" && len(agentIDs) > 1 {
		return fleet.Invalid("command.task.token", "can only be given for one agent, not for %d", len(agentIDs))
	}
	return nil
}

// checkTargets refuses what the log would refuse, before a large task is begun.
func (s *Store) checkTargets(ids []string) error {
	var unknown []string
	err := inParts(ids, func(string) int { return 1 }, func(part []string) error {
		return s.read(func(v view) error {
			for _, id := range part {
				if agentNumber(v, id) == 0 {
					unknown = append(unknown, id)
				}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	return unknownAgents(unknown)
}

// createInParts stores a task that does not fit into one entry. What an
// interrupted call leaves behind is forgotten after ten minutes.
func (s *Store) createInParts(ctx context.Context, t fleet.NewTask, agentIDs []string) error {
	if err := s.propose(ctx, &createTask{Task: t, Part: true}, nil); err != nil {
		return err
	}
	err := inParts(agentIDs, jsonSize[string], func(part []string) error {
		return s.propose(ctx, &addTargets{ID: t.ID, Targets: part}, nil)
	})
	if err == nil {
		err = s.propose(ctx, &sealTask{ID: t.ID}, nil)
	}
	if _, refused := errors.AsType[*fleet.Refusal](err); refused {
		return errors.Join(err, s.propose(ctx, &dropTask{ID: t.ID}, nil))
	}
	return err
}

// RunTask releases the part percent, (0,1], of all targets, of those that were
// not released yet the ones with the lowest numbers. The first run sets the
// deadline. A config task gives its targets their own config, 1,000 in each
// log entry.
func (s *Store) RunTask(ctx context.Context, id, jobID string, percent float64, concurrence int) (fleet.Task, error) {
	if !(percent > 0 && percent <= 1) {
		return fleet.Task{}, fleet.Invalid("rolling_percent", "%v is not above 0 and at most 1", percent)
	}
	if concurrence < 1 || concurrence > fleet.MaxConcurrence {
		return fleet.Task{}, fleet.Invalid("concurrence", "%d is not between 1 and %d", concurrence, fleet.MaxConcurrence)
	}
	return s.runOn(ctx, &runTask{
		ID: id, JobID: jobID, Percent: percent, Concurrence: concurrence,
		Millionths: max(1, int(math.Round(percent*1e6))),
	})
}

// runOn proposes a run until all of it is released.
func (s *Store) runOn(ctx context.Context, run *runTask) (fleet.Task, error) {
	for {
		var ans runAnswer
		if err := s.propose(ctx, run, &ans); err != nil {
			return fleet.Task{}, err
		}
		if ans.Left == 0 {
			return s.Task(run.ID)
		}
		run.Count = ans.Left
	}
}

// CancelTask ends what was not sent; answers of what was sent still count. A
// task that has ended is refused.
func (s *Store) CancelTask(ctx context.Context, id string) (fleet.Task, error) {
	if err := s.propose(ctx, &cancelTask{ID: id}, nil); err != nil {
		return fleet.Task{}, err
	}
	return s.Task(id)
}

// FailTask ends a task at once: what was not sent has failed for this reason,
// what was sent is unknown.
func (s *Store) FailTask(ctx context.Context, id, reason string) error {
	return s.propose(ctx, &failTask{ID: id, Reason: cutText(reason)}, nil)
}

// Task returns fleet.ErrNotFound for an unknown ID.
func (s *Store) Task(id string) (t fleet.Task, err error) {
	err = s.read(func(v view) error {
		rec, ok := load[storedTask](v, bucketTasks, id)
		if !ok || rec.Building {
			return noTask(id)
		}
		t = taskOf(v, rec)
		return nil
	})
	return t, err
}

func taskOf(r reader, rec storedTask) fleet.Task {
	rec.Task.Command, _ = load[fleet.AgentCommand](r, bucketTaskCommands, rec.Task.ID)
	return rec.Task
}

// Tasks returns up to limit tasks, the highest IDs first, below after; IDs are
// made so that the newest are the highest.
func (s *Store) Tasks(after string, limit int) (tasks []fleet.Task, err error) {
	limit = pageLimit(limit)
	for more := true; more && err == nil && len(tasks) < limit; {
		more = false
		n := 0
		err = s.read(func(v view) error {
			v.scanDown(bucketTasks, []byte(after), func(k, content []byte) bool {
				if more = n == taskStep; more || len(tasks) == limit {
					return false
				}
				var rec storedTask
				mustDecode(bucketTasks, k, content, &rec)
				if !rec.Building {
					tasks = append(tasks, taskOf(v, rec))
				}
				after = string(k)
				n++
				return true
			})
			return nil
		})
	}
	return tasks, err
}

// taskStep is how many tasks one transaction lists: each may hold 128 KiB.
const taskStep = 100

// SubTasks returns up to limit (at most 5,000) targets with numbers above after.
func (s *Store) SubTasks(taskID string, after uint32, limit int) (subs []fleet.SubTask, err error) {
	limit = pageLimit(limit)
	err = s.read(func(v view) error {
		rec, ok := load[storedTask](v, bucketTasks, taskID)
		if !ok || rec.Building {
			return noTask(taskID)
		}
		subs = subTasksOf(v, taskOf(v, rec), rec.Top, after, limit)
		return nil
	})
	return subs, err
}

// SubTaskByToken returns fleet.ErrNotFound for a token of no sub-task.
func (s *Store) SubTaskByToken(token string) (sub fleet.SubTask, err error) {
	err = s.read(func(v view) error {
		task, n, ok := findToken(v, token)
		if ok {
			rec, known := load[storedTask](v, bucketTasks, task)
			if known && !rec.Building {
				for _, sub = range subTasksOf(v, taskOf(v, rec), rec.Top, n-1, 1) {
					if sub.Number == n {
						return nil
					}
				}
			}
		}
		return fleet.Refuse(fleet.CodeNotFound, "there is no sub-task with token %q", token)
	})
	return sub, err
}

// PendingDispatch returns what the agent should be sent now, in no order: what
// is pending, and what was sent already where sending again does no harm.
func (s *Store) PendingDispatch(agentID string) []fleet.Dispatch {
	if s.fsm.active.none() {
		return nil
	}
	out := s.fsm.active.dispatches(s.numberOf(agentID))
	if len(out) == 0 {
		return nil
	}
	err := s.read(func(v view) error {
		for i := range out {
			out[i].AgentID = agentID
			if out[i].Kind == fleet.TaskKindConfig {
				d, _ := load[desired](v, bucketDesired, agentID)
				out[i].Revision = d.Revision
			}
		}
		return nil
	})
	if err != nil {
		return nil
	}
	return out
}

// Due returns those of the agents for which PendingDispatch has something, for
// much less than asking for each.
func (s *Store) Due(agentIDs []string) []string {
	if s.fsm.active.none() || s.fsm.broken.Load() {
		return nil
	}
	var due []string
	for _, id := range agentIDs {
		if s.fsm.active.due(s.numberOf(id)) {
			due = append(due, id)
		}
	}
	return due
}

// MarkSent commits that the node is about to send; only what is granted may be
// sent. False means that the sub-task ended, was cancelled, or was sent before
// and must not be sent twice.
func (s *Store) MarkSent(ctx context.Context, node string, marks []fleet.TaskMark) (granted []bool, err error) {
	err = inParts(marks, jsonSize[fleet.TaskMark], func(part []fleet.TaskMark) error {
		var some []bool
		err := s.propose(ctx, &markSent{Node: node, Marks: part}, &some)
		granted = append(granted, some...)
		return err
	})
	return granted, err
}

// SetResults stores answers of agents, in order. Unknown tokens, and tokens of
// other agents, are ignored and counted. The first answer of a sub-task counts,
// but any answer counts for one that is unknown.
func (s *Store) SetResults(ctx context.Context, results []fleet.TaskResult) error {
	cut := make([]fleet.TaskResult, len(results))
	for i, r := range results {
		if r.DataType == fleet.DataTypeVerification {
			r.State = ""
		}
		if r.State != "" && r.State != fleet.SubTaskSucceeded && r.State != fleet.SubTaskFailed {
			return fleet.Invalid("state", "%q is not an answer", r.State)
		}
		r.Message, r.Status = cutText(r.Message), cutText(r.Status)
		cut[i] = r
	}
	return inParts(cut, jsonSize[fleet.TaskResult], func(part []fleet.TaskResult) error {
		ignored := 0
		err := s.propose(ctx, &setResults{Results: part}, &ignored)
		s.metrics.resultsIgnored.Add(float64(ignored))
		return err
	})
}

// cutText keeps what fits into fleet.MaxResultBytes, whole characters only.
func cutText(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= fleet.MaxResultBytes {
		return text
	}
	end := fleet.MaxResultBytes
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}
