// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"slices"
	"sync"

	"github.com/RoaringBitmap/roaring/v2"

	"muster/fleet"
)

// activeTasks holds the running tasks in memory, so that asking what an agent
// should be sent costs no disk. It follows from the state alone: the writes of
// each batch are fed to it, and at start everything is.
type activeTasks struct {
	mu      sync.RWMutex
	tasks   map[string]*activeTask
	byGroup taskIndex
}

type activeTask struct {
	id   string
	task fleet.Task
	// pending and sent map a chunk to its targets; a bitmap is replaced, never changed.
	pending, sent map[uint16]*roaring.Bitmap
	listed        map[uint16]*roaring.Bitmap // what taskIndex.relist noted, by chunk
}

func newActiveTasks() *activeTasks {
	return &activeTasks{tasks: make(map[string]*activeTask), byGroup: make(taskIndex)}
}

// dueFor tells whether the agent with this number should be sent the task, and
// whether it was sent before.
func (t *activeTask) dueFor(n uint32) (due, sent bool) {
	chunk, low := split(n)
	if set := t.sent[chunk]; set != nil && set.Contains(low) {
		return mayResend(t.task.NewTask), true
	}
	set := t.pending[chunk]
	return set != nil && set.Contains(low), false
}

// activeUpdate is what a batch changes in memory, decoded while its
// transaction is open and carried out when it is committed.
type activeUpdate struct {
	sets  []setUpdate
	tasks []taskUpdate
}

type setUpdate struct {
	task    string
	set     byte
	chunk   uint16
	members *roaring.Bitmap
}

type taskUpdate struct {
	id      string
	running bool
	task    fleet.Task
}

// note takes one written key into account; content is nil for a deleted one.
func (u *activeUpdate) note(r reader, b bucket, key, content []byte) {
	switch b {
	case bucketTaskSets:
		task, set, chunk := splitSetKey(key)
		if set == setOf(fleet.SubTaskPending) || set == setOf(fleet.SubTaskSent) {
			u.sets = append(u.sets, setUpdate{task, set, chunk, decodeSet(key, content)})
		}
	case bucketTasks:
		up := taskUpdate{id: string(key)}
		if content != nil {
			var rec storedTask
			mustDecode(b, key, content, &rec)
			up.task, up.running = rec.Task, rec.Task.Status == fleet.TaskRunning && !rec.Building
		}
		if up.running {
			up.task.Command, _ = load[fleet.AgentCommand](r, bucketTaskCommands, up.id)
		}
		u.tasks = append(u.tasks, up)
	default:
	}
}

// splitSetKey is the reverse of setKey.
func splitSetKey(key []byte) (task string, set byte, chunk uint16) {
	n := len(key)
	if n < 4 {
		panic(damage{"a set's key is too short"})
	}
	return string(key[:n-4]), key[n-3], uint16(key[n-2])<<8 | uint16(key[n-1])
}

func (a *activeTasks) apply(u *activeUpdate) {
	if len(u.sets)+len(u.tasks) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range u.sets {
		t := a.tasks[s.task]
		if t == nil && s.members.IsEmpty() {
			continue
		}
		if t == nil {
			t = &activeTask{
				id:      s.task,
				pending: make(map[uint16]*roaring.Bitmap), sent: make(map[uint16]*roaring.Bitmap), listed: make(map[uint16]*roaring.Bitmap),
			}
			a.tasks[s.task] = t
		}
		chunks := t.pending
		if s.set == setOf(fleet.SubTaskSent) {
			chunks = t.sent
		}
		if chunks[s.chunk] = s.members; s.members.IsEmpty() {
			delete(chunks, s.chunk)
		}
	}
	for _, up := range u.tasks {
		t := a.tasks[up.id]
		switch {
		case t == nil:
		case up.running:
			t.task = up.task
		default:
			delete(a.tasks, up.id)
			a.byGroup.unlist(t)
		}
	}
	for _, s := range u.sets {
		if t := a.tasks[s.task]; t != nil {
			a.byGroup.relist(t, s.chunk)
		}
	}
}

// rebuild replaces everything by what the state says.
func (a *activeTasks) rebuild(r reader) {
	var u activeUpdate
	for _, b := range []bucket{bucketTaskSets, bucketTasks} {
		r.scan(b, nil, func(k, content []byte) bool {
			u.note(r, b, k, content)
			return true
		})
	}
	fresh := newActiveTasks()
	fresh.apply(&u)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tasks, a.byGroup = fresh.tasks, fresh.byGroup
}

func (a *activeTasks) none() bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return len(a.tasks) == 0
}

// dispatches returns what the agent with this number should be sent. Revision
// and the agent's ID are left to the caller.
func (a *activeTasks) dispatches(n uint32) []fleet.Dispatch {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var out []fleet.Dispatch
	for _, t := range a.byGroup[groupOf(n)] {
		due, sent := t.dueFor(n)
		if !due {
			continue
		}
		out = append(out, fleet.Dispatch{
			TaskID: t.id, Number: n, Kind: t.task.Kind,
			Command:  commandFor(t.task.Command, t.id, n),
			Delivery: t.task.Delivery, Deadline: t.task.Deadline, Sent: sent,
		})
	}
	return out
}

// due tells whether dispatches would return something.
func (a *activeTasks) due(n uint32) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return slices.ContainsFunc(a.byGroup[groupOf(n)], func(t *activeTask) bool {
		due, _ := t.dueFor(n)
		return due
	})
}

// commandFor returns cmd with the token under which the agent answers.
func commandFor(cmd fleet.AgentCommand, task string, n uint32) fleet.AgentCommand {
	if cmd.Task != nil {
		t := *cmd.Task
		t.Token = tokenOf(cmd, task, n)
		cmd.Task = &t
	}
	return cmd
}

// tokenOf prefers the caller's own token.
func tokenOf(cmd fleet.AgentCommand, task string, n uint32) string {
	if cmd.Task != nil && cmd.Task.Token != "" {
		return cmd.Task.Token
	}
	return fleet.TaskToken(task, n)
}
