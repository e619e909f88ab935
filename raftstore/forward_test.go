// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster/fleet"
)

func user(name string) fleet.User { return fleet.User{Name: name, PasswordHash: "h"} }

// Any node takes writes, and whoever wrote reads it on that node at once.
func TestAnyNodeWrites(t *testing.T) {
	for _, n := range []int{3, 5} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			bubble(t, func(w *world) {
				begin := time.Now()
				all := w.form(n)
				w.t.Logf("%d nodes formed in %s", n, time.Since(begin))
				for round := range 3 {
					for _, m := range all {
						name := fmt.Sprintf("u%d-%s", round, m.name)
						must(w.t, m.CreateUser(w.t.Context(), user(name)))
						if _, err := m.User(name); err != nil {
							w.t.Errorf("%s wrote %s and does not see it: %v", m.name, name, err)
						}
						// A refusal comes through, too.
						wantError(w.t, m.CreateUser(w.t.Context(), user(name)), fleet.ErrExists)
					}
				}
				w.same()
				for _, m := range all {
					if st := m.Status(); st.ClusterID != "cluster-1" || !m.Bootstrapped() {
						w.t.Errorf("%s: %+v", m.name, st)
					}
				}
			})
		})
	}
}

// The answer is lost again and again: the write is done once, and told so.
func TestLostAnswers(t *testing.T) {
	bubble(t, func(w *world) {
		all := w.form(3)
		follower := w.others(w.leader())[0]
		var lose atomic.Int32
		w.onAnswer(func(_, _ *member) error {
			if lose.Add(-1) >= 0 {
				return errReset
			}
			return nil
		})
		for i := range int32(4) {
			lose.Store(i)
			must(w.t, follower.CreateUser(w.t.Context(), user(fmt.Sprint("u", i))))
			lose.Store(i)
			conf, err := follower.SetDefaultConfig(w.t.Context(), fleet.DefaultConfig{Version: fmt.Sprint(i), Items: configItems(fmt.Sprint(i))})
			must(w.t, err)
			if got, err := follower.DefaultConfig(); err != nil || got.Revision != conf.Revision || got.Version != conf.Version {
				w.t.Fatalf("the config is %+v, %v, the answer was revision %d", got, err, conf.Revision)
			}
		}
		// All answers are lost: the caller hears in time that it may have happened.
		lose.Store(1 << 20)
		begin := time.Now()
		wantError(w.t, follower.CreateUser(w.t.Context(), user("late")), fleet.ErrUnavailable)
		if took := time.Since(begin); took < 9*time.Second || took > 11*time.Second {
			w.t.Errorf("giving up took %s", took)
		}
		lose.Store(0)
		w.same()
		users, err := all[0].Users()
		must(w.t, err)
		if len(users) != 5 {
			w.t.Errorf("%d users", len(users))
		}
	})
}

func configItems(version string) []fleet.ConfigItem {
	return []fleet.ConfigItem{{Name: "driver", Type: "zip", Version: version, DownloadURL: []string{"http://h/d"}}}
}

// The leader dies when it has committed and before it has answered.
func TestLeaderDiesBeforeItAnswers(t *testing.T) {
	bubble(t, func(w *world) {
		w.form(3)
		for round := range 3 {
			leader := w.leader()
			follower := w.others(leader)[0]
			var dead atomic.Bool
			w.onAnswer(func(_, to *member) error {
				if to == leader && dead.CompareAndSwap(false, true) {
					to.kill()
				}
				return nil
			})
			begin := time.Now()
			name := fmt.Sprint("u", round)
			must(w.t, follower.CreateUser(w.t.Context(), user(name)))
			w.t.Logf("written again after %s", time.Since(begin))
			if !dead.Load() {
				w.t.Fatal("the leader lives")
			}
			_, err := follower.User(name)
			must(w.t, err)
			w.onAnswer(nil)
			leader.again()
			w.settled(3)
		}
	})
}

// Without a leader a write waits for one, and nothing else.
func TestWriteWaitsForALeader(t *testing.T) {
	bubble(t, func(w *world) {
		all := w.form(3)
		all[0].stop()
		all[1].stop()
		pass(3 * time.Second) // the last one may have been made the leader, and lead nobody
		eventually(w.t, "there is no leader", func() bool { return all[2].Status().Leader == "" })
		begin := time.Now()
		wantError(w.t, all[2].CreateUser(w.t.Context(), user("none")), fleet.ErrUnavailable)
		if took := time.Since(begin); took < 9*time.Second || took > 11*time.Second {
			w.t.Errorf("giving up took %s", took)
		}
		var back *member
		var wg sync.WaitGroup
		wg.Go(func() {
			pass(3 * time.Second)
			back = all[1].again()
		})
		must(w.t, all[2].CreateUser(w.t.Context(), user("some")))
		wg.Wait()
		w.same()
		if _, err := back.User("none"); err == nil {
			w.t.Error("a write that found no leader was done")
		}
	})
}
