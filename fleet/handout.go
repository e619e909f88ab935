// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import "sync/atomic"

// HandOuts counts the agents that this node has sent to another one and that the
// other's report does not hold yet. Its zero value is ready; it is safe for
// concurrent use and takes no lock.
type HandOuts struct {
	parts atomic.Uint32 // of an agent, handOutParts each
}

const handOutParts = 64

// Add notes that an agent was sent.
func (h *HandOuts) Add() { h.parts.Add(handOutParts) }

// Reported notes that a report came: half of what was counted is in it. Agents take
// up to 2 s to connect and reports come each second, so of those that were sent in
// the second before a report about half are in it, in the next one three quarters.
func (h *HandOuts) Reported() {
	for {
		parts := h.parts.Load()
		if h.parts.CompareAndSwap(parts, parts/2) {
			return
		}
	}
}

// Outstanding is how many agents are on their way, as far as can be known.
func (h *HandOuts) Outstanding() float64 { return float64(h.parts.Load()) / handOutParts }

// fewHandOuts is about how many agents a node has to have sent lately for it to
// judge who else is asked.
const fewHandOuts = 16

// Askers says how many nodes hand out as many agents as the node called self does,
// itself included: all that live when agents ask one at random, 1 when they ask no
// other. It is for Known.Askers; while little was handed out it is all that live.
func Askers(members []Member, self string) float64 {
	var own, others, live float64
	for i := range members {
		switch m := &members[i]; {
		case m.NodeID == self:
			own = float64(m.Load.HandedOut)
		case m.Alive:
			live++
			others += float64(m.Load.HandedOut)
		}
	}
	return 1 + min(live, (others+fewHandOuts*live)/(own+fewHandOuts))
}
