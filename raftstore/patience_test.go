// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"muster/raftstore"
)

// However long a node was away, its leader turns to it as soon as it is back,
// whether it needs the log or a snapshot.
func TestLeaderTurnsToReturnedNode(t *testing.T) {
	for kind, writes := range map[string]int{"log": 20, "snapshot": 200} {
		t.Run(kind, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.tune = func(o *raftstore.Options) {
					o.Tuning.SnapshotEntries, o.Tuning.TrailingLogs, o.Tuning.SegmentBytes = 50, 50, 32<<10
				}
				j := w.listen()
				w.form(3)
				var took []time.Duration
				for k := range 4 {
					away := w.others(w.leader())[k%2]
					away.kill()
					fill(w, fmt.Sprint(kind, k, "-"), writes)
					pass(time.Minute + time.Duration(k)*2600*time.Millisecond)
					begin := time.Now()
					away = away.again()
					for !away.Ready() {
						pass(time.Millisecond)
					}
					took = append(took, time.Since(begin))
					w.same()
				}
				if got := strings.Contains(j.since(w, nil), "caught up by a snapshot"); got != (kind == "snapshot") {
					w.t.Errorf("caught up by a snapshot: %t", got)
				}
				slices.Sort(took)
				w.t.Logf("away for a minute, ready after: %s", took)
				if worst := took[len(took)-1]; worst > 2*time.Second {
					w.t.Errorf("it took %s", worst)
				}
			})
		})
	}
}

// Nobody waits for a server that was removed while it was away, nor does a
// node that leads no more.
func TestPatienceEnds(t *testing.T) {
	bubble(t, func(w *world) {
		w.form(4)
		leader := w.leader()
		away, other := w.others(leader)[0], w.others(leader)[1]
		away.kill()
		pass(30 * time.Second)
		before := w.dialled(away.serverID)
		pass(30 * time.Second)
		if w.dialled(away.serverID) == before {
			w.t.Error("nobody looks whether the server is back")
		}
		must(w.t, other.Remove(w.t.Context(), away.name))
		pass(15 * time.Second)
		before = w.dialled(away.serverID)
		pass(30 * time.Second)
		if n := w.dialled(away.serverID) - before; n > 0 {
			w.t.Errorf("a removed server was dialled %d times", n)
		}

		other.kill()
		pass(30 * time.Second)
		next := w.others(leader)[0]
		must(w.t, leader.Raft().LeadershipTransferToServer(raftID(next), raftAddr(next)).Error())
		pass(15 * time.Second)
		before = w.dialled(other.serverID)
		pass(30 * time.Second)
		// The new leader looks for it, at most four times a second.
		if n := w.dialled(other.serverID) - before; n == 0 || n > 30*5 {
			w.t.Errorf("a server that is away was dialled %d times in half a minute", n)
		}
	})
}
