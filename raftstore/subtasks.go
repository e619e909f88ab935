// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"math"
	"slices"

	"muster/fleet"
)

// subTasksOf lists targets with numbers above after, in order.
func subTasksOf(r reader, t fleet.Task, top, after uint32, limit int) (subs []fleet.SubTask) {
	if after == math.MaxUint32 {
		return nil
	}
	for chunk := int(after+1) >> chunkBits; chunk <= int(top)>>chunkBits && len(subs) < limit; chunk++ {
		numbers, states := chunkOf(r, t.ID, uint16(chunk), after, limit-len(subs))
		for _, n := range numbers {
			subs = append(subs, subTask(r, t, n, states[n]))
		}
	}
	return subs
}

// chunkOf returns the lowest numbers above after in a chunk, and their states.
func chunkOf(r reader, task string, chunk uint16, after uint32, limit int) ([]uint32, map[uint32]fleet.SubTaskState) {
	var numbers []uint32
	states := make(map[uint32]fleet.SubTaskState)
	for _, s := range subTaskStates() {
		key := setKey(task, setOf(s), chunk)
		it := decodeSet(key, r.get(bucketTaskSets, key)).Iterator()
		if first := after + 1; first > uint32(chunk)<<chunkBits {
			_, low := split(first)
			it.AdvanceIfNeeded(low)
		}
		for taken := 0; taken < limit && it.HasNext(); taken++ {
			n := uint32(chunk)<<chunkBits | it.Next()
			numbers = append(numbers, n)
			states[n] = s
		}
	}
	slices.Sort(numbers)
	return numbers[:min(limit, len(numbers))], states
}

func subTask(r reader, t fleet.Task, n uint32, state fleet.SubTaskState) fleet.SubTask {
	sub := fleet.SubTask{
		TaskID: t.ID, AgentID: agentOfNumber(r, n), Number: n,
		Token: tokenOf(t.Command, t.ID, n), State: state,
	}
	key := string(resultKey(t.ID, n))
	if result, ok := load[fleet.TaskResult](r, bucketTaskResults, key); ok {
		sub.Result = &result
	}
	return sub
}
