// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"sync"
	"time"
)

const (
	// cloneWindow and cloneMoves: an agent that changes its node so often in
	// that time is several hosts with one ID.
	cloneWindow = time.Minute
	cloneMoves  = 3
)

// moves finds agent IDs that several hosts use: their streams take the agent
// from each other, again and again. It counts, as this node sees them, sessions
// lost to another node and won back. Only agents that were lost in the last
// minute or two are remembered.
type moves struct {
	limit int

	mu sync.Mutex
	// young holds the agents that moved since turned, old those that did in the
	// window before; at most limit each. Above it moves are not watched.
	young, old map[string]*moved
	turned     time.Time
}

// moved is when an agent changed its node: the last times, newest first.
type moved struct {
	at                  [cloneMoves]time.Time
	clonedUntil, warned time.Time
}

func newMoves(limit int) *moves {
	return &moves{limit: limit, young: make(map[string]*moved)}
}

// lost notes that an agent's session here gave way to one on another node; true
// means that it is a clone and nobody was told for a window.
func (m *moves) lost(id string) bool { return m.note(id, true) }

// gained notes that an agent has opened a session here.
func (m *moves) gained(id string) bool { return m.note(id, false) }

func (m *moves) note(id string, lost bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.turn(now)
	v := m.find(id)
	switch {
	case v == nil && (!lost || len(m.young) >= m.limit):
		return false // it need not have come from another node
	case v == nil:
		v = &moved{}
	}
	m.young[id] = v
	delete(m.old, id)
	copy(v.at[1:], v.at[:])
	v.at[0] = now
	if now.Sub(v.at[cloneMoves-1]) > cloneWindow { // zero when there were fewer
		return false
	}
	v.clonedUntil = now.Add(cloneWindow)
	if now.Sub(v.warned) < cloneWindow {
		return false
	}
	v.warned = now
	return true
}

// cloned tells whether an agent was found to be a clone less than a window ago.
func (m *moves) cloned(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.find(id)
	return v != nil && time.Now().Before(v.clonedUntil)
}

// turn forgets the agents that have not moved for a window. It needs m.mu.
func (m *moves) turn(now time.Time) {
	since := now.Sub(m.turned)
	if since < cloneWindow {
		return
	}
	m.old = m.young
	if since >= 2*cloneWindow {
		m.old = nil
	}
	m.young, m.turned = make(map[string]*moved), now
}

// find needs m.mu.
func (m *moves) find(id string) *moved {
	if v := m.young[id]; v != nil {
		return v
	}
	return m.old[id]
}

// warnOfClone tells the operator, once a window for each agent while it lasts;
// the metric shows those whose line was left out.
func (c *claims) warnOfClone(sess *session) {
	c.server.metrics.cloned.Inc()
	c.cloneLogs.Warn("several hosts use one agent ID and take its stream from each other, the newest keeps it: give each host an ID of its own and restart its agent",
		"agent_id", sess.id, "remote", sess.peer.addr)
}
