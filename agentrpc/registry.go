// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"sync"
	"sync/atomic"

	"muster/fleet"
)

// registry holds the sessions of this node, one per agent.
type registry struct {
	limit int
	clock epochClock

	unnamed atomic.Int64 // streams on which nothing has come yet

	mu   sync.RWMutex
	byID map[string]*session
}

// addResult is what became of adding a session.
type addResult int

const (
	added addResult = iota
	addRefusedFull
	addRefusedEnded
)

// add enters a session under an agent's ID. The newest stream wins: an older
// session of that agent is taken out and becomes sess.previous; the caller ends
// it.
func (r *registry) add(sess *session, id string) addResult {
	r.mu.Lock()
	defer r.mu.Unlock()
	if sess.isEnded() {
		return addRefusedEnded // its handler will not come to take it out again
	}
	previous := r.byID[id]
	if previous == nil && len(r.byID) >= r.limit {
		return addRefusedFull
	}
	sess.id, sess.previous = id, previous
	sess.claim.epoch.Store(r.clock.next())
	r.byID[id] = sess
	return added
}

// remove takes this very session out, never another one of the same agent. It
// tells whether it was still the agent's present one.
func (r *registry) remove(sess *session) (present bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if sess.id == "" || r.byID[sess.id] != sess {
		return false
	}
	delete(r.byID, sess.id)
	return true
}

// raise gives this very session a higher epoch, unless the agent has another
// session by now.
func (r *registry) raise(sess *session, epoch uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byID[sess.id] != sess {
		return false
	}
	sess.claim.epoch.Store(max(epoch, sess.claim.epoch.Load()))
	return true
}

// yield judges claims of other nodes: it takes out the sessions that are older,
// for the caller to end, and returns our claims where the session here stays.
func (r *registry) yield(claims []fleet.Claim) (lost []*session, refused []fleet.Claim) {
	// Few of the agents are here, so looking needs no more than a shared lock.
	var here []fleet.Claim
	r.mu.RLock()
	for _, c := range claims {
		if r.byID[c.AgentID] != nil {
			here = append(here, c)
		}
	}
	r.mu.RUnlock()
	if len(here) == 0 {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range here {
		sess := r.byID[c.AgentID]
		if sess == nil {
			continue
		}
		held := sess.claim.epoch.Load()
		switch {
		case yields(held, c.Epoch):
			delete(r.byID, c.AgentID)
			lost = append(lost, sess)
		case !sess.isEnded(): // else its handler is about to take it out
			refused = append(refused, fleet.Claim{AgentID: c.AgentID, Epoch: held})
		}
	}
	return lost, refused
}

func (r *registry) get(id string) *session {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.byID[id]
}

func (r *registry) count() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.byID)
}

// all returns the sessions in no order.
func (r *registry) all() []*session {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]*session, 0, len(r.byID))
	for _, sess := range r.byID {
		out = append(out, sess)
	}
	return out
}
