// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
)

// groupBits is how many low bits of an agent's number the index leaves out: a
// task for a million agents has 16,000 entries, not a million, and an agent is
// compared with the tasks of 63 others.
const groupBits = 6

// taskIndex finds the running tasks that may concern an agent, by the agent's
// group. It may list too many (a task that was sent once, and is not sent
// again), never too few.
type taskIndex map[uint32][]*activeTask

func groupOf(n uint32) uint32 { return n >> groupBits }

// relist brings the index up to date with a chunk of a task's targets.
func (x taskIndex) relist(t *activeTask, chunk uint16) {
	old, now := t.listed[chunk], groupsOf(t.pending[chunk], t.sent[chunk])
	if old == nil {
		old = roaring.New()
	}
	x.change(t, chunk, old, now)
	if t.listed[chunk] = now; now.IsEmpty() {
		delete(t.listed, chunk)
	}
}

// unlist takes a task out.
func (x taskIndex) unlist(t *activeTask) {
	for chunk, old := range t.listed {
		x.change(t, chunk, old, roaring.New())
	}
}

func (x taskIndex) change(t *activeTask, chunk uint16, old, now *roaring.Bitmap) {
	first := groupOf(uint32(chunk) << chunkBits)
	for gone := roaring.AndNot(old, now).Iterator(); gone.HasNext(); {
		group := first + gone.Next()
		list := slices.DeleteFunc(x[group], func(other *activeTask) bool { return other == t })
		if x[group] = list; len(list) == 0 {
			delete(x, group)
		}
	}
	for added := roaring.AndNot(now, old).Iterator(); added.HasNext(); {
		group := first + added.Next()
		x[group] = append(x[group], t)
	}
}

// groupsOf returns the groups within a chunk that have members in any of the
// sets, each of which may be nil.
func groupsOf(sets ...*roaring.Bitmap) *roaring.Bitmap {
	groups := roaring.New()
	for _, set := range sets {
		if set == nil {
			continue
		}
		for it := set.Iterator(); it.HasNext(); {
			group := groupOf(it.PeekNext())
			groups.Add(group)
			it.AdvanceIfNeeded((group + 1) << groupBits)
		}
	}
	return groups
}
