// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
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

// TestRepeat: news is said at once and what lasts more and more seldom; a text
// that is new each second fills no disk.
func TestRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lasting, changing repeat
		said := map[string]int{}
		for i := range 3600 {
			if lasting.due("it lasts") {
				said["lasting"]++
			}
			if changing.due(fmt.Sprint(i, " entries are applied")) {
				said["changing"]++
			}
			<-time.After(time.Second)
		}
		if said["lasting"] < 5 || said["lasting"] > 12 || said["changing"] < 100 || said["changing"] > 3600/10+newsAtOnce {
			t.Errorf("said in an hour: %v", said)
		}
	})
}

// ends is a connection of which only the two ends are known.
type ends struct {
	net.Conn
	from, to string
}

func (e ends) LocalAddr() net.Addr  { return tcpAddr(e.from) }
func (e ends) RemoteAddr() net.Addr { return tcpAddr(e.to) }

func tcpAddr(s string) *net.TCPAddr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

// TestItself: a node that is known by another address of its own machine is no
// copy of itself.
func TestItself(t *testing.T) {
	for _, c := range []struct {
		own, from, to string
		want          bool
	}{
		{"0.0.0.0:6760", "192.0.2.1:40000", "192.0.2.1:6760", true}, // of a machine's own addresses, Linux takes the same for both ends
		{"[::]:6760", "192.0.2.1:40000", "192.0.2.1:6760", true},
		{"192.0.2.1:6760", "192.0.2.1:40000", "192.0.2.1:6760", true},
		{"0.0.0.0:6760", "192.0.2.1:40000", "192.0.2.2:6760", false},
		{"0.0.0.0:6760", "127.0.0.1:40000", "127.0.0.1:6770", false},
		{"127.0.0.2:6760", "127.0.0.1:40000", "127.0.0.1:6760", false},
	} {
		if got := itself(ends{from: c.from, to: c.to}, tcpAddr(c.own)); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}

// TestGivesWay: who of two nodes with one name ends.
func TestGivesWay(t *testing.T) {
	now := time.Now()
	earlier, later := now.Add(-time.Hour), now.Add(time.Hour)
	for _, c := range []struct {
		name                         string
		ready, starting, member, own bool // own: the rival has this node's server ID
		cluster                      string
		started                      time.Time
		want                         bool
	}{
		{"it is ready", true, false, true, false, "c1", earlier, false},
		{"it starts, and the rival is a member", false, true, true, false, "c1", later, true},
		{"it is a member that starts, and the rival's clock is behind", false, true, true, false, "", earlier, false},
		{"both are new, and it is the later one", false, true, false, false, "", earlier, true},
		{"both are new, and it is the earlier one", false, true, false, false, "", later, false},
		{"both are ready on copies, and it is the later one", true, false, true, true, "c1", earlier, true},
		{"both are ready on copies, and it is the earlier one", true, false, true, true, "c1", later, false},
	} {
		n := &Node{started: now, ready: make(chan struct{})}
		n.trust = &trust{serverID: "n1~00000001"}
		if c.ready {
			close(n.ready)
		}
		if c.member {
			n.trust.member.Store(&peerrpc.Membership{ClusterID: "c1"})
		}
		rival := fleet.Member{NodeID: "n1", ServerID: "n1~00000002", ClusterID: c.cluster, Started: c.started.Truncate(time.Second)}
		if c.own {
			rival.ServerID = n.trust.serverID
		}
		if got := n.givesWay(rival, c.starting); got != c.want {
			t.Errorf("%s: gives way: %t", c.name, got)
		}
	}
}

// TestOwnPromiseIsRefused: a node that hears of a cluster between deciding to
// found one and promising so to itself goes on and joins.
func TestOwnPromiseIsRefused(t *testing.T) {
	self := peerrpc.Candidate{ServerID: "n1~00000001", Expect: 3}
	promises, err := peerrpc.OpenPromises(peerrpc.PromisesOptions{
		Path: filepath.Join(t.TempDir(), promiseName), Self: self, ClusterID: func() string { return "c1" },
	})
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{log: slog.New(slog.DiscardHandler)}
	n.promises = promises
	f := founding{n: n, granted: make(map[string]bool)}
	if err := f.ask(t.Context(), self, []string{self.ServerID, "n2~00000002"}, nil); err != nil {
		t.Fatalf("the node would end: %v", err)
	}
	if why := n.waits.Load(); why == nil || !strings.Contains(*why, "c1") || promises.Given() != "" {
		t.Errorf("waits for %v, promised %q", why, promises.Given())
	}
}
