// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster/fleet"
	"muster/raftstore"
)

// plainSealer flips bits; it is no protection but can be told from plain text.
type plainSealer struct{}

func (plainSealer) Seal(p []byte) ([]byte, error) { return flip(p), nil }
func (plainSealer) Open(p []byte) ([]byte, error) { return flip(p), nil }

func flip(p []byte) []byte {
	out := make([]byte, len(p))
	for i := range p {
		out[i] = ^p[i]
	}
	return out
}

func options(dir string) raftstore.Options {
	return raftstore.Options{
		Dir: dir, NodeName: "n1", Sealer: plainSealer{},
		Fatal:  func(error) {},
		Tuning: raftstore.Tuning{SegmentBytes: 1 << 20, MmapBytes: 64 << 20, Election: 50 * time.Millisecond},
	}
}

// node is a running store.
type node struct {
	*raftstore.Store
	stop func()
	// failed is set when the disk failed, on purpose: the process would be gone.
	failed atomic.Bool
}

// run starts a store and stops it when the test ends, checking its pages and
// its hash first.
func run(t testing.TB, opts raftstore.Options) *node {
	t.Helper()
	s, err := raftstore.New(opts)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	if opts.Recover {
		must(t, s.Recover())
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var runErr error
	wg.Go(func() { runErr = s.Run(ctx) })
	stopped := false
	n := &node{Store: s}
	n.stop = func() {
		if stopped {
			return
		}
		stopped = true
		if !n.failed.Load() {
			checkState(t, s)
		}
		cancel()
		wg.Wait()
		if runErr != nil && !n.failed.Load() {
			t.Errorf("Run: %v", runErr)
		}
	}
	t.Cleanup(n.stop)
	return n
}

func checkState(t testing.TB, s *raftstore.Store) {
	t.Helper()
	if err := s.CheckPages(); err != nil {
		t.Errorf("bbolt's check: %v", err)
	}
	for range 100 {
		before, _ := s.State()
		again, err := s.RecountHash()
		if err != nil {
			t.Errorf("RecountHash: %v", err)
		}
		after, kept := s.State()
		if before != after {
			continue // it was written meanwhile
		}
		if again != kept {
			t.Errorf("the state hashes to %s, kept is %s", again, kept)
		}
		return
	}
	t.Error("the state never rests")
}

// lone starts a founded cluster of one node.
func lone(t testing.TB, dir string) *node {
	t.Helper()
	n := run(t, options(dir))
	if !n.Bootstrapped() {
		must(t, n.Bootstrap(t.Context(), "cluster-1", []byte("sealed ca")))
	}
	must(t, n.WaitReady(within(t, 10*time.Second)))
	return n
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error = %v, want %v", err, want)
	}
}

// agents reports n agents named a0001...
func agents(t testing.TB, s *raftstore.Store, n int) []string {
	t.Helper()
	ids := make([]string, n)
	reports := make([]fleet.AgentReport, n)
	for i := range n {
		ids[i] = fmt.Sprintf("a%04d", i+1)
		reports[i] = fleet.AgentReport{Identity: fleet.Identity{AgentID: ids[i], Hostname: "h-" + ids[i]}, Node: "n1", SeenAt: 100}
	}
	must(t, s.ReportAgents(t.Context(), reports))
	return ids
}

func TestRestartKeepsAll(t *testing.T) {
	dir := t.TempDir()
	n := lone(t, dir)
	must(t, n.CreateUser(t.Context(), fleet.User{Name: "admin", PasswordHash: "h"}))
	agents(t, n.Store, 10)
	before := n.Status()
	n.stop()

	n = lone(t, dir)
	after := n.Status()
	if after.Hash != before.Hash || after.ClusterID != "cluster-1" || after.Agents != 10 || after.ServerID != before.ServerID {
		t.Fatalf("before %+v, after %+v", before, after)
	}
	if u, err := n.User("admin"); err != nil || u.PasswordHash != "h" {
		t.Fatalf("User = %+v, %v", u, err)
	}
	if ca, ok := n.Meta(raftstore.MetaCA); !ok || string(ca) != "sealed ca" {
		t.Fatalf("Meta = %q, %v", ca, ok)
	}
}

// A node pushes nothing before it was current once, nor while others are ahead.
func TestCurrent(t *testing.T) {
	opts := options(t.TempDir())
	var ahead atomic.Uint64
	opts.PeersApplied = ahead.Load
	n := run(t, opts)
	if n.Current() || n.Bootstrapped() {
		t.Fatal("an empty node is current or a member")
	}
	wantError(t, n.WaitReady(within(t, 10*time.Millisecond)), fleet.ErrUnavailable)
	wantError(t, n.PutMeta(t.Context(), "k", nil), fleet.ErrUnavailable)
	must(t, n.Bootstrap(t.Context(), "cluster-1", []byte("ca")))
	must(t, n.Bootstrap(t.Context(), "cluster-2", []byte("other"))) // the first one stands
	if st := n.Status(); !n.Current() || st.ClusterID != "cluster-1" || st.Role != "leader" || st.Leader != st.ServerID {
		t.Fatalf("Status = %+v", st)
	}
	ahead.Store(1 << 40)
	if n.Current() {
		t.Fatal("a node that is behind the others calls itself current")
	}
	n.stop()
	_, err := n.Users()
	wantError(t, err, fleet.ErrClosed)
	wantError(t, n.PutMeta(t.Context(), "k", nil), fleet.ErrClosed)
}
