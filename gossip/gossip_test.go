// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
	"muster/gossip"
	"muster/internal/memnet"
)

const port = ":7946"

func ip(i int) string { return fmt.Sprintf("10.0.%d.%d", i/250, i%250) }

// seeds are the addresses of the first three hosts.
func seeds() []string { return []string{ip(1) + port, ip(2) + port, ip(3) + port} }

// testNode is a running Mesh.
type testNode struct {
	*gossip.Mesh
	id   string
	load *loadValue
	stop func()
}

type loadValue struct {
	mu   sync.Mutex
	load fleet.Load
}

func (l *loadValue) get() fleet.Load {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.load
}

func (l *loadValue) set(load fleet.Load) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.load = load
}

func testKey() []byte { return bytes.Repeat([]byte{7}, 32) }

// startNode runs node number i on host i, until the test ends or stop is called.
func startNode(t *testing.T, n *memnet.Network, i int, change ...func(*gossip.Options)) *testNode {
	t.Helper()
	host := n.Host(ip(i))
	listener, err := host.Listen("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	packets, err := host.ListenPacket("udp", port)
	if err != nil {
		t.Fatal(err)
	}
	load := &loadValue{load: fleet.Load{Limit: 1000, Ready: true, Sessions: uint32(100 * i)}}
	opts := gossip.Options{
		Self:       fleet.Member{NodeID: fmt.Sprint("n", i), ClusterID: "c", AgentAddr: ip(i) + ":6751", Started: time.Now()},
		Key:        testKey(),
		Listener:   listener,
		Packets:    packets,
		Dial:       host.DialContext,
		Join:       seeds(),
		Load:       load.get,
		Logger:     slog.New(slog.DiscardHandler),
		Registerer: prometheus.NewRegistry(),
	}
	for _, c := range change {
		c(&opts)
	}
	mesh, err := gossip.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { time.Sleep(gossip.Linger) }) // runs after stop
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := mesh.Run(ctx); err != nil {
			t.Errorf("node %d: %v", i, err)
		}
	})
	node := &testNode{Mesh: mesh, id: opts.Self.NodeID, load: load, stop: func() {
		cancel()
		wg.Wait()
	}}
	t.Cleanup(node.stop)
	return node
}

func (n *testNode) member(id string) (fleet.Member, bool) {
	for _, m := range n.Members() {
		if m.NodeID == id {
			return m, true
		}
	}
	return fleet.Member{}, false
}

func (n *testNode) alive() int {
	count := 0
	for _, m := range n.Members() {
		if m.Alive {
			count++
		}
	}
	return count
}

// await lets bubble time pass until a condition holds.
func await(t *testing.T, within time.Duration, what string, condition func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !condition() {
		if time.Since(start) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return time.Since(start)
}

func pickedIDs(members []*fleet.Member) string {
	text := ""
	for _, m := range members {
		text += m.NodeID + " "
	}
	return text
}

// startThree runs three nodes that know each other's load.
func startThree(t *testing.T, n *memnet.Network) []*testNode {
	t.Helper()
	nodes := []*testNode{startNode(t, n, 1), startNode(t, n, 2), startNode(t, n, 3)}
	await(t, 15*time.Second, "three nodes see each other and their load", func() bool {
		for _, node := range nodes {
			if len(node.Pick(0)) != 3 {
				return false
			}
		}
		return true
	})
	return nodes
}

func TestALoneNodeKnowsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := startNode(t, memnet.New(), 1, func(o *gossip.Options) { o.Join = nil })
		if got := node.Members(); len(got) != 1 || !got[0].Alive || got[0].AgentAddr != "10.0.0.1:6751" {
			t.Fatalf("members at once: %+v", got)
		}
		if got := node.Pick(5); len(got) != 1 {
			t.Fatalf("picked at once: %+v; a lone node is better than none", got)
		}
		synctest.Wait()
		node.load.set(fleet.Load{Limit: 5, Sessions: 4, Ready: true})
		time.Sleep(1100 * time.Millisecond)
		if m, _ := node.member("n1"); m.Load.Sessions != 4 || time.Since(m.ReportedAt) > time.Second {
			t.Fatalf("own load: %+v", m)
		}
		if _, err := node.Register(service("a", 1)); err != nil || len(node.Services("")) != 1 {
			t.Fatalf("register alone: %v, %v", err, node.Services(""))
		}
		start := time.Now()
		node.stop()
		if waited := time.Since(start); waited > time.Second {
			t.Fatalf("a lone node took %v to stop", waited)
		}
	})
}

func TestThreeNodesShareTheirLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := startThree(t, memnet.New())
		for _, node := range nodes {
			if got := pickedIDs(node.Pick(2)); got != "n1 n2 " {
				t.Errorf("%s picks %s", node.id, got)
			}
		}
		nodes[0].load.set(fleet.Load{Limit: 1000, Sessions: 900, Ready: true, Applied: 7})
		time.Sleep(1200 * time.Millisecond)
		for _, node := range nodes {
			if got := pickedIDs(node.Pick(0)); got != "n2 n3 n1 " {
				t.Errorf("%s picks %s after a report", node.id, got)
			}
			if m, _ := node.member("n1"); m.Load.Applied != 7 {
				t.Errorf("%s knows %+v", node.id, m.Load)
			}
		}
	})
}

func TestWhatWasHandedOutCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := startThree(t, memnet.New())
		for _, node := range nodes {
			node.load.set(fleet.Load{Limit: 1000, Sessions: 500, Ready: true})
		}
		time.Sleep(1100 * time.Millisecond)
		first := map[string]int{}
		for range 300 { // in one moment, between two reports
			first[nodes[0].Pick(10)[0].NodeID]++
		}
		for _, node := range nodes {
			if got := first[node.id]; got < 80 || got > 120 {
				t.Errorf("of 300 agents of one moment %s was given %d: %v", node.id, got, first)
			}
		}
	})
}

func TestASilentNodeIsHandedOutNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		nodes := startThree(t, n)
		n.Cut(ip(1))
		took := await(t, 4100*time.Millisecond, "n1 is not picked", func() bool {
			return pickedIDs(nodes[1].Pick(0)) == "n2 n3 "
		})
		if m, _ := nodes[1].member("n1"); !m.Alive {
			t.Errorf("after %v it already counts as dead", took)
		}
		if got := pickedIDs(nodes[0].Pick(0)); got != "n1 " {
			t.Errorf("the node that is cut off picks %s", got)
		}
		await(t, 2*time.Minute, "n1 counts as dead", func() bool {
			m, ok := nodes[1].member("n1")
			return ok && !m.Alive
		})
		// All sides have given up; nobody but the rejoining can heal this.
		await(t, 2*time.Minute, "n1 gave up the others", func() bool { return nodes[0].alive() == 1 })
		time.Sleep(5 * time.Minute)
		n.Heal()
		await(t, 45*time.Second, "all see three again", func() bool {
			return nodes[0].alive() == 3 && nodes[1].alive() == 3 && nodes[2].alive() == 3
		})
		await(t, 2*time.Second, "n1 is picked again", func() bool { return len(nodes[1].Pick(0)) == 3 })
	})
}

func TestLeavingIsKnownAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := startThree(t, memnet.New())
		start := time.Now()
		nodes[0].stop()
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("leaving took %v", took)
		}
		await(t, time.Second, "n1 is gone", func() bool {
			return len(nodes[1].Members()) == 2 && len(nodes[2].Members()) == 2
		})
	})
}

func TestAWholeClusterStopsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := startThree(t, memnet.New())
		start := time.Now()
		var wg sync.WaitGroup
		for _, node := range nodes {
			wg.Go(node.stop)
		}
		wg.Wait()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestStoppingDoesNotWaitForPeersThatAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		nodes := startThree(t, n)
		n.Cut(ip(1))
		time.Sleep(10 * time.Second) // probes over streams are under way
		start := time.Now()
		nodes[0].stop()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("stopping took %v", took)
		}
	})
}

func TestARestartedNodeIsHeardAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		nodes := startThree(t, n)
		n.Kill(ip(3)) // no goodbye
		nodes[2].stop()
		back := startNode(t, n, 3)
		back.load.set(fleet.Load{Limit: 100, Sessions: 1, Ready: true})
		await(t, 5*time.Second, "the restarted node is picked first", func() bool {
			return nodes[0].Pick(1)[0].NodeID == "n3" && len(back.Pick(0)) == 3
		})
	})
}

func TestSubscribersSeeTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		one := startNode(t, n, 1)
		changes, cancel := one.Subscribe()
		two := startNode(t, n, 2)
		await(t, 15*time.Second, "a token", func() bool { return len(changes) == 1 })
		await(t, 5*time.Second, "n2", func() bool { return one.alive() == 2 })
		synctest.Wait()
		<-changes
		time.Sleep(5 * time.Second)
		if len(changes) != 0 {
			t.Error("load reports made a token")
		}
		facts := fleet.Member{NodeID: "n2", ClusterID: "c", Zone: "z2", Started: time.Now()}
		if err := two.Update(facts); err != nil {
			t.Fatal(err)
		}
		await(t, 5*time.Second, "new facts", func() bool {
			m, _ := one.member("n2")
			return m.Zone == "z2" && len(changes) == 1
		})
		await(t, 2*time.Second, "its load again", func() bool {
			m, _ := one.member("n2")
			return m.Load.Sessions == 200
		})
		<-changes
		cancel()
		two.stop()
		await(t, 5*time.Second, "n2 is gone", func() bool { return one.alive() == 1 })
		if len(changes) != 0 {
			t.Error("a token after the end of the subscription")
		}
		if err := one.Update(fleet.Member{NodeID: "other"}); err == nil {
			t.Error("a node changed its name")
		}
	})
}
