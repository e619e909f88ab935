// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"muster/fleet"
	"muster/raftstore"
)

// realTime is a clock that a bubble does not replace.
func realTime() time.Duration {
	var ts syscall.Timeval
	if err := syscall.Gettimeofday(&ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

// The hashes at marks do not depend on how entries are cut into batches, nor on
// which indexes raft keeps to itself.
func TestMarksAreEverywhereTheSame(t *testing.T) {
	var logs []*raft.Log
	for i := uint64(1); i <= 400; i++ {
		if i == 127 || i == 128 || i == 256 {
			continue // raft's own
		}
		logs = append(logs, raftstore.Entry(i, int64(i), "", &raftstore.PutMetaCmd{Key: fmt.Sprint(i % 7), Value: fmt.Append(nil, i)}))
	}
	apply := func(size func() int) map[uint64]string {
		s := machine(t)
		for rest := logs; len(rest) > 0; {
			n := min(size(), len(rest))
			_, err := s.ApplyBatch(rest[:n]...)
			must(t, err)
			rest = rest[n:]
		}
		checkState(t, s)
		found := map[uint64]string{}
		for _, h := range s.Hashes() {
			found[h.Index] = h.Hash
		}
		return found
	}
	single := apply(func() int { return 1 })
	several := apply(func() int { return 1 + rand.IntN(64) })
	for _, index := range []uint64{63, 127, 191, 255, 319, 383, 400} {
		if single[index] == "" || single[index] != several[index] {
			t.Errorf("at %d: %q and %q", index, single[index], several[index])
		}
	}
	if d := cmp.Diff(single[383], several[319]); d == "" {
		t.Error("the hash does not change")
	}
}

// A node whose state differs from the leader's finds out and pushes nothing.
func TestQuarantine(t *testing.T) {
	bubble(t, func(w *world) {
		w.form(3)
		fill(w, "a", 200)
		leader := w.leader()
		bad, good := w.others(leader)[0], w.others(leader)[1]
		bad.Diverge()
		must(w.t, leader.CreateUser(w.t.Context(), user("u")))
		pass(2 * time.Minute)
		if st := bad.Status(); st.Quarantined == "" || st.Current || bad.Current() {
			w.t.Errorf("the diverged node: %+v", st)
		}
		if st := good.Status(); st.Quarantined != "" || !st.Current {
			w.t.Errorf("the other one: %+v", st)
		}
		must(w.t, bad.CreateUser(w.t.Context(), user("v"))) // it can still pass things on
		bad.Mend()
	})
}

// A wait for what does not come ends, and names the index.
func TestWaitApplied(t *testing.T) {
	bubble(t, func(w *world) {
		all := w.form(3)
		index, err := all[2].ReadIndex(w.t.Context())
		must(w.t, err)
		must(w.t, all[1].WaitApplied(w.t.Context(), index))
		begin := time.Now()
		err = all[1].WaitApplied(w.t.Context(), index+1000)
		if late, ok := errors.AsType[*fleet.NotVisible](err); !ok || late.Index != index+1000 || time.Since(begin) != 10*time.Second {
			w.t.Errorf("%v after %s", err, time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		wantError(w.t, all[1].WaitApplied(ctx, index+1000), fleet.ErrNotVisible)

		// A committed write that this node cannot see yet is not an error like others.
		follower := w.others(w.leader())[0]
		w.onAnswer(func(from, _ *member) error {
			w.net.Cut(from.ip) // raft no longer reaches it, the answer does
			return nil
		})
		err = follower.CreateUser(w.t.Context(), user("u"))
		w.onAnswer(nil)
		wantError(w.t, err, fleet.ErrNotVisible)
		w.heal()
		w.same()
		_, err = follower.User("u")
		must(w.t, err)
	})
}
