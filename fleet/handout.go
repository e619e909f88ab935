// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"sync/atomic"
	"time"
)

// HandOuts counts the agents that this node has sent to another one and that the
// other's report does not hold yet. Its zero value is ready; it is safe for
// concurrent use and takes no lock.
type HandOuts struct {
	outstanding atomic.Uint64             // in parts
	slots       [connectSlots]slotCounter // what was sent lately, for Reported
}

const (
	// connectWithin is how long an agent that was sent takes to connect, at most.
	// They are taken to be spread evenly over it.
	connectWithin = 2 * time.Second
	connectSlots  = 16
	slotLength    = connectWithin / connectSlots

	parts = 1 << 10 // of an agent
)

// slotCounter counts in its high half the agents of the slot of time whose number
// is in the low one.
type slotCounter struct{ atomic.Uint64 }

func (c *slotCounter) add(slot uint32) {
	for {
		old := c.Load()
		value := old + 1<<32
		if uint32(old) != slot {
			value = 1<<32 | uint64(slot)
		}
		if c.CompareAndSwap(old, value) {
			return
		}
	}
}

func slotOf(t time.Time) uint32 { return uint32(t.UnixNano() / int64(slotLength)) }

// Add notes that an agent was sent.
func (h *HandOuts) Add(now time.Time) {
	slot := slotOf(now)
	h.slots[slot%connectSlots].add(slot)
	h.outstanding.Add(parts)
}

// Reported notes that a report came: the longer ago an agent was sent, the more
// likely it is in it. What is added in the same instant may be missed.
func (h *HandOuts) Reported(now time.Time) {
	slot, sum := slotOf(now), uint64(0)
	for i := range h.slots {
		value := h.slots[i].Load()
		if age := slot - uint32(value); age < connectSlots {
			sum += value >> 32 * parts * uint64(connectSlots-age) / connectSlots
		}
	}
	h.outstanding.Store(sum)
}

// Outstanding is how many agents are on their way, as far as can be known.
func (h *HandOuts) Outstanding() float64 { return float64(h.outstanding.Load()) / parts }

// fewHandOuts is about how many agents a node has to have sent lately for it to
// judge who else is asked.
const fewHandOuts = 16

// Askers estimates how many nodes hand out as many agents as this one, for
// Known.Askers. Its zero value is ready; it is not safe for concurrent use.
type Askers struct {
	own [3]uint32 // HandedOut of this node's last reports
}

// Reported notes what this node's report says of its own HandedOut.
func (a *Askers) Reported(handedOut uint32) { a.own = [3]uint32{handedOut, a.own[0], a.own[1]} }

// Count returns how many they are, itself included: all that live when agents ask
// one at random, 1 when they ask no other. While this node has not handed out much
// for some seconds it is all that live: the others' reports are older than what this
// one knows of itself, and too small a count has all of them fill the same node.
func (a *Askers) Count(members []Member, self string) float64 {
	own := float64(min(a.own[0], a.own[1], a.own[2]))
	var others, live float64
	for i := range members {
		if m := &members[i]; m.Alive && m.NodeID != self {
			live++
			others += float64(m.Load.HandedOut)
		}
	}
	return 1 + min(live, (others+fewHandOuts*live)/(own+fewHandOuts))
}
