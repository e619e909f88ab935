// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import "sync"

// registry holds the sessions of this node, one per agent.
type registry struct {
	limit int
	clock epochClock

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
	sess.id, sess.epoch, sess.previous = id, r.clock.next(), previous
	r.byID[id] = sess
	return added
}

// remove takes this very session out, never another one of the same agent. It
// tells the agent's ID, "" if the session was never added, and whether it was
// still the agent's present one.
func (r *registry) remove(sess *session) (id string, present bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if sess.id == "" || r.byID[sess.id] != sess {
		return sess.id, false
	}
	delete(r.byID, sess.id)
	return sess.id, true
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
