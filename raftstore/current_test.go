// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"sync/atomic"
	"testing"
	"time"

	"muster/raftstore"
)

// until returns how long it takes until a node is current, or is not.
func (m *member) until(current bool) time.Duration {
	m.w.t.Helper()
	begin := time.Now()
	for m.Current() != current {
		if time.Since(begin) > time.Minute {
			m.w.t.Fatalf("%s: current: %t, for a minute: %+v", m.name, !current, m.Status())
		}
		pass(time.Millisecond)
	}
	return time.Since(begin)
}

// Whoever is on the smaller side of a partition stops being current within 5 s,
// a leader too, though it is its own; and nobody is again before it has caught up.
func TestCurrentInPartition(t *testing.T) {
	bubble(t, func(w *world) {
		all := w.form(5)
		leader := w.leader()
		follower := w.others(leader)[0]
		few, many := []*member{leader, follower}, w.others(leader)[1:]
		w.divide(few, many)
		a := leader.until(false)
		b := follower.until(false) + a
		w.t.Logf("not current: the leader after %s, its follower after %s", a, b)
		if a > contactLimit || b > contactLimit {
			w.t.Error("that is too late")
		}
		pass(contactLimit)
		for range 60 {
			for _, m := range few {
				if m.Current() {
					w.t.Fatalf("%s of the minority is current: %+v", m.name, m.Status())
				}
			}
			pass(time.Second)
		}
		must(w.t, many[0].CreateUser(w.t.Context(), user("meanwhile")))
		index, _ := many[0].State()
		w.heal()
		for _, m := range few {
			took := m.until(true)
			if applied, _ := m.State(); applied < index {
				w.t.Errorf("%s is current after %s at index %d, others are at %d", m.name, took, applied, index)
			}
		}

		// Alone after a restart, it does not know what it missed.
		for _, m := range all {
			m.kill()
		}
		again := all[0].again()
		for range 60 {
			if again.Ready() || again.Current() {
				w.t.Fatalf("ready alone: %+v", again.Status())
			}
			pass(time.Second)
		}
	})
}

// A node that was just cut off is current for a while, but not since then: what the
// others write meanwhile it does not have.
func TestCurrentSince(t *testing.T) {
	bubble(t, func(w *world) {
		w.form(3)
		since := func(m *member, at time.Time) time.Duration {
			begin := time.Now()
			for !m.CurrentSince(at) && time.Since(begin) < contactLimit {
				pass(time.Millisecond)
			}
			return time.Since(begin)
		}
		for _, m := range w.running() {
			if took := since(m, time.Now()); took > 200*time.Millisecond {
				w.t.Errorf("%s: the leader had to be asked for %s", m.name, took)
			}
		}
		cut := w.others(w.leader())[0]
		w.divide([]*member{cut}, w.others(cut))
		at := time.Now()
		if !cut.Current() {
			w.t.Error("a node is not current at once when it is cut off: this tests nothing")
		}
		if took := since(cut, at); took < contactLimit {
			w.t.Errorf("a node that is cut off is current since then, after %s", took)
		}
		must(w.t, w.leader().CreateUser(w.t.Context(), user("meanwhile")))
		index, _ := w.leader().State()
		w.heal()
		since(cut, at)
		if applied, _ := cut.State(); !cut.CurrentSince(at) || applied < index {
			w.t.Errorf("healed, it is current since: %t, at index %d of %d", cut.CurrentSince(at), applied, index)
		}
	})
}

const contactLimit = 5 * time.Second

// A node that has less than others said they have is not current.
func TestCurrentWaitsForGossip(t *testing.T) {
	bubble(t, func(w *world) {
		var said atomic.Uint64
		w.tune = func(o *raftstore.Options) { o.PeersApplied = said.Load }
		w.form(3)
		for _, m := range w.running() {
			applied, _ := m.State()
			said.Store(applied)
			if !m.Current() {
				w.t.Errorf("%s has what the others have and is not current", m.name)
			}
			said.Store(applied + 1)
			if m.Current() || !m.Ready() {
				w.t.Errorf("%s has less than the others and is current", m.name)
			}
		}
		must(w.t, w.leader().CreateUser(w.t.Context(), user("u")))
		for _, m := range w.running() {
			m.until(true)
		}
	})
}
