// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"muster/fleet"
)

// failovers kills the leader again and again under writes and returns how long
// it took until every other node wrote again.
func failovers(w *world, nodes, kills int) (took []time.Duration) {
	w.form(nodes)
	load := w.load(nodes)
	for k := range kills {
		leader := w.leader()
		begin := time.Now()
		leader.die()
		var wg sync.WaitGroup
		for _, m := range w.running() {
			wg.Go(func() {
				must(w.t, m.ReportAgents(w.t.Context(), []fleet.AgentReport{{Identity: fleet.Identity{AgentID: fmt.Sprintf("k%d-%s", k, m.name)}, SeenAt: 1}}))
			})
		}
		wg.Wait()
		took = append(took, time.Since(begin))
		leader.bury()
		leader.again()
		w.voting(nodes)
	}
	load.end()
	slices.Sort(took)
	return took
}

// When the leader dies the others write again soon, and nothing is lost that
// was acknowledged.
func TestLeaderLoss(t *testing.T) {
	for _, nodes := range []int{3, 5} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			bubble(t, func(w *world) {
				took := failovers(w, nodes, kills(4))
				w.t.Logf("written again after: median %s, worst %s of %d", took[len(took)/2], took[len(took)-1], len(took))
				if worst := took[len(took)-1]; worst > 3*time.Second {
					w.t.Errorf("it took %s until the others wrote again", worst)
				}
			})
		})
	}
}

// kills is how many leaders a test kills, unless the environment says otherwise.
func kills(n int) int {
	if v, err := strconv.Atoi(os.Getenv("MUSTER_TEST_KILLS")); err == nil {
		return v
	}
	return n
}

// The same on real time, for its figures, when it is asked for.
func TestLeaderLossRealTime(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("MUSTER_TEST_REAL_KILLS"))
	if err != nil {
		t.Skip("set MUSTER_TEST_REAL_KILLS to a number of kills")
	}
	w := newWorld(t, t.TempDir())
	took := failovers(w, 3, n)
	t.Logf("written again after: median %s, worst %s of %d", took[len(took)/2], took[len(took)-1], len(took))
}

// A leader that nobody hears soon knows that it is not current, acknowledges
// nothing and answers no linearizable read; the others go on.
func TestLeaderAlone(t *testing.T) {
	bubble(t, func(w *world) {
		w.form(3)
		load := w.load(3)
		pass(time.Second)
		leader := w.leader()
		leader.isolate()
		pass(5 * time.Second)
		if leader.Current() || leader.Leads() {
			w.t.Errorf("after 5 s alone: %+v", leader.Status())
		}
		for range 20 {
			pass(time.Second)
			if leader.Current() {
				w.t.Fatal("a node without contact calls itself current")
			}
		}
		wantError(w.t, leader.CreateUser(w.t.Context(), user("lost")), fleet.ErrUnavailable)
		_, err := leader.ReadIndex(w.t.Context())
		wantError(w.t, err, fleet.ErrUnavailable)
		must(w.t, w.others(leader)[0].CreateUser(w.t.Context(), user("kept")))
		leader.rejoin()
		load.end()
		if _, err := leader.User("kept"); err != nil {
			w.t.Error(err)
		}
	})
}

// A read at the index of a leader that was replaced without knowing it must not
// be answered: the lease of a stopped process ends unseen.
func TestStaleLeaderAnswersNoRead(t *testing.T) {
	bubble(t, func(w *world) {
		w.form(3)
		leader := w.leader()
		leader.isolate()
		ctx, cancel := context.WithTimeout(w.t.Context(), 3*time.Second)
		defer cancel()
		// In the first moment it still takes itself for the leader.
		if index, err := leader.HandleReadIndex(ctx); err == nil {
			w.t.Fatalf("a leader alone vouches for index %d", index)
		}
		leader.rejoin()
		w.same()
	})
}

// The smaller side of a partition refuses, the greater one goes on.
func TestMinority(t *testing.T) {
	bubble(t, func(w *world) {
		all := w.form(5)
		load := w.load(5)
		few := []*member{w.leader()}
		few = append(few, w.others(few[0])[0])
		many := slices.DeleteFunc(slices.Clone(all), func(m *member) bool { return slices.Contains(few, m) })
		w.divide(few, many)
		pass(5 * time.Second)
		var wg sync.WaitGroup
		for _, m := range few {
			if m.Current() {
				w.t.Errorf("%s of the minority is current", m.name)
			}
			wg.Go(func() {
				if err := m.CreateUser(w.t.Context(), user("few")); !errors.Is(err, fleet.ErrUnavailable) {
					w.t.Errorf("%s of the minority writes: %v", m.name, err)
				}
			})
			wg.Go(func() {
				if index, err := m.ReadIndex(w.t.Context()); !errors.Is(err, fleet.ErrUnavailable) {
					w.t.Errorf("%s of the minority vouches for index %d: %v", m.name, index, err)
				}
			})
		}
		wg.Wait()
		for _, m := range many {
			if !m.Current() {
				w.t.Errorf("%s of the majority is not current", m.name)
			}
			must(w.t, m.CreateUser(w.t.Context(), user("many-"+m.name)))
		}
		w.heal()
		load.end()
	})
}
