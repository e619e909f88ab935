// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simfleet

// Result is what became of a fleet.
type Result struct {
	Options Options
	Phases  []Phase
	Samples []Sample // each second
}

// The names of the phases.
const (
	Arriving  = "all agents arrive"
	Churn     = "0.1 % of them leave each second, and come back"
	OneDies   = "a node dies"
	OneBack   = "it comes back, empty"
	TenthDies = "a tenth of the nodes die at once"
	TenthBack = "they come back, empty"
	Join      = "a node joins"
	Drain     = "a node drains"
	Undrain   = "it takes agents again"
	Storm     = "all agents lose their stream at once"
	Steady    = "an hour in which nothing happens"
)

// arriveFor is how long all agents take to come, in seconds.
const arriveFor = 200

// Tell runs everything that happens to a fleet, one phase after the other.
func Tell(opts Options) Result {
	opts.complete()
	w := New(opts)
	each := opts.Agents / opts.Nodes
	level := func() { w.level(240 + each/150) } // seconds: nodes are filled at 200 a second and more
	w.phase(Arriving, 10, func() { w.arrive(); w.run(5 * ticks) })
	w.phase(Churn, 0, func() {
		for range w.seconds(120) {
			for range opts.Agents / 1000 {
				w.leave()
			}
			w.run(ticks)
		}
	})
	w.run(70 * ticks) // all are back
	w.phase(OneDies, 0, func() { w.kill(w.nodes[0]); w.run(w.seconds(60) * ticks) })
	w.phase(OneBack, 0, func() { w.start(w.nodes[0]); level() })
	tenth := w.nodes[1 : 1+max(1, opts.Nodes/10)]
	w.phase(TenthDies, 0, func() { w.kill(tenth...); w.run(w.seconds(60) * ticks) })
	w.phase(TenthBack, 0, func() { w.start(tenth...); level() })
	w.phase(Join, 0, func() { w.start(w.addNode()); level() })
	w.phase(Drain, 0, func() {
		n := w.nodes[2]
		n.load.Draining = true
		for n.load.Draining && len(n.sessions) > 0 && w.tick/ticks < w.figures.From+1200 {
			w.run(ticks)
		}
		w.run(30 * ticks)
	})
	w.phase(Undrain, 0, func() { w.nodes[2].load.Draining = false; level() })
	w.phase(Storm, 0, func() { w.loseAll(); w.run(w.seconds(120) * ticks) })
	level()
	w.phase(Steady, 0, func() {
		if opts.Quick {
			w.run(60 * ticks)
			return
		}
		w.run(3600 * ticks)
	})
	return Result{Options: opts, Phases: w.figures.phases, Samples: w.figures.samples}
}

// seconds is half as many in a quick story.
func (w *World) seconds(n int) int {
	if w.opts.Quick {
		return n / 2
	}
	return n
}

func (w *World) phase(name string, worstFrom int, happen func()) {
	w.begin(name)
	happen()
	w.end(worstFrom)
}

// level lets so many seconds pass, for agents to be moved.
func (w *World) level(seconds int) {
	const still = 30 // seconds: a node does not begin before 15
	for s, moved, at := 0, w.figures.Shed, 0; s < seconds && (!w.opts.Quick || s-at < still); s++ {
		w.run(ticks)
		if w.figures.Shed != moved {
			moved, at = w.figures.Shed, s
		}
	}
}

// arrive has all agents come, at an even rate.
func (w *World) arrive() {
	steps := w.seconds(arriveFor) * ticks
	for s := range steps {
		for a := s * len(w.agents) / steps; a < (s+1)*len(w.agents)/steps; a++ {
			w.come(int32(a))
		}
		w.run(1)
	}
}

// loseAll ends all streams, as a failing network between agents and nodes does.
func (w *World) loseAll() {
	for _, n := range w.nodes {
		for _, a := range n.sessions {
			w.agents[a].state = waiting
			w.lost(a)
			w.later(a, retryTicks+w.rnd.IntN(10))
		}
		n.sessions = n.sessions[:0]
	}
}
