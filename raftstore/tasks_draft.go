// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"encoding/binary"
	"math"

	"github.com/RoaringBitmap/roaring/v2"

	"muster/fleet"
)

// Bounds of tasks.
const (
	maxTasks = 10_000
	// taskKeepSeconds is how long an ended task stays with its results.
	taskKeepSeconds = 30 * 24 * 3600
	// buildSeconds is how long a task of many entries may take to be complete.
	buildSeconds = 600
	chunkBits    = 16
)

// storedTask is a task's value: fleet.Task without its command, which is large
// and never changes, and what the store keeps beside it.
type storedTask struct {
	Task fleet.Task `json:"task"`
	// Building is true until every target is there; nobody sees the task before.
	Building bool `json:"building,omitempty"`
	// Top is the highest target number.
	Top uint32 `json:"top"`
	// DueAt and GoneFrom are the times under which the task stands in
	// bucketTaskDue and bucketTaskEnded; 0: it does not.
	DueAt    int64 `json:"due_at,omitempty"`
	GoneFrom int64 `json:"gone_from,omitempty"`
}

// setOf names the set of targets in a state; its values are part of the keys.
func setOf(s fleet.SubTaskState) byte {
	switch s {
	case fleet.SubTaskWaiting:
		return 'w'
	case fleet.SubTaskPending:
		return 'p'
	case fleet.SubTaskSent:
		return 's'
	case fleet.SubTaskSucceeded:
		return 'k'
	case fleet.SubTaskFailed:
		return 'f'
	case fleet.SubTaskUnknown:
		return 'u'
	case fleet.SubTaskExpired:
		return 'e'
	case fleet.SubTaskCancelled:
		return 'c'
	}
	return 0
}

func subTaskStates() []fleet.SubTaskState {
	return []fleet.SubTaskState{
		fleet.SubTaskWaiting, fleet.SubTaskPending, fleet.SubTaskSent, fleet.SubTaskSucceeded,
		fleet.SubTaskFailed, fleet.SubTaskUnknown, fleet.SubTaskExpired, fleet.SubTaskCancelled,
	}
}

// countOf returns the place where targets in state s are counted.
func countOf(n *fleet.TaskCounts, s fleet.SubTaskState) *int {
	switch s {
	case fleet.SubTaskWaiting:
		return &n.Waiting
	case fleet.SubTaskPending:
		return &n.Pending
	case fleet.SubTaskSent:
		return &n.Sent
	case fleet.SubTaskSucceeded:
		return &n.Succeeded
	case fleet.SubTaskFailed:
		return &n.Failed
	case fleet.SubTaskUnknown:
		return &n.Unknown
	case fleet.SubTaskExpired:
		return &n.Expired
	case fleet.SubTaskCancelled:
		return &n.Cancelled
	}
	return new(int)
}

// setKey is task, zero byte, set, chunk: the targets whose numbers share their upper half.
func setKey(task string, set byte, chunk uint16) []byte {
	return binary.BigEndian.AppendUint16(append(joinKey(task, ""), set), chunk)
}

// chunkID names a loaded chunk of a draft.
type chunkID struct {
	state fleet.SubTaskState
	chunk uint16
}

// draft is a task under change within one command. Each target is in exactly
// one of the sets, and the counts are their sizes.
type draft struct {
	c    *change
	rec  storedTask
	sets map[chunkID]*roaring.Bitmap
}

// openTask returns nil if there is no such task, or only a part of one.
func (c *change) openTask(id string) *draft {
	if d := c.openPart(id); d != nil && !d.rec.Building {
		return d
	}
	return nil
}

func (c *change) openPart(id string) *draft {
	rec, ok := load[storedTask](c, bucketTasks, id)
	if !ok {
		return nil
	}
	return &draft{c: c, rec: rec, sets: make(map[chunkID]*roaring.Bitmap)}
}

func (d *draft) set(s fleet.SubTaskState, chunk uint16) *roaring.Bitmap {
	id := chunkID{s, chunk}
	if have, ok := d.sets[id]; ok {
		return have
	}
	key := setKey(d.rec.Task.ID, setOf(s), chunk)
	set := decodeSet(key, d.c.get(bucketTaskSets, key))
	d.sets[id] = set
	return set
}

func split(n uint32) (chunk uint16, low uint32) {
	return uint16(n >> chunkBits), n & (1<<chunkBits - 1)
}

// chunks returns how many chunks the targets span.
func (d *draft) chunks() int { return int(d.rec.Top>>chunkBits) + 1 }

// stateOf returns "" for an agent that is no target.
func (d *draft) stateOf(n uint32) fleet.SubTaskState {
	if n == 0 || n > d.rec.Top {
		return ""
	}
	chunk, low := split(n)
	for _, s := range subTaskStates() {
		if *countOf(&d.rec.Task.Counts, s) > 0 && d.set(s, chunk).Contains(low) {
			return s
		}
	}
	return ""
}

// addTarget puts a new target in state waiting; one that is there already stays.
func (d *draft) addTarget(n uint32) {
	if d.stateOf(n) != "" {
		return
	}
	chunk, low := split(n)
	d.set(fleet.SubTaskWaiting, chunk).Add(low)
	d.rec.Top = max(d.rec.Top, n)
	d.rec.Task.Counts.Total++
	d.rec.Task.Counts.Waiting++
}

func (d *draft) move(n uint32, from, to fleet.SubTaskState) {
	chunk, low := split(n)
	d.set(from, chunk).Remove(low)
	d.set(to, chunk).Add(low)
	*countOf(&d.rec.Task.Counts, from)--
	*countOf(&d.rec.Task.Counts, to)++
}

// moveFirst moves up to limit targets, lowest numbers first, and returns them
// if wanted.
func (d *draft) moveFirst(from, to fleet.SubTaskState, limit int, want bool) (moved int, numbers []uint32) {
	for chunk := range d.chunks() {
		if moved == limit || *countOf(&d.rec.Task.Counts, from) == 0 {
			break
		}
		src, dst := d.set(from, uint16(chunk)), d.set(to, uint16(chunk))
		part := src
		if left := limit - moved; src.GetCardinality() > uint64(left) {
			part = roaring.New()
			for it := src.Iterator(); left > 0; left-- {
				part.Add(it.Next())
			}
		}
		part = part.Clone()
		n := int(part.GetCardinality())
		dst.Or(part)
		src.AndNot(part)
		*countOf(&d.rec.Task.Counts, from) -= n
		*countOf(&d.rec.Task.Counts, to) += n
		moved += n
		if want {
			for it := part.Iterator(); it.HasNext(); {
				numbers = append(numbers, uint32(chunk)<<chunkBits|it.Next())
			}
		}
	}
	return moved, numbers
}

func (d *draft) moveAll(from, to fleet.SubTaskState) {
	d.moveFirst(from, to, math.MaxInt, false)
}

// save settles the task's status and writes everything that may have changed.
func (d *draft) save() {
	c, t := d.c, &d.rec.Task
	t.UpdatedAt = c.now
	open := t.Counts.Pending + t.Counts.Sent
	switch {
	case d.rec.Building:
	case open == 0 && (t.Status == fleet.TaskRunning || t.Status == fleet.TaskCreated && t.Counts.Waiting == 0):
		t.Status, t.EndedAt = fleet.TaskFinished, c.now
		c.touch(fleet.TableTasks)
	case t.Status == fleet.TaskCancelled && t.Counts.Sent == 0 && t.EndedAt == 0:
		t.EndedAt = c.now
		c.touch(fleet.TableTasks)
	}
	d.index()
	for id, set := range d.sets {
		key := setKey(t.ID, setOf(id.state), id.chunk)
		old := c.get(bucketTaskSets, key)
		switch {
		case !set.IsEmpty():
			c.put(bucketTaskSets, key, encodeSet(set))
		case old != nil:
			c.remove(bucketTaskSets, key)
		}
	}
	rec := d.rec
	rec.Task.Command = fleet.AgentCommand{}
	c.store(bucketTasks, t.ID, rec)
}

// index keeps the task in bucketTaskDue while time can still change it, and in
// bucketTaskEnded from then on.
func (d *draft) index() {
	t := &d.rec.Task
	var due, gone int64
	switch {
	case d.rec.Building:
		due = t.CreatedAt + buildSeconds
	case t.Counts.Waiting+t.Counts.Pending+t.Counts.Sent == 0:
		gone = t.EndedAt
	case t.Deadline != 0:
		due = t.Deadline
	default:
		due = t.CreatedAt + fleet.MaxTaskSeconds
	}
	reindex(d.c, bucketTaskDue, t.ID, &d.rec.DueAt, due)
	reindex(d.c, bucketTaskEnded, t.ID, &d.rec.GoneFrom, gone)
}

func reindex(c *change, b bucket, id string, at *int64, to int64) {
	if *at == to {
		return
	}
	if *at != 0 {
		c.remove(b, timeKey(*at, id))
	}
	if to != 0 {
		c.put(b, timeKey(to, id), nil)
	}
	*at = to
}
