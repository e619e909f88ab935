// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simfleet

// What an agent is about.
const (
	gone       = iota
	waiting    // to ask
	connecting // on its way to a node
	shaking    // hands, in a node's queue
	streaming
)

const (
	maxAnswer = 10

	retryTicks   = 5 * ticks  // of a stock agent, after a stream or all addresses
	giveUpTicks  = 15 * ticks // and for one address
	refusalTicks = 30 * ticks // a node takes an agent again that it has sent away
)

type agent struct {
	answer  [maxAnswer]int16
	listed  uint8
	tried   uint8
	state   uint8
	refused bool // by the first address

	slot     int32 // in its node's sessions
	node     int16
	shedFrom int16
	shedAt   int32 // tick; 0: never
	lost     int32 // tick from which it has had no stream; 0: it has come anew
}

// later has an agent act so many ticks from now.
func (w *World) later(a int32, delay int) {
	at := (w.tick + max(delay, 1)) % horizon
	w.due[at] = append(w.due[at], a)
}

// lost notes that an agent is without a stream from now on.
func (w *World) lost(a int32) { w.agents[a].lost = int32(w.tick) }

// come has an agent come anew.
func (w *World) come(a int32) {
	w.agents[a].state = waiting
	w.lost(a)
	w.later(a, 1)
}

// act is the next step of an agent whose time has come.
func (w *World) act(a int32) {
	g := &w.agents[a]
	switch g.state {
	case gone:
		w.come(a)
	case waiting:
		w.ask(a)
	case connecting:
		w.knock(a)
	case shaking:
		n := w.nodes[g.answer[g.tried]]
		if !n.up {
			w.next(a, 1)
			return
		}
		g.state, g.node, g.slot = streaming, int16(n.index), int32(len(n.sessions))
		n.sessions = append(n.sessions, a)
		w.figures.connected(w.tick-int(g.lost), g.refused)
	}
}

// ask asks a node that lives.
func (w *World) ask(a int32) {
	g := &w.agents[a]
	var asked *node
	for asked = w.nodes[w.rnd.IntN(w.opts.Asked)]; !asked.up; {
		asked = w.nodes[w.rnd.IntN(len(w.nodes))]
	}
	order := w.answer(asked)
	g.listed, g.tried, g.refused = uint8(len(order)), 0, false
	for i, index := range order {
		g.answer[i] = int16(index)
	}
	if len(order) == 0 {
		w.failed(a)
		return
	}
	w.figures.answered(w, asked, order)
	g.state = connecting
	w.later(a, 2+w.rnd.IntN(2*ticks-2))
}

// knock is at a node's door.
func (w *World) knock(a int32) {
	g := &w.agents[a]
	n := w.nodes[g.answer[g.tried]]
	barred := g.shedAt > 0 && int(g.shedFrom) == n.index && w.tick-int(g.shedAt) < refusalTicks
	if !n.takes() || barred {
		w.next(a, 2) // refused at once
		return
	}
	done := max(n.free, float64(w.tick)) + float64(ticks)/w.opts.HandshakeRate
	if wait := int(done) - w.tick; wait < giveUpTicks {
		n.free, g.state = done, shaking
		w.later(a, wait)
	} else {
		w.next(a, giveUpTicks)
	}
}

// takes tells whether an agent that connects now can stay.
func (n *node) takes() bool {
	return n.up && n.load.Ready && !n.refuses && len(n.sessions) < int(n.load.Limit)
}

// next goes on to the next address.
func (w *World) next(a int32, delay int) {
	g := &w.agents[a]
	g.refused = g.refused || g.tried == 0
	if g.tried++; g.tried < g.listed {
		g.state = connecting
		w.later(a, delay)
		return
	}
	w.failed(a)
}

func (w *World) failed(a int32) {
	w.figures.Failures++
	w.agents[a].state = waiting
	w.later(a, retryTicks)
}

// cut ends a stream.
func (w *World) cut(a int32) {
	g := &w.agents[a]
	n := w.nodes[g.node]
	last := n.sessions[len(n.sessions)-1]
	n.sessions[g.slot] = last
	w.agents[last].slot = g.slot
	n.sessions = n.sessions[:len(n.sessions)-1]
}

// shed sends any agent of a node away.
func (w *World) shed(n *node) {
	a := n.sessions[w.rnd.IntN(len(n.sessions))]
	w.cut(a)
	g := &w.agents[a]
	g.shedFrom, g.shedAt = int16(n.index), int32(w.tick)
	g.state = waiting
	w.lost(a)
	w.later(a, retryTicks)
	w.figures.Shed++
}

// leave switches some streaming agent off, for 10 to 60 s.
func (w *World) leave() {
	a := int32(w.rnd.IntN(len(w.agents)))
	if w.agents[a].state != streaming {
		return
	}
	w.cut(a)
	w.agents[a].state = gone
	w.later(a, 10*ticks+w.rnd.IntN(50*ticks))
}
