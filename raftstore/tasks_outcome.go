// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"bytes"
	"slices"

	"muster/fleet"
)

// markSent commits that commands are about to be written to agents' streams.
type markSent struct {
	Node  string           `json:"node"`
	Marks []fleet.TaskMark `json:"marks"`
}

func (*markSent) kind() string { return "task.sent" }

// decide answers, mark by mark, whether the command may be sent now.
func (m *markSent) decide(c *change) (any, error) {
	drafts := make(map[string]*draft)
	granted := make([]bool, len(m.Marks))
	for i, mark := range m.Marks {
		d := c.openOnce(drafts, mark.TaskID)
		if d == nil {
			continue
		}
		switch d.stateOf(mark.Number) {
		case fleet.SubTaskPending:
			d.move(mark.Number, fleet.SubTaskPending, fleet.SubTaskSent)
			granted[i] = true
		case fleet.SubTaskSent:
			granted[i] = d.rec.Task.Status == fleet.TaskRunning && mayResend(d.rec.Task.NewTask)
		default:
		}
	}
	saveAll(drafts)
	return granted, nil
}

// mayResend tells whether a second send does no harm.
func mayResend(t fleet.NewTask) bool {
	return t.Delivery == fleet.DeliveryRetry || t.Kind == fleet.TaskKindConfig
}

func (c *change) openOnce(drafts map[string]*draft, id string) *draft {
	d, ok := drafts[id]
	if !ok {
		d = c.openTask(id)
		drafts[id] = d
	}
	return d
}

func saveAll(drafts map[string]*draft) {
	for _, d := range drafts {
		if d != nil {
			d.save()
		}
	}
}

// setResults stores answers of agents.
type setResults struct {
	Results []fleet.TaskResult `json:"results"`
}

func (*setResults) kind() string { return "task.results" }

// decide answers how many results were of no sub-task, or of another agent's.
func (s *setResults) decide(c *change) (any, error) {
	drafts := make(map[string]*draft)
	ignored := 0
	for _, r := range s.Results {
		task, n, ok := findToken(c, r.Token)
		if !ok || agentOfNumber(c, n) != r.AgentID {
			ignored++
			continue
		}
		d := c.openOnce(drafts, task)
		if d == nil || d.stateOf(n) == "" {
			ignored++
			continue
		}
		d.result(n, r)
	}
	saveAll(drafts)
	return ignored, nil
}

// findToken resolves a caller's own token first, then one that we made.
func findToken(r reader, token string) (task string, number uint32, ok bool) {
	if own, ok := load[taskToken](r, bucketTaskTokens, token); ok {
		return own.Task, own.Number, true
	}
	return fleet.ParseTaskToken(token)
}

// result moves a target to the end that its answer names, and keeps the text of
// failures, of verifications, and of everything where the task asks for it.
func (d *draft) result(n uint32, r fleet.TaskResult) {
	if r.State != "" {
		switch from := d.stateOf(n); from {
		case fleet.SubTaskPending, fleet.SubTaskSent, fleet.SubTaskUnknown:
			d.move(n, from, r.State)
		default:
			return // waiting, or ended: the first answer counts
		}
		if r.State == fleet.SubTaskSucceeded && !d.rec.Task.KeepResults {
			return
		}
	}
	d.c.store(bucketTaskResults, string(resultKey(d.rec.Task.ID, n)), r)
}

// endDueTasks ends what is still open when a deadline has passed, and forgets
// tasks that were never completed.
func (c *change) endDueTasks() {
	var due []string
	c.scan(bucketTaskDue, nil, func(k, _ []byte) bool {
		at, id := splitTimeKey(k)
		if at <= c.now {
			due = append(due, id)
		}
		return at <= c.now && len(due) < pruneItems
	})
	for _, id := range due {
		d := c.openPart(id)
		if d == nil {
			continue
		}
		if d.rec.Building {
			c.forgetTask(id)
			continue
		}
		if d.rec.Task.Status == fleet.TaskCreated {
			d.rec.Task.Status = fleet.TaskRunning // so that it can finish
		}
		d.moveAll(fleet.SubTaskWaiting, fleet.SubTaskExpired)
		d.moveAll(fleet.SubTaskPending, fleet.SubTaskExpired)
		d.moveAll(fleet.SubTaskSent, fleet.SubTaskUnknown)
		d.save()
		c.touch(fleet.TableTasks)
	}
}

// forgetTasks removes a few of the tasks whose time of keeping is over.
func (c *change) forgetTasks() {
	var old []string
	c.scan(bucketTaskEnded, nil, func(k, _ []byte) bool {
		at, id := splitTimeKey(k)
		if at <= c.now-taskKeepSeconds {
			old = append(old, id)
		}
		return at <= c.now-taskKeepSeconds && len(old) < pruneTasks
	})
	for _, id := range old {
		c.forgetTask(id)
	}
}

// pruneTasks bounds the tasks that one tick forgets; each may have a result for
// every agent, of which one entry removes pruneResults.
const (
	pruneTasks   = 10
	pruneResults = 5000
)

// forgetTask removes a task with all that belongs to it. A task with very many
// results is removed result by result first and goes with a later entry.
func (c *change) forgetTask(id string) {
	d := c.openPart(id)
	if d == nil {
		return
	}
	keys, more := c.keysOf(bucketTaskResults, joinKey(id, ""), pruneResults)
	for _, k := range keys {
		c.remove(bucketTaskResults, k)
	}
	if more {
		return
	}
	sets, _ := c.keysOf(bucketTaskSets, joinKey(id, ""), -1)
	for _, k := range sets {
		c.remove(bucketTaskSets, k)
	}
	cmd, _ := load[fleet.AgentCommand](c, bucketTaskCommands, id)
	if cmd.Task != nil && cmd.Task.Token != "" {
		if own, ok := load[taskToken](c, bucketTaskTokens, cmd.Task.Token); ok && own.Task == id {
			c.remove(bucketTaskTokens, []byte(cmd.Task.Token))
		}
	}
	reindex(c, bucketTaskDue, id, &d.rec.DueAt, 0)
	reindex(c, bucketTaskEnded, id, &d.rec.GoneFrom, 0)
	c.remove(bucketTaskCommands, []byte(id))
	c.remove(bucketTasks, []byte(id))
	n := loadCounters(c)
	n.Tasks--
	c.setCounters(n)
	c.touch(fleet.TableTasks)
}

// keysOf returns up to limit keys with the prefix; more tells that there are others.
func (c *change) keysOf(b bucket, prefix []byte, limit int) (keys [][]byte, more bool) {
	c.scan(b, prefix, func(k, _ []byte) bool {
		if !bytes.HasPrefix(k, prefix) {
			return false
		}
		if len(keys) == limit {
			more = true
			return false
		}
		keys = append(keys, slices.Clone(k))
		return true
	})
	return keys, more
}
