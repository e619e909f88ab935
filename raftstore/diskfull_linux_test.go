// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"muster/fleet"
	"muster/raftstore"
)

// smallDisk mounts a disk of so many KiB.
func smallDisk(t *testing.T, kib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("muster-test", dir, "tmpfs", 0, fmt.Sprintf("size=%dk", kib)); err != nil {
		t.Skipf("mounting a small disk needs root: %v", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// fillDisk leaves so many bytes free on the disk of dir, and returns how to
// make room again.
func fillDisk(t *testing.T, dir string, free int64) (makeRoom func()) {
	t.Helper()
	path := filepath.Join(dir, "junk")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(t, err)
	var disk syscall.Statfs_t
	must(t, syscall.Statfs(dir, &disk))
	if n := int64(disk.Bavail)*disk.Bsize - free; n > 0 {
		_, err = f.Write(make([]byte, n))
		must(t, err)
	}
	must(t, f.Close())
	return func() { must(t, os.Remove(path)) }
}

// fullDiskKiB is the size of the small disk.
const fullDiskKiB = 6 << 10

// fullDiskOptions are those of a node with a small log, which is cut soon.
func fullDiskOptions(o *raftstore.Options, full func(error)) {
	o.Tuning.SegmentBytes = 256 << 10
	o.Tuning.TrailingLogs, o.Tuning.SnapshotEntries, o.Tuning.SnapshotInterval = 8, 16, 5*time.Millisecond
	o.Fatal = full
}

func bigReport(id string) []fleet.AgentReport {
	return []fleet.AgentReport{{Identity: fleet.Identity{AgentID: id, Hostname: strings.Repeat("x", 5000)}, SeenAt: 1}}
}

// wantMakeRoom wants the one line that an operator sees to say what to do.
func wantMakeRoom(t *testing.T, err error) {
	t.Helper()
	if words := err.Error(); !strings.Contains(words, "the disk is full: make room on the disk of") ||
		!strings.Contains(words, "no space left on device") || strings.Contains(words, "move") {
		t.Errorf("the line says %q", words)
	}
}

func wantAgents(t *testing.T, s *raftstore.Store, ids []string) {
	t.Helper()
	for _, id := range ids {
		if _, err := s.Agent(id); err != nil {
			t.Fatalf("acknowledged and lost: %s: %v", id, err)
		}
	}
}

// fillByWriting runs a node until its disk is full, and returns what was
// acknowledged and how to make room.
func fillByWriting(t *testing.T, disk, dir string, free int64) (acknowledged []string, makeRoom func()) {
	t.Helper()
	full := make(chan error, 1)
	opts := options(dir)
	fullDiskOptions(&opts, func(err error) { full <- err })
	s, err := raftstore.New(opts)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	must(t, s.Bootstrap(ctx, "cluster-1", []byte("ca")))
	must(t, s.WaitReady(within(t, 10*time.Second)))
	makeRoom = fillDisk(t, disk, free)
	for i := 0; ; i++ {
		id := fmt.Sprintf("a%05d", i)
		if err := s.ReportAgents(within(t, 10*time.Second), bigReport(id)); err != nil {
			break
		}
		acknowledged = append(acknowledged, id)
	}
	select {
	case err := <-full:
		wantMakeRoom(t, err)
	case <-time.After(10 * time.Second):
		t.Error("a node whose disk is full goes on, though it takes no entry")
	}
	cancel()
	wg.Wait()
	return acknowledged, makeRoom
}

// A lone node whose disk is full stops with what to do, and with room again it
// has all that was acknowledged and goes on.
func TestDiskFullAlone(t *testing.T) {
	for name, free := range map[string]int64{
		"at once": 0, "in the state": 20 << 10, "at the second segment": 600 << 10, "at the third segment": 900 << 10, "by writes alone": 1 << 30,
	} {
		t.Run(name, func(t *testing.T) {
			disk := smallDisk(t, fullDiskKiB)
			dir := filepath.Join(disk, "d")
			acknowledged, makeRoom := fillByWriting(t, disk, dir, free)
			opts := options(dir)
			fullDiskOptions(&opts, func(err error) { t.Error(err) })
			if s, err := raftstore.New(opts); err != nil { // while it is still full
				wantMakeRoom(t, err)
			} else {
				wantAgents(t, s, acknowledged)
				must(t, s.Close())
			}
			if makeRoom(); free > fullDiskKiB<<10 { // there is no junk to remove, so the disk grows
				must(t, syscall.Mount("muster-test", disk, "tmpfs", syscall.MS_REMOUNT, "size=32m"))
			}
			n := run(t, opts)
			must(t, n.WaitReady(within(t, 10*time.Second)))
			wantAgents(t, n.Store, acknowledged)
			for i := range 120 {
				must(t, n.ReportAgents(within(t, 10*time.Second), bigReport(fmt.Sprint("b", i))))
			}
			n.stop()
			wantAgents(t, run(t, opts).Store, acknowledged)
			t.Logf("%d writes were acknowledged before the disk was full", len(acknowledged))
		})
	}
}

// One node of three stops when its disk is full, whether it follows or leads;
// the others lose nothing, and with room again it catches up.
func TestDiskFullInACluster(t *testing.T) {
	for name, victim := range map[string]int{"leader": 1, "follower": 2} {
		t.Run(name, func(t *testing.T) {
			disk := smallDisk(t, fullDiskKiB)
			bubble(t, func(w *world) { fillOneOfThree(w, victim, disk) })
		})
	}
}

func fillOneOfThree(w *world, victim int, disk string) {
	t := w.t
	full := make(chan error, 1)
	var members [4]*member
	w.tune = func(o *raftstore.Options) {
		fullDiskOptions(o, o.Fatal)
		if o.NodeName == fmt.Sprint("n", victim) {
			o.Fatal = func(err error) { // the process ends
				members[victim].failed.Store(true)
				members[victim].die()
				full <- err
			}
		}
	}
	for i := 1; i <= 3; i++ {
		dir := ""
		if i == victim {
			dir = filepath.Join(disk, "d")
		}
		if members[i] = w.start(i, dir); i == 1 {
			must(t, members[1].Bootstrap(t.Context(), "cluster-1", []byte("ca")))
			continue
		}
		must(t, members[1].Join(t.Context(), members[i].serverID, members[i].name, members[i].addr))
	}
	w.settled(3)
	makeRoom := fillDisk(t, disk, 600<<10)
	var acknowledged []string
	for i := range 150 {
		id := fmt.Sprintf("a%05d", i)
		must(t, members[3].ReportAgents(t.Context(), bigReport(id)))
		acknowledged = append(acknowledged, id)
	}
	select {
	case err := <-full:
		wantMakeRoom(t, err)
	case <-time.After(time.Minute):
		t.Error("a node whose disk is full goes on")
	}
	members[victim].bury()
	makeRoom()
	members[victim] = members[victim].again()
	w.settled(3)
	for _, m := range w.running() {
		wantAgents(t, m.Store, acknowledged)
	}
	for i := range 60 {
		must(t, members[victim].ReportAgents(t.Context(), bigReport(fmt.Sprint("b", i))))
	}
	w.same()
}

// A node whose disk has no room for a copy of the state says so and goes on;
// with room the copy comes by itself.
func TestDiskFullForASnapshot(t *testing.T) {
	disk := smallDisk(t, fullDiskKiB)
	bubble(t, func(w *world) {
		t := w.t
		var said lockedBuffer
		w.tune = func(o *raftstore.Options) {
			fullDiskOptions(o, o.Fatal)
			if o.NodeName == "n2" {
				o.Logger = slog.New(slog.NewTextHandler(&said, nil))
			}
		}
		first := w.start(1, "")
		must(t, first.Bootstrap(t.Context(), "cluster-1", []byte("ca")))
		for i := range 100 {
			must(t, first.ReportAgents(t.Context(), bigReport(fmt.Sprint("a", i))))
		}
		eventually(t, "the log is cut", func() bool { return first.FirstLogIndex() > 30 })
		second := w.start(2, filepath.Join(disk, "d"))
		makeRoom := fillDisk(t, disk, 100<<10)
		must(t, first.Join(t.Context(), second.serverID, second.name, second.addr))
		eventually(t, "the full disk is told of", func() bool { return strings.Contains(said.String(), "make room for a copy of the state") })
		if second.Ready() {
			t.Error("a node without the state is ready")
		}
		makeRoom()
		w.settled(2)
		if n := second.AgentCount(); n != 100 {
			t.Errorf("%d agents", n)
		}
	})
}

// lockedBuffer takes the lines of a logger.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
