// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"log/slog"
	"testing"
	"time"

	"muster/fleet"
	"muster/internal/pki"
	"muster/peerrpc"
)

// TestNodeCertificateIsRenewed: the certificate for other nodes is replaced once
// two thirds of its life are over, and a new one is left alone.
func TestNodeCertificateIsRenewed(t *testing.T) {
	cfg := valid(t.TempDir())
	cfg.Cluster.Secret = "a secret of the test, long enough"
	if err := cfg.validate(); err != nil {
		t.Fatal(err)
	}
	tr, err := newTrust(&cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.unlock("n1~00000001"); err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewCA("c1", time.Now().AddDate(-1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	tr.ca.Store(ca)
	if err := tr.renew("c1"); err != nil {
		t.Fatal(err)
	}
	first := tr.member.Load()
	if err := tr.renew("c1"); err != nil || tr.member.Load() != first {
		t.Fatalf("a new certificate was replaced, or: %v", err)
	}
	request := pki.NodeRequest("c1", "n1~00000001")
	issued := time.Now().Add(-request.Lifetime * 3 / 4)
	pair, err := tr.ca.Load().IssuePair(request, issued)
	if err != nil {
		t.Fatal(err)
	}
	old, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	tr.member.Store(&peerrpc.Membership{ClusterID: "c1", CA: first.CA, Certificate: old})
	if err := tr.renew("c1"); err != nil {
		t.Fatal(err)
	}
	now := tr.member.Load()
	id, err := pki.NodeOf(now.Certificate.Leaf)
	if err != nil || now.Certificate == old || id.ServerID != "n1~00000001" || id.ClusterID != "c1" {
		t.Errorf("after three quarters of its life: the same certificate %v, %+v, %v", now.Certificate == old, id, err)
	}
}

func TestAppliedWatch(t *testing.T) {
	var w appliedWatch
	at := func(seconds int) time.Time { return time.Unix(1000+int64(seconds), 0) }
	w.note(at(0), 5)
	w.note(at(1), 9)
	for seconds, want := range map[int]uint64{1: 0, 2: 5, 3: 9} {
		if got := w.due(at(seconds)); got != want {
			t.Errorf("after %d s: %d, want %d", seconds, got, want)
		}
	}
	w.note(at(11), 3) // after a recovery the log is shorter
	w.note(at(12), 3)
	if got := w.due(at(14)); got != 3 {
		t.Errorf("what was heard long ago still counts: %d", got)
	}
}

// TestGivesWay: a node that is ready never gives way, whatever the clocks say; a
// starting one gives way to a member, and of two new ones exactly one does.
func TestGivesWay(t *testing.T) {
	now := time.Now()
	ready := &Node{started: now, ready: make(chan struct{})}
	close(ready.ready)
	member := fleet.Member{ClusterID: "c1", Started: now.Add(-5 * time.Minute)}
	if ready.givesWay(member, false) {
		t.Error("a node that is ready gives way to one whose clock is behind")
	}
	starting := &Node{started: now, ready: make(chan struct{})}
	member.Started = now.Add(5 * time.Minute)
	if !starting.givesWay(member, true) {
		t.Error("a node that starts does not give way to a member whose clock is ahead")
	}
	for _, apart := range []time.Duration{-time.Hour, time.Hour} {
		a, b := &Node{started: now, ready: make(chan struct{})}, &Node{started: now.Add(apart), ready: make(chan struct{})}
		seen := func(n *Node) fleet.Member { return fleet.Member{Started: n.started.Truncate(time.Second)} }
		if a.givesWay(seen(b), true) == b.givesWay(seen(a), true) {
			t.Error("of two new nodes not exactly one gives way")
		}
	}
}
