// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"muster/fleet"
)

// borderNumbers are numbers of agents on both sides of the borders of groups and chunks.
func borderNumbers() []uint32 {
	return []uint32{1, 2, 63, 64, 65, 127, 128, 1<<16 - 1, 1 << 16, 1<<16 + 63, 1<<16 + 64, 3 << 16}
}

// anyActiveUpdate draws what a batch may change: targets that wait, targets that
// got their command, tasks that run or have ended.
func anyActiveUpdate(t *rapid.T) *activeUpdate {
	u := &activeUpdate{}
	for range rapid.IntRange(0, 4).Draw(t, "sets") {
		task := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "task")
		members := rapid.SliceOfDistinct(rapid.SampledFrom(borderNumbers()), rapid.ID[uint32]).Draw(t, "members")
		cut := rapid.IntRange(0, len(members)).Draw(t, "sent")
		for state, numbers := range map[fleet.SubTaskState][]uint32{fleet.SubTaskPending: members[cut:], fleet.SubTaskSent: members[:cut]} {
			for chunk := range uint16(4) {
				set := roaring.New()
				for _, n := range numbers {
					if c, low := split(n); c == chunk {
						set.Add(low)
					}
				}
				u.sets = append(u.sets, setUpdate{task, setOf(state), chunk, set})
			}
		}
		u.tasks = append(u.tasks, taskUpdate{id: task, running: rapid.IntRange(0, 3).Draw(t, "running") > 0, task: fleet.Task{NewTask: fleet.NewTask{
			ID: task, Delivery: rapid.SampledFrom([]fleet.Delivery{fleet.DeliveryOnce, fleet.DeliveryRetry}).Draw(t, "delivery"),
		}}})
	}
	return u
}

// TestTaskIndex: the index finds what walking over every task would find, and
// keeps nothing of what has ended.
func TestTaskIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := newActiveTasks()
		for range rapid.IntRange(1, 8).Draw(t, "batches") {
			a.apply(anyActiveUpdate(t))
			for _, n := range borderNumbers() {
				var got, want []string
				for _, d := range a.dispatches(n) {
					got = append(got, fmt.Sprint(d.TaskID, d.Sent))
				}
				for id, task := range a.tasks {
					if due, sent := task.dueFor(n); due {
						want = append(want, fmt.Sprint(id, sent))
					}
				}
				slices.Sort(got)
				slices.Sort(want)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("agent %d: %s", n, diff)
				}
				if a.due(n) != (len(want) > 0) {
					t.Fatalf("agent %d: due %v, dispatches %v", n, a.due(n), want)
				}
			}
		}
		for group, list := range a.byGroup {
			for _, task := range list {
				if a.tasks[task.id] != task {
					t.Fatalf("group %d lists the task %s, which has ended", group, task.id)
				}
			}
		}
		for _, id := range slices.Collect(maps.Keys(a.tasks)) {
			a.apply(&activeUpdate{tasks: []taskUpdate{{id: id}}})
		}
		if len(a.tasks)+len(a.byGroup) != 0 {
			t.Fatalf("left when all have ended: %v, %v", a.tasks, a.byGroup)
		}
	})
}
