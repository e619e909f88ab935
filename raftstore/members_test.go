// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"muster/fleet"
	"muster/raftstore"
)

// fill reports n agents, 64 at a time, through any node.
func fill(w *world, prefix string, n int) {
	w.t.Helper()
	var wg sync.WaitGroup
	all := w.running()
	for c := range 64 {
		wg.Go(func() {
			for i := c; i < n; i += 64 {
				id := fmt.Sprintf("%s%06d", prefix, i)
				if err := all[i%len(all)].ReportAgents(w.t.Context(), []fleet.AgentReport{{Identity: fleet.Identity{AgentID: id}, SeenAt: 1}}); err != nil {
					w.t.Errorf("writing %s: %v", id, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A node that was away comes back, through the log or through a snapshot, and
// is not ready before it has everything.
func TestAbsentNodeReturns(t *testing.T) {
	for _, writes := range []int{700, 10_000} {
		t.Run(fmt.Sprint(writes), func(t *testing.T) {
			if testing.Short() && writes > 1000 {
				t.Skip("10,000 synced writes")
			}
			bubble(t, func(w *world) {
				w.tune = func(o *raftstore.Options) { o.Tuning.SnapshotEntries, o.Tuning.TrailingLogs = 1000, 1000 }
				w.form(3)
				away := w.others(w.leader())[1]
				away.stop()
				fill(w, "a", writes)
				pass(time.Minute) // the log is cut
				// What raft brings may be long ago: nobody has told how far the others are.
				w.muted(true)
				begin, real := time.Now(), realTime()
				away = away.again()
				pass(3 * time.Second)
				if away.Ready() || away.Current() {
					w.t.Fatal("ready before it heard the leader's index")
				}
				w.muted(false)
				for !away.Ready() {
					pass(time.Millisecond)
				}
				if n := away.AgentCount(); n != writes {
					w.t.Errorf("ready with %d of %d agents", n, writes)
				}
				// An installed snapshot leaves no log, or one that begins behind it.
				first := away.FirstLogIndex()
				if snap := first == 0 || first > uint64(writes)/2; snap != (writes > 1000) {
					w.t.Errorf("the log begins at %d", first)
				}
				w.t.Logf("%d writes behind, ready after %s in the bubble, %s in fact", writes, time.Since(begin), realTime()-real)
				if time.Since(begin) > 10*time.Second {
					w.t.Error("that is too long")
				}
				must(w.t, away.CreateUser(w.t.Context(), user("back")))
				w.same()
			})
		})
	}
}

// A node that lost its disk is a new member with the old name; the old one, if
// its disk turns up, is not taken back.
func TestWipedNodeRejoins(t *testing.T) {
	bubble(t, func(w *world) {
		w.form(3)
		load := w.load(3)
		pass(time.Second)
		old := w.others(w.leader())[0]
		fresh := filepath.Join(w.base, "fresh")
		var i int
		_, err := fmt.Sscanf(old.name, "n%d", &i)
		must(w.t, err)

		// While the old one lives its name is taken.
		other := w.others(old)[0]
		err = other.Join(w.t.Context(), old.name+"~00000001", old.name, "10.0.0.9:6760")
		wantError(w.t, err, fleet.ErrConflict)

		old.kill()
		next := w.start(i, fresh)
		if next.serverID == old.serverID || next.Bootstrapped() {
			w.t.Fatal("an empty directory has a past")
		}
		// Any member can pass the wish on; it may be repeated.
		for _, m := range w.others(next) {
			must(w.t, m.Join(w.t.Context(), next.serverID, next.name, next.addr))
		}
		w.voting(3)
		load.end()
		for _, m := range w.running() {
			if !m.Removed(old.serverID) || m.Removed(next.serverID) {
				w.t.Errorf("%s: the wrong server is removed", m.name)
			}
		}
		wantError(w.t, other.Join(w.t.Context(), old.serverID, old.name, old.addr), fleet.ErrConflict)
	})
}

func serverNames(w *world) (names []string) {
	servers, err := w.leader().Servers()
	must(w.t, err)
	for _, s := range servers {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return names
}

// Removing works from any node, for any node, and for good.
func TestRemove(t *testing.T) {
	bubble(t, func(w *world) {
		w.form(3)
		wantError(w.t, w.leader().Remove(w.t.Context(), "n9"), fleet.ErrNotFound)
		gone := w.leader()
		asked := w.others(gone)[0]
		must(w.t, asked.Remove(w.t.Context(), gone.name)) // it leads, and hands over first
		must(w.t, asked.Remove(w.t.Context(), gone.name))
		if got := serverNames(w); len(got) != 2 || slices.Contains(got, gone.name) {
			w.t.Fatalf("servers %v", got)
		}
		gone.stop()
		must(w.t, asked.CreateUser(w.t.Context(), user("u")))
		other := w.others(asked)[0]
		must(w.t, other.Remove(w.t.Context(), other.serverID))
		if got := serverNames(w); !slices.Equal(got, []string{asked.name}) {
			w.t.Fatalf("servers %v", got)
		}
		eventually(w.t, "the removed one is not current", func() bool { return !other.Current() })
		other.stop()
		wantError(w.t, asked.Remove(w.t.Context(), asked.name), fleet.ErrConflict)
		must(w.t, asked.CreateUser(w.t.Context(), user("v")))
		w.same()
	})
}

// Nobody is removed, for a new server of its name either, without whom there
// would be no majority.
func TestRemoveKeepsMajority(t *testing.T) {
	bubble(t, func(w *world) {
		w.form(3)
		leader := w.leader()
		others := w.others(leader)
		others[1].kill()
		pass(3 * time.Second)
		w.muted(true) // the other one seems dead, but its raft works
		err := leader.Join(w.t.Context(), others[0].name+"~ffffffff", others[0].name, "x")
		wantError(w.t, err, fleet.ErrConflict)
		wantError(w.t, leader.Remove(w.t.Context(), others[0].name), fleet.ErrConflict)
		w.muted(false)
		must(w.t, leader.CreateUser(w.t.Context(), user("u")))
		must(w.t, leader.Remove(w.t.Context(), others[1].name))
	})
}

// The leader knows how far everybody is.
func TestServers(t *testing.T) {
	bubble(t, func(w *world) {
		all := w.form(3)
		fill(w, "a", 10)
		pass(2 * time.Second)
		leader := w.leader()
		applied, _ := leader.State()
		servers, err := leader.Servers()
		must(w.t, err)
		for i, s := range servers {
			if s.ID != all[i].serverID || s.Address != all[i].addr || !s.Voter || s.Leader != (all[i] == leader) || s.Applied != applied || s.Lag != 0 || s.Format != 1 || s.Age > time.Second {
				w.t.Errorf("%+v", s)
			}
		}
		// The others know who belongs to the cluster, with what part, and who leads.
		for _, m := range w.others(leader) {
			seen, err := m.Servers()
			must(w.t, err)
			for i, s := range seen {
				if s.ID != all[i].serverID || s.Name != all[i].name || !s.Voter || s.Leader != (all[i] == leader) || (s.Applied != 0) != (all[i] == m) {
					w.t.Errorf("%s sees %+v", m.name, s)
				}
			}
			if st := m.Status(); st.Role != "follower" || st.Leader != leader.serverID || st.Term != leader.Status().Term || st.Applied != applied || st.LeaderContactAgeMS > 1000 {
				w.t.Errorf("%s: %+v", m.name, st)
			}
		}
		if st := leader.Status(); st.Role != "leader" || st.Leader != leader.serverID || st.LeaderContactAgeMS != 0 {
			w.t.Errorf("the leader: %+v", st)
		}
		w.others(leader)[0].stop()
		fill(w, "b", 10)
		pass(10 * time.Second)
		servers, err = leader.Servers()
		must(w.t, err)
		if i := slices.IndexFunc(servers, func(s fleet.Server) bool { return s.Lag > 0 }); i < 0 || servers[i].Age < 9*time.Second {
			w.t.Errorf("%+v", servers)
		}
	})
}

// The format rises when every configured server knows the higher one, not when
// every live one does; from then on an older program is refused.
func TestFormatRises(t *testing.T) {
	bubble(t, func(w *world) {
		all := w.form(3)
		all[0].KnowFormat(2)
		all[1].KnowFormat(2)
		all[2].stop()
		pass(time.Minute)
		if f := all[0].Status().Format; f != 1 {
			w.t.Fatalf("format %d although a server has not said that it knows it", f)
		}
		all[2] = all[2].again()
		all[2].KnowFormat(2)
		eventually(w.t, "format 2", func() bool { return all[2].Status().Format == 2 })
		w.same()
		all[2].stop()
		opts := options(all[2].dir)
		opts.NodeName = all[2].name
		if _, err := raftstore.New(opts); err == nil || !strings.Contains(err.Error(), "start the newer version") {
			w.t.Errorf("an older program starts: %v", err)
		}
	})
	s, err := raftstore.New(options(t.TempDir()))
	must(t, err)
	_, err = s.ApplyBatch(raftstore.Entry(1, 1, "", &raftstore.FoundCluster{ClusterID: "c"}))
	must(t, err)
	if _, err = s.ApplyBatch(raftstore.Entry(2, 1, "", &raftstore.RaiseFormatCmd{Format: 2})); err == nil || !strings.Contains(err.Error(), "start the newer version") {
		t.Errorf("an older program goes on: %v", err)
	}
	must(t, s.Close())
}
