// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"muster/fleet"
	"muster/raftstore"
)

// wire connects transports in memory, both ways.
func wire(transports ...*raft.InmemTransport) {
	for _, a := range transports {
		for _, b := range transports {
			if a != b {
				a.Connect(b.LocalAddr(), b)
			}
		}
	}
}

func clusterOptions(dir, name string) (raftstore.Options, *raft.InmemTransport) {
	opts := options(dir)
	opts.NodeName = name
	opts.Tuning.TrailingLogs, opts.Tuning.SnapshotEntries = 4, 8
	opts.Tuning.SnapshotInterval = 20 * time.Millisecond
	opts.Tuning.SegmentBytes = 32 << 10 // entries stay readable until their whole segment is cut off
	opts.Tuning.Election = 500 * time.Millisecond
	_, trans := raft.NewInmemTransport(raft.ServerAddress(name))
	opts.Transport = func(string) raft.Transport { return trans }
	return opts, trans
}

// eventually waits up to a minute, which costs nothing inside a bubble.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 1200 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func copyDir(t testing.TB, from, to string) {
	t.Helper()
	must(t, os.CopyFS(to, os.DirFS(from)))
}

func reportOne(t testing.TB, s *raftstore.Store, id string) {
	t.Helper()
	must(t, s.ReportAgents(t.Context(), []fleet.AgentReport{{Identity: fleet.Identity{AgentID: id, Hostname: strings.Repeat("x", 2000)}, SeenAt: 1}}))
}

// A node that fell behind the leader's log gets a snapshot into its existing
// state while it is read; a crash at any step of that heals.
func TestSnapshotInstall(t *testing.T) {
	base := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o1, t1 := clusterOptions(filepath.Join(base, "n1"), "n1")
		o2, t2 := clusterOptions(filepath.Join(base, "n2"), "n2")
		n1 := run(t, o1)
		must(t, n1.Bootstrap(t.Context(), "cluster-1", []byte("ca")))
		wire(t1, t2)

		s2, err := raftstore.New(o2)
		must(t, err)
		id2 := raft.ServerID(s2.ServerID())
		must(t, s2.Close())
		o2.Transport = func(string) raft.Transport { return t2 }
		n2 := run(t, o2)
		must(t, n1.Raft().AddNonvoter(id2, "n2", 0, time.Second).Error())
		must(t, n2.WaitReady(within(t, time.Minute)))
		reportOne(t, n1.Store, "first")
		eventually(t, "n2 follows", func() bool { return n2.Status().Hash == n1.Status().Hash })
		wantError(t, n2.CreateUser(t.Context(), fleet.User{Name: "u", PasswordHash: "h"}), fleet.ErrUnavailable)

		_, err = n1.CreateTask(t.Context(), newTask("k0"), []string{"first"})
		must(t, err)
		eventually(t, "n2 has something for an agent", func() bool { return len(n2.Due([]string{"first"})) == 1 })

		// Cut n2 off until the leader's log no longer reaches back to it.
		t1.Disconnect("n2")
		for i := range 60 {
			reportOne(t, n1.Store, fmt.Sprintf("later%02d", i))
		}
		_, err = n1.CreateTask(t.Context(), newTask("k1"), []string{"later03"})
		must(t, err)
		eventually(t, "n2 is not current", func() bool { return !n2.Current() })
		eventually(t, "the log is cut", func() bool { return logBegin(n1) > 30 })

		images := map[string]string{}
		n2.AtStep(func(step string) {
			images[step] = filepath.Join(base, "image-"+step)
			copyDir(t, o2.Dir, images[step])
		})
		wake, stop := n2.Watch(fleet.TableKeys) // which nobody touched
		defer stop()
		must(t, n2.HoldRead(func() {
			t1.Connect("n2", t2)
			eventually(t, "the snapshot is there although a reader holds the old state", func() bool { return n2.AgentCount() == 61 })
		}))
		select {
		case <-wake:
		case <-time.After(time.Minute):
			t.Fatalf("no wake-up; steps %v", images)
		}
		eventually(t, "n2 is current", func() bool { return n2.Current() && n2.Status().Hash == n1.Status().Hash })
		if diff := cmp.Diff([]string{"first", "later03"}, n2.Due([]string{"first", "later02", "later03"})); diff != "" {
			t.Errorf("due by the installed state (-want +got): %s", diff)
		}
		checkState(t, n2.Store)
		if len(images) != 5 {
			t.Fatalf("steps %v", images)
		}
		n2.stop()

		// Killed at each of the steps, the node starts and catches up.
		for step, dir := range images {
			catchesUp(t, n1, t1, dir, step)
		}
		n1.stop()
	})
}

func catchesUp(t *testing.T, leader *node, wired *raft.InmemTransport, dir, step string) {
	t.Helper()
	opts, trans := clusterOptions(dir, "n2")
	wire(wired, trans)
	n := run(t, opts)
	eventually(t, "caught up after a kill when "+step, func() bool { return n.Status().Hash == leader.Status().Hash })
	n.stop()
}

func logBegin(n *node) uint64 { return n.FirstLogIndex() }

// Restoring a backup into a lone node, killed at each step: it always leads
// again, and keeps what it had or what was restored.
func TestRestoreKilledAtEachStep(t *testing.T) {
	base := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(base, "n1")
		n := lone(t, dir)
		reportOne(t, n.Store, "kept")
		snap := n.Raft().Snapshot()
		must(t, snap.Error())
		meta, source, err := snap.Open()
		must(t, err)
		for i := range 20 {
			reportOne(t, n.Store, fmt.Sprint("after", i))
		}
		images := map[string]string{}
		n.AtStep(func(step string) {
			images[step] = filepath.Join(base, "image-"+step)
			copyDir(t, dir, images[step])
		})
		must(t, n.Raft().Restore(meta, source, time.Minute))
		if n.AgentCount() != 1 {
			t.Fatalf("after the restore there are %d agents", n.AgentCount())
		}
		reportOne(t, n.Store, "new")
		n.stop()
		if len(images) != 5 {
			t.Fatalf("steps %v", images)
		}
		for step, image := range images {
			again := lone(t, image)
			if c := again.AgentCount(); c != 1 && c != 21 {
				t.Errorf("killed when %s: %d agents", step, c)
			}
			if _, err := again.Agent("kept"); err != nil {
				t.Errorf("killed when %s: %v", step, err)
			}
			reportOne(t, again.Store, "written-after-"+step)
			again.stop()
		}
	})
}

// A lone node whose log was cut often, down to nothing, starts again.
func TestLogCutToNothing(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		opts := options(dir)
		opts.Tuning.TrailingLogs, opts.Tuning.SnapshotEntries = 1, 1
		opts.Tuning.SnapshotInterval = 10 * time.Millisecond
		for life := range 4 {
			n := run(t, opts)
			if life == 0 {
				must(t, n.Bootstrap(t.Context(), "cluster-1", nil))
			}
			must(t, n.WaitReady(within(t, time.Minute)))
			if got := n.AgentCount(); got != 3*life {
				t.Fatalf("life %d begins with %d agents", life, got)
			}
			for i := range 3 {
				reportOne(t, n.Store, fmt.Sprintf("a%d-%d", life, i))
			}
			time.Sleep(time.Second)
			n.stop()
		}
	})
}
