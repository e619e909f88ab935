// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simfleet

// Sample is the fleet at one second.
type Sample struct {
	Second      int
	Most, Least float64 // sessions over the fair share, of the nodes that take agents
	Streams     int
}

// Phase is what was measured while one thing happened.
type Phase struct {
	Name        string
	From, To    int     // seconds
	Worst       float64 // Most of its worst second; while agents arrive, after the first ten
	Most, Least float64 // at its end
	// Level is after how many seconds every node that takes agents had 90 % of its
	// share, for good; -1 if not.
	Level int

	Answers, FirstGood   int // the first address could take the agent at that moment
	Connected, Refused   int // agents that got a stream; those whose first address refused them
	Failures             int // times that no address took an agent
	Shed                 int
	Lost                 int    // agents without a stream at the end
	Age, Without         [3]int // of load reports in the answers, and times without a stream: p50, p99 and the longest, in ticks
	ages, withoutStreams histogram
}

// figures is what a World counts.
type figures struct {
	samples []Sample
	phases  []Phase
	*Phase  // the present one
}

func newFigures() *figures { return &figures{Phase: newPhase("", 0)} }

func newPhase(name string, second int) *Phase {
	return &Phase{Name: name, From: second, ages: make(histogram, horizon), withoutStreams: make(histogram, horizon)}
}

// histogram counts by ticks; the last is for all that is more.
type histogram []uint32

func (h histogram) add(ticks int) { h[max(0, min(ticks, len(h)-1))]++ }

// summary returns p50, p99 and the largest.
func (h histogram) summary() [3]int {
	total, largest := uint64(0), 0
	for i, n := range h {
		if total += uint64(n); n > 0 {
			largest = i
		}
	}
	at := func(share float64) int {
		passed := uint64(0)
		for i, n := range h {
			if passed += uint64(n); float64(passed) >= share*float64(total) {
				return i
			}
		}
		return 0
	}
	return [3]int{at(0.5), at(0.99), largest}
}

func (f *figures) answered(w *World, asked *node, order []int) {
	f.Answers++
	if w.nodes[order[0]].takes() {
		f.FirstGood++
	}
	other := w.rnd.IntN(len(w.nodes))
	if n := w.nodes[other]; n != asked && n.up && n.load.Ready && !asked.view[other].ReportedAt.IsZero() {
		f.ages.add(w.tick - int(asked.view[other].Load.Sequence))
	}
}

func (f *figures) connected(without int, refused bool) {
	f.Connected++
	f.withoutStreams.add(without)
	if refused {
		f.Refused++
	}
}

// second looks at all nodes.
func (f *figures) second(w *World) {
	s := Sample{Second: w.tick / ticks}
	limits, sessions := 0.0, 0.0
	for _, n := range w.nodes {
		s.Streams += len(n.sessions)
		if n.counts() {
			limits += float64(n.load.Limit)
		}
		if n.up { // a draining node's will have to move
			sessions += float64(len(n.sessions))
		}
	}
	first := true
	for _, n := range w.nodes {
		if !n.counts() || sessions == 0 {
			continue
		}
		ratio := float64(len(n.sessions)) * limits / (float64(n.load.Limit) * sessions)
		if first || ratio < s.Least {
			s.Least = ratio
		}
		s.Most, first = max(s.Most, ratio), false
	}
	f.samples = append(f.samples, s)
}

// counts tells whether a node should have its share.
func (n *node) counts() bool { return n.up && n.load.Ready && !n.load.Draining }

// begin starts a phase.
func (w *World) begin(name string) { w.figures.Phase = newPhase(name, w.tick/ticks) }

// end ends it; its worst second is looked for from the given one on.
func (w *World) end(worstFrom int) {
	f := w.figures
	p := f.Phase
	p.To, p.Level = w.tick/ticks, -1
	for _, s := range f.samples {
		switch {
		case s.Second <= p.From:
			continue
		case s.Second > p.From+worstFrom:
			p.Worst = max(p.Worst, s.Most)
		}
		p.Most, p.Least = s.Most, s.Least
		if s.Least < 0.9 {
			p.Level = -1
		} else if p.Level < 0 {
			p.Level = s.Second - p.From
		}
	}
	for i := range w.agents {
		if s := w.agents[i].state; s == waiting || s == connecting || s == shaking {
			p.Lost++
		}
	}
	p.Age, p.Without = p.ages.summary(), p.withoutStreams.summary()
	p.ages, p.withoutStreams = nil, nil
	f.phases = append(f.phases, *p)
	w.begin("") // what happens between two phases
}
