// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"muster/fleet"
	"muster/raftstore"
)

// quarantine makes a follower's state differ and waits until it knows.
func (w *world) quarantine(bad *member) {
	w.t.Helper()
	bad.Diverge()
	must(w.t, w.leader().CreateUser(w.t.Context(), user("judges-"+bad.name)))
	pass(5 * time.Second)
	eventually(w.t, "it knows", func() bool { return bad.Status().Quarantined != "" })
	// Until the leader has heard it, a second one with the same wrong state would make
	// it two against one.
	pass(2 * time.Second)
}

func (w *world) votes(of *member) bool {
	w.t.Helper()
	servers, err := w.leader().Servers()
	must(w.t, err)
	for _, s := range servers {
		if s.ID == of.serverID {
			return s.Voter
		}
	}
	return false
}

// Of five, a quarantined node loses its vote, and does not get it back.
func TestQuarantinedLosesVote(t *testing.T) {
	bubble(t, func(w *world) {
		w.form(5)
		bad := w.others(w.leader())[0]
		w.quarantine(bad)
		eventually(w.t, "it has no vote", func() bool { return !w.votes(bad) })
		pass(time.Second) // the others have it
		w.leader().kill()
		eventually(w.t, "there is a leader", func() bool { return w.leader() != nil })
		must(w.t, bad.CreateUser(w.t.Context(), user("passed-on")))
		pass(70 * time.Second)
		if w.votes(bad) || bad.Leads() {
			w.t.Error("it votes again")
		}
		for _, m := range w.running() {
			if wrong := m.Status().Quarantined; (wrong != "") != (m == bad) {
				w.t.Errorf("%s: %q", m.name, wrong)
			}
		}
		bad.Mend()
		bad.stop()
	})
}

// A leader in the wrong is found out by the others, who are not, and does not
// stay leader.
func TestLeaderInTheWrong(t *testing.T) {
	bubble(t, func(w *world) {
		w.form(3)
		bad := w.leader()
		good := w.others(bad)
		bad.Diverge()
		must(w.t, good[0].CreateUser(w.t.Context(), user("judge")))
		eventually(w.t, "it knows", func() bool { return bad.Status().Quarantined != "" })
		eventually(w.t, "another leads", func() bool { return good[0].Leads() || good[1].Leads() })
		must(w.t, bad.CreateUser(w.t.Context(), user("after")))
		pass(70 * time.Second)
		for _, m := range good {
			if st := m.Status(); st.Quarantined != "" || !st.Current {
				w.t.Errorf("%s: %+v", m.name, st)
			}
		}
		bad.Mend()
		bad.stop()
	})
}

// Of three, a quarantined node keeps its vote, because two could not lose one
// more; but it does not stay leader, even when its log is the longest.
func TestQuarantinedDoesNotLead(t *testing.T) {
	bubble(t, func(w *world) {
		w.form(3)
		leader := w.leader()
		bad, good := w.others(leader)[0], w.others(leader)[1]
		w.quarantine(bad)
		pass(30 * time.Second)
		if !w.votes(bad) {
			w.t.Fatal("two are left")
		}
		for k := range 3 {
			begin := time.Now()
			leader.die()
			must(w.t, good.CreateUser(w.t.Context(), user(fmt.Sprint("u", k))))
			if took := time.Since(begin); !good.Leads() || took > 3*time.Second {
				w.t.Errorf("written again after %s by leader %s", took, good.Status().Leader)
			}
			leader.bury()
			leader = leader.again()
			w.voting(3)
			must(w.t, good.Raft().LeadershipTransferToServer(raftID(leader), raftAddr(leader)).Error())
			eventually(w.t, "it leads again", leader.Leads)
			pass(2 * time.Second)
		}

		// What is acknowledged is on the leader and the bad one alone; then the leader dies.
		good.isolate()
		must(w.t, leader.CreateUser(w.t.Context(), user("kept")))
		leader.die()
		good.rejoin()
		begin := time.Now()
		eventually(w.t, "the good one leads", good.Leads)
		w.t.Logf("the good one led after %s, with the bad one's log", time.Since(begin))
		if _, err := good.User("kept"); err != nil {
			w.t.Error(err)
		}
		if bad.Leads() {
			w.t.Error("the bad one leads")
		}
		// A leader that is handed the bad one's leadership at its stop is no better.
		must(w.t, good.CreateUser(w.t.Context(), user("after")))
		wantError(w.t, good.Remove(w.t.Context(), "n9"), fleet.ErrNotFound)
		if wrong := good.Status().Quarantined; wrong != "" {
			w.t.Errorf("the good one was judged by the bad one: %s", wrong)
		}
		leader.bury()
		bad.Mend()
		bad.stop()
	})
}

// Two wrong nodes of three hand the leadership to the third, not to each other,
// whichever of them comes to lead, and keep it quietly while the third is away.
func TestTwoWrongOfThree(t *testing.T) {
	bubble(t, func(w *world) {
		all := w.form(3)
		wrong, good := all[:2], all[2] // the good one comes last in the configuration
		if !good.Leads() {
			must(w.t, w.leader().Raft().LeadershipTransferToServer(raftID(good), raftAddr(good)).Error())
			eventually(w.t, "the good one leads", good.Leads)
		}
		for _, m := range wrong {
			w.quarantine(m)
		}
		for _, m := range wrong {
			before := good.Status().Term
			must(w.t, good.Raft().LeadershipTransferToServer(raftID(m), raftAddr(m)).Error())
			begin := time.Now()
			eventually(w.t, "the good one leads again", good.Leads)
			if took, terms := time.Since(begin), good.Status().Term-before; took > 3*time.Second || terms > 2 {
				w.t.Errorf("after %s and %d terms", took, terms)
			}
		}
		must(w.t, wrong[0].CreateUser(w.t.Context(), user("passed-on")))

		good.kill()
		eventually(w.t, "one of the others leads", func() bool {
			return wrong[0].Raft().State() == raft.Leader || wrong[1].Raft().State() == raft.Leader
		})
		pass(2 * time.Second)
		before := wrong[0].Status().Term
		pass(time.Minute)
		if now := wrong[0].Status().Term; now != before {
			w.t.Errorf("the term went from %d to %d", before, now)
		}
		good = good.again()
		eventually(w.t, "the good one leads when it is back", good.Leads)
		must(w.t, good.CreateUser(w.t.Context(), user("written")))
		for _, m := range wrong {
			m.Mend()
			m.stop()
		}
	})
}

// A wrong state reaches nobody, not as a snapshot and not by a restart: who needs
// one waits for a node that is right, even if the wrong one leads meanwhile.
func TestWrongStateStays(t *testing.T) {
	bubble(t, func(w *world) {
		small := func(o *raftstore.Options) {
			o.Tuning.SegmentBytes, o.Tuning.TrailingLogs, o.Tuning.SnapshotEntries, o.Tuning.SnapshotInterval = 8192, 8, 16, time.Second
		}
		w.tune = small
		j := w.listen()
		w.form(3)
		right := w.leader()
		bad, behind := w.others(right)[0], w.others(right)[1]
		must(w.t, bad.SetLastNumber(7)) // unlike Diverge it is sound, only wrong
		must(w.t, right.CreateUser(w.t.Context(), user("judge")))
		eventually(w.t, "it knows", func() bool { return bad.Status().Quarantined != "" })
		behind.kill()
		fill(w, "a", 100)
		pass(5 * time.Second)

		// The flag does not make it law, nor does the restart.
		bad.stop()
		before := contents(w.t, bad.dir)
		opts := options(bad.dir)
		opts.NodeName, opts.Recover = bad.name, true
		if _, err := raftstore.New(opts); err == nil || !strings.Contains(err.Error(), "recover from another node") {
			w.t.Errorf("recovering from it: %v", err)
		}
		if d := cmp.Diff(before, contents(w.t, bad.dir)); d != "" {
			w.t.Error("something was written (-before +now):", d)
		}
		bad = bad.again()
		if bad.Status().Quarantined == "" {
			w.t.Error("it forgot that it is wrong")
		}
		pass(10 * time.Second)

		right.die()
		behind = behind.again()
		eventually(w.t, "the wrong one leads, its log is longer", func() bool { return bad.Raft().State() == raft.Leader })
		pass(3 * time.Minute)
		if behind.Leads() || behind.Ready() {
			w.t.Errorf("the one behind got the wrong state: %+v", behind.Status())
		}
		right.bury()
		right = right.again()
		eventually(w.t, "both are ready", func() bool { return right.Ready() && behind.Ready() })
		must(w.t, behind.CreateUser(w.t.Context(), user("after")))
		pass(90 * time.Second)
		for _, m := range w.running() {
			if wrong := m.Status().Quarantined; (wrong != "") != (m == bad) {
				w.t.Errorf("%s: %q", m.name, wrong)
			}
		}
		told := j.since(w, nil)
		if n := strings.Count(told, "another node needs a copy of the state"); n < 1 || n > 5 {
			w.t.Errorf("told %d times:\n%s", n, told)
		}
		if strings.Contains(told, "failed to") {
			w.t.Errorf("an error of the disk was told:\n%s", told)
		}

		// What ends it is another state: the leader's.
		bad.kill()
		fill(w, "b", 100)
		pass(5 * time.Second)
		bad = bad.again()
		w.settled(3)
		bad.stop()
		bad = bad.again()
		w.settled(3)
	})
}

// What a node knew by its wrong state of an agent's number is forgotten with that
// state, or the agent would not get its tasks from this node until it restarts.
func TestInstalledStateBringsItsNumbers(t *testing.T) {
	bubble(t, func(w *world) {
		w.tune = func(o *raftstore.Options) {
			o.Tuning.SegmentBytes, o.Tuning.TrailingLogs, o.Tuning.SnapshotEntries, o.Tuning.SnapshotInterval = 8192, 8, 16, time.Second
		}
		w.form(3)
		bad := w.others(w.leader())[0]
		must(w.t, bad.SetLastNumber(7))
		fill(w, "a", 2)
		_, err := w.leader().CreateTask(w.t.Context(), newTask("k1"), []string{"a000001"})
		must(w.t, err)
		numbers := func(m *member) (got []uint32) {
			for _, d := range m.PendingDispatch("a000001") {
				got = append(got, d.Number)
			}
			return got
		}
		want := numbers(w.leader())
		eventually(w.t, "the wrong one has a number of its own", func() bool { return len(numbers(bad)) == 1 })
		if cmp.Equal(want, numbers(bad)) || len(want) != 1 {
			w.t.Fatalf("it has the number %v, and the leader %v", numbers(bad), want)
		}

		bad.isolate()
		for i := range 100 {
			reportOne(w.t, w.leader().Store, fmt.Sprint("b", i))
		}
		pass(5 * time.Second) // the log is cut
		bad.rejoin()
		w.settled(3)
		if d := cmp.Diff(want, numbers(bad)); d != "" {
			w.t.Error("by the installed state the agent's number is (-want +got):", d)
		}
		if due := bad.Due([]string{"a000001"}); len(due) != 1 {
			w.t.Error("nothing is due for the agent by the installed state")
		}
	})
}
