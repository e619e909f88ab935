// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
)

func TestYields(t *testing.T) {
	for _, tc := range []struct {
		held, claimed uint64
		want          bool
	}{
		{held: 5, claimed: 6, want: true},
		{held: 5, claimed: 5, want: false},
		{held: 6, claimed: 5, want: false},
		{held: math.MaxUint64, claimed: math.MaxUint64, want: false},
	} {
		if got := yields(tc.held, tc.claimed); got != tc.want {
			t.Errorf("yields(%d, %d) = %v", tc.held, tc.claimed, got)
		}
	}
}

func TestJudge(t *testing.T) {
	for name, tc := range map[string]struct {
		held uint64
		o    outlook
		want contestVerdict
	}{
		"silent yet":             {7, outlook{}, contestWaits},
		"silent to the end":      {7, outlook{late: true}, contestEnds},
		"delivers":               {7, outlook{delivered: true}, contestRaises},
		"delivers at the end":    {7, outlook{delivered: true, late: true}, contestRaises},
		"second time":            {7, outlook{delivered: true, raised: true}, contestEnds},
		"second time, silent":    {7, outlook{raised: true}, contestEnds},
		"clone":                  {7, outlook{delivered: true, cloned: true}, contestEnds},
		"clone, silent":          {7, outlook{cloned: true}, contestEnds},
		"nothing is above":       {math.MaxUint64, outlook{delivered: true}, contestEnds},
		"the last but one epoch": {math.MaxUint64 - 1, outlook{delivered: true}, contestRaises},
	} {
		if got := judge(contest{held: tc.held}, tc.o); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// idle makes a server that does not run, with a session.
func idle(t *testing.T) (*Server, *session) {
	t.Helper()
	s := idleServer(t)
	sess := newSession(nil, peerInfo{}, 0, s.hard)
	if s.registry.add(sess, "a1") != added {
		t.Fatal("the session was not added")
	}
	return s, sess
}

func TestRefusalsOfAnOlderClaimAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, sess := idle(t)
		c := s.parts.claims
		first := sess.claim.epoch.Load()
		batch := []asked{{sess: sess, epoch: first}}
		s.registry.raise(sess, first+10)
		for _, tc := range []struct {
			held uint64
			want int
		}{{first + 9, 0}, {first + 10, 1}, {first + 11, 1}} {
			c.contest(batch, []fleet.Claim{{AgentID: "a1", Epoch: tc.held}, {AgentID: "unknown", Epoch: tc.held}})
			if got := len(c.contested); got != tc.want {
				t.Errorf("%d contests after a refusal with %d of a session with %d, want %d", got, tc.held, first+10, tc.want)
			}
		}
		if got := c.contested[sess].held; got != first+11 {
			t.Errorf("the contest is against %d, want the highest, %d", got, first+11)
		}
	})
}

func TestOnlyThePresentSessionIsRaised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, old := idle(t)
		epoch := old.claim.epoch.Load()
		if s.registry.raise(old, epoch-1); old.claim.epoch.Load() != epoch {
			t.Error("an epoch went down")
		}
		newer := newSession(nil, peerInfo{}, 0, s.hard)
		s.registry.add(newer, "a1")
		if s.registry.raise(old, epoch+100) || old.claim.epoch.Load() != epoch {
			t.Error("a session that was replaced was raised")
		}
	})
}

func TestABatchIsBounded(t *testing.T) {
	s := idleServer(t)
	n := &claimNode{pending: make(map[*session]struct{})}
	var present int
	for i := range 2*maxClaims + 500 {
		sess := newSession(nil, peerInfo{}, 0, s.hard)
		s.registry.add(sess, fmt.Sprint("a", i))
		n.pending[sess] = struct{}{}
		if i%5 == 0 {
			sess.end(nil)
			continue
		}
		present++
	}
	heard := make(map[string]bool)
	for batch := s.parts.claims.take(n); len(batch) > 0; batch = s.parts.claims.take(n) {
		if len(batch) > maxClaims {
			t.Errorf("%d claims in a call, want %d at most", len(batch), maxClaims)
		}
		for _, a := range batch {
			if heard[a.sess.id] || a.epoch == 0 || a.sess.isEnded() {
				t.Errorf("claim of %s with %d: twice, without an epoch or of a session that ended", a.sess.id, a.epoch)
			}
			heard[a.sess.id] = true
		}
	}
	if len(heard) != present {
		t.Errorf("%d claims, want %d", len(heard), present)
	}
}

// Its receiver may still be at the last message.
func TestALostSessionReportsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, old := idle(t)
		newer := newSession(nil, peerInfo{}, 0, s.hard)
		s.registry.add(newer, "a1")
		v, report := s.parts.inventory, fleet.AgentReport{Identity: fleet.Identity{AgentID: "a1"}}
		report.Node = "newer"
		v.add(newer, report)
		report.Node = "older"
		v.add(old, report)
		if got := v.take(); len(got) != 1 || got[0].Node != "newer" {
			t.Errorf("reports %v, want that of the newer session", got)
		}
		s.HandleClaims([]fleet.Claim{{AgentID: "a1", Epoch: math.MaxUint64}})
		v.add(newer, report)
		if got := v.take(); len(got) != 0 {
			t.Errorf("reports %v of a session that is lost", got)
		}
	})
}

// step is one change of an agent's node, after a wait.
type step struct {
	after time.Duration
	lost  bool
	found bool
}

func TestMovesFindClones(t *testing.T) {
	const s = time.Second
	for name, steps := range map[string][]step{
		"one move":                   {{0, true, false}},
		"there and back":             {{0, true, false}, {5 * s, false, false}},
		"three in a minute":          {{0, true, false}, {5 * s, false, false}, {55 * s, true, true}},
		"three in more than that":    {{0, true, false}, {5 * s, false, false}, {55*s + 1, true, false}},
		"won without a loss":         {{0, false, false}, {s, false, false}, {s, false, false}, {s, false, false}},
		"told once a minute":         {{0, true, false}, {s, false, false}, {s, true, true}, {5 * s, false, false}, {50 * s, true, false}, {5 * s, false, true}},
		"across the turn of windows": {{59 * s, true, false}, {2 * s, false, false}, {2 * s, true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMoves(10)
				m.lost("another")
				for i, st := range steps {
					time.Sleep(st.after)
					note := m.gained
					if st.lost {
						note = m.lost
					}
					if got := note("a"); got != st.found {
						t.Errorf("step %d: found %v, want %v", i, got, st.found)
					}
					if st.found && !m.cloned("a") {
						t.Errorf("step %d: not known as a clone", i)
					}
				}
				time.Sleep(cloneWindow)
				if m.cloned("a") || m.cloned("another") {
					t.Error("still a clone after a minute without a move")
				}
			})
		})
	}
}

func TestMovesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMoves(10)
		for window := range 5 {
			for i := range 100 {
				m.lost(fmt.Sprint(window, "-", i))
			}
			if n := len(m.young) + len(m.old); n > 20 {
				t.Fatalf("%d agents are remembered, want 20 at most", n)
			}
			time.Sleep(cloneWindow)
		}
		m.lost("a")
		if n := len(m.young) + len(m.old); n != 11 {
			t.Errorf("%d agents are remembered, want 11", n)
		}
	})
}
