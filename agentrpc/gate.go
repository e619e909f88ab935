// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"errors"
	"runtime"
	"sync/atomic"
	"time"
)

var (
	errBusy = errors.New("too many handshakes at once")
	errGone = errors.New("the agent gave up while it waited for its turn")
)

// gate lets few TLS handshakes compute at once, in the order in which their
// agents spoke. When thousands of agents connect together, all of them would else
// be served a little and none in time, and the streams that there are would wait
// behind them.
type gate struct {
	slots   chan struct{}
	timeout time.Duration // of waiting, and then of the handshake
	waited  atomic.Int64  // when a handshake last waited for its slot, Unix nanoseconds
}

func newGate(timeout time.Duration) *gate {
	return &gate{slots: make(chan struct{}, runtime.GOMAXPROCS(0)), timeout: timeout}
}

// enter waits for a slot. An agent that is gone when it gets one does not take it.
func (g *gate) enter(gone func() bool) error {
	select {
	case g.slots <- struct{}{}:
		return nil
	default:
	}
	g.waited.Store(time.Now().UnixNano())
	defer func() { g.waited.Store(time.Now().UnixNano()) }()
	timer := time.NewTimer(g.timeout)
	defer timer.Stop()
	select {
	case g.slots <- struct{}{}:
		if gone() {
			g.leave()
			return errGone
		}
		return nil
	case <-timer.C:
		return errBusy
	}
}

func (g *gate) leave() { <-g.slots }

// crowdedFor is how long the gate counts as crowded after a handshake had to wait.
const crowdedFor = time.Second

func (g *gate) crowded() bool { return time.Since(time.Unix(0, g.waited.Load())) < crowdedFor }

// Crowded tells whether agents' handshakes have had to wait for each other in the
// last second: others should leave them the processors.
func (s *Server) Crowded() bool { return s.parts.gate.crowded() }

// passage is a connection's way through the gate: it has a slot from when its
// first bytes are there until it waits for more. An agent that sends nothing holds
// none, and the second half of a handshake, which is less work, needs none. It is
// of the goroutine that makes the handshake alone.
type passage struct {
	gate *gate
	step passageStep
}

type passageStep int

const (
	passageDone passageStep = iota // the zero value: there is no gate
	passageBefore
	passageInside
)

func (p *passage) begin(g *gate) { p.gate, p.step = g, passageBefore }

// reads is called before each read.
func (p *passage) reads() {
	if p.step == passageInside {
		p.end()
	}
}

// hasRead is called after a read that gave something; entered tells that it
// has waited for a slot.
func (p *passage) hasRead(gone func() bool) (entered bool, err error) {
	if p.step != passageBefore {
		return false, nil
	}
	if err := p.gate.enter(gone); err != nil {
		return false, err
	}
	p.step = passageInside
	runtime.Gosched() // behind the second halves and the streams that can go on: else these wait until all have entered
	return true, nil
}

// end gives the slot back if there is one.
func (p *passage) end() {
	if p.step == passageInside {
		p.gate.leave()
	}
	p.gate, p.step = nil, passageDone
}
