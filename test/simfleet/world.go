// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simfleet

import (
	"fmt"
	"math/rand/v2"
	"time"

	"muster/fleet"
)

const (
	tickLength = 10 * time.Millisecond
	ticks      = int(time.Second / tickLength) // in a second

	// horizon is how far ahead anything is planned, in ticks.
	horizon = 128 * ticks
)

// Options of a World.
type Options struct {
	Nodes  int
	Agents int
	// Limit of each node; 0: such that four fifths of all are taken.
	Limit uint32
	// ShedRate is that of fleet.Balancer; 0: the default, or more where a node could
	// not be emptied in 400 s.
	ShedRate int
	// Asked is how many nodes agents ask; 0: all of the first.
	Asked int
	// HandshakeRate is how many agents a node can take in a second; 0: 4,000.
	HandshakeRate float64
	// Quick ends a phase once its effect is there, halves what has a fixed length, and
	// makes the steady hour a minute.
	Quick bool
	Seed  uint64
}

func (o *Options) complete() {
	if o.Limit == 0 {
		o.Limit = uint32(o.Agents * 5 / 4 / o.Nodes)
	}
	if o.ShedRate == 0 {
		o.ShedRate = max(fleet.DefaultShedRate, o.Agents/o.Nodes/400)
	}
	if o.Asked == 0 {
		o.Asked = o.Nodes
	}
	if o.HandshakeRate == 0 {
		o.HandshakeRate = 4000
	}
}

// World is the fleet. It is not safe for concurrent use.
type World struct {
	opts   Options
	rnd    *rand.Rand
	tick   int
	nodes  []*node
	agents []agent

	due     [horizon][]int32  // agents, by tick
	reports [horizon][]report // on their way
	calls   [horizon][]func() // what else is planned
	figures *figures
}

// node is a node, and what it knows of the others.
type node struct {
	index    int
	load     fleet.Load // but for Sessions
	phase    int        // tick of each second at which it reports
	up       bool
	refuses  bool // new agents
	sessions []int32
	free     float64 // tick from which it can take the next handshake
	balancer fleet.Balancer

	view   []fleet.Member
	sent   []fleet.HandOuts
	askers fleet.Askers
	asked  float64 // as askers counts
}

type report struct {
	from, to int
	load     fleet.Load
}

// epoch is when a World begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// New makes nodes that know each other, and agents that have not come yet.
func New(opts Options) *World {
	opts.complete()
	w := &World{
		opts: opts, rnd: rand.New(rand.NewPCG(opts.Seed, 1)),
		agents: make([]agent, opts.Agents), figures: newFigures(),
	}
	for range opts.Nodes {
		w.addNode().load.Ready = true
	}
	for _, n := range w.nodes {
		n.forget(w)
	}
	w.run(2 * ticks) // the first reports
	return w
}

func (w *World) now() time.Time { return epoch.Add(time.Duration(w.tick) * tickLength) }

func (w *World) addNode() *node {
	n := &node{
		index: len(w.nodes), phase: w.rnd.IntN(ticks), up: true,
		load: fleet.Load{Limit: w.opts.Limit}, balancer: fleet.Balancer{Rate: w.opts.ShedRate},
	}
	w.nodes = append(w.nodes, n)
	return n
}

// forget has a node know who there is, and no load.
func (n *node) forget(w *World) {
	n.view, n.sent = make([]fleet.Member, len(w.nodes)), make([]fleet.HandOuts, len(w.nodes))
	for i, other := range w.nodes {
		n.view[i] = fleet.Member{NodeID: fmt.Sprintf("n%03d", i), Alive: other.up}
	}
}

// in plans something.
func (w *World) in(delay int, do func()) {
	at := (w.tick + delay) % horizon
	w.calls[at] = append(w.calls[at], do)
}

// run lets ticks pass.
func (w *World) run(n int) {
	for range n {
		slot := w.tick % horizon
		for _, do := range w.calls[slot] {
			do()
		}
		w.calls[slot] = w.calls[slot][:0]
		for _, r := range w.reports[slot] {
			w.deliver(r)
		}
		w.reports[slot] = w.reports[slot][:0]
		for _, n := range w.nodes {
			if n.up && w.tick%ticks == n.phase {
				w.report(n)
			}
		}
		due := w.due[slot]
		for _, a := range due { // nothing is planned for the tick that is under way
			w.act(a)
		}
		w.due[slot] = due[:0]
		w.tick++
		if w.tick%ticks == 0 {
			w.figures.second(w)
		}
	}
}

// report is what a node does once a second: see where it stands, and tell.
func (w *World) report(n *node) {
	load := n.load
	load.Sessions, load.Sequence = uint32(len(n.sessions)), uint64(w.tick)
	outstanding := 0.0
	for i := range n.sent {
		outstanding += n.sent[i].Outstanding()
	}
	load.HandedOut = uint32(outstanding)
	w.deliver(report{n.index, n.index, load})
	for _, to := range w.nodes {
		if to != n && to.up && w.rnd.IntN(20) > 0 {
			at := (w.tick + 1 + w.rnd.IntN(20)) % horizon
			w.reports[at] = append(w.reports[at], report{n.index, to.index, load})
		}
	}
	step := n.balancer.Step(w.now(), n.view, n.view[n.index].NodeID, len(n.sessions))
	n.refuses = step.RefuseNew
	n.balancer.Sent(min(step.Shed, len(n.sessions)))
	for range min(step.Shed, len(n.sessions)) {
		w.shed(n)
	}
}

func (w *World) deliver(r report) {
	n := w.nodes[r.to]
	if m := &n.view[r.from]; n.up && w.nodes[r.from].up && r.load.Sequence >= m.Load.Sequence {
		m.Load, m.ReportedAt = r.load, w.now()
		n.sent[r.from].Reported(w.now())
		if r.from == r.to { // once a second is often enough
			n.askers.Reported(r.load.HandedOut)
			n.asked = n.askers.Count(n.view, m.NodeID)
		}
	}
}

// answer is what a node says to an agent.
func (w *World) answer(n *node) []int {
	order := fleet.Rank(n.view, fleet.Known{
		HandedOut: func(i int) float64 { return n.sent[i].Outstanding() },
		Askers:    n.asked, Now: w.now(), Rnd: w.rnd,
	}, maxAnswer)
	if len(order) > 0 {
		n.sent[order[0]].Add(w.now())
	}
	return order
}

// kill ends nodes as kill -9 does, all in one moment.
func (w *World) kill(nodes ...*node) {
	for _, n := range nodes {
		n.up, n.load.Ready = false, false
		for _, a := range n.sessions {
			w.agents[a].state = waiting
			w.lost(a)
			w.later(a, retryTicks+w.rnd.IntN(10))
		}
		n.sessions = n.sessions[:0]
	}
	w.in(5*ticks, func() {
		for _, n := range nodes {
			w.see(n, false)
		}
	})
}

// start has nodes come, again or for the first time, with none of their agents.
func (w *World) start(nodes ...*node) {
	for _, n := range nodes {
		n.up, n.refuses, n.free = true, false, 0
		n.balancer = fleet.Balancer{Rate: w.opts.ShedRate}
		n.forget(w)
		w.see(n, true)
		w.in(2*ticks, func() { n.load.Ready = true })
	}
}

// see has all nodes know whether a node is alive.
func (w *World) see(n *node, alive bool) {
	for _, other := range w.nodes {
		for len(other.view) <= n.index { // it is new
			other.view = append(other.view, fleet.Member{NodeID: fmt.Sprintf("n%03d", len(other.view))})
			sent := make([]fleet.HandOuts, len(other.view))
			other.sent = sent // counters cannot be copied; they are young
		}
		other.view[n.index].Alive = alive
		if alive {
			other.view[n.index].ReportedAt = time.Time{}
		}
	}
}
