// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"muster/internal/apiv1"
	"muster/test/bubble"
)

// writtenWithin is how long writes may be refused when the leader is lost.
const writtenWithin = 3 * time.Second

// inventory has the cluster know so many agents, which are not connected.
func inventory(c *bubble.Cluster, agents int) (ids []string) {
	c.T.Helper()
	n := c.Running()[0]
	for i := range agents {
		id := fmt.Sprintf("known-%03d", i)
		known(n, id).Leave()
		ids = append(ids, id)
	}
	return ids
}

// load writes through every node, all the time, and remembers what it was told.
type load struct {
	c      *bubble.Cluster
	agents []string
	token  string
	done   chan struct{}
	stop   func() // returns when the writers have ended

	mu    sync.Mutex
	count int
	acked []ack
}

// ack is a write that was acknowledged: a tag that an agent has from then on.
type ack struct {
	by           *bubble.Node
	agent, tag   string
	begun, ended time.Time
}

func startLoad(c *bubble.Cluster, agents []string) *load {
	l := &load{c: c, agents: agents, token: c.Running()[0].Token(), done: make(chan struct{})}
	var writers sync.WaitGroup
	for _, n := range c.Nodes {
		writers.Go(func() { l.write(n) })
	}
	l.stop = sync.OnceFunc(func() {
		close(l.done)
		writers.Wait()
	})
	c.T.Cleanup(l.stop)
	return l
}

func (l *load) write(n *bubble.Node) {
	for {
		select {
		case <-l.done:
			return
		case <-time.After(100 * time.Millisecond):
		}
		l.mu.Lock()
		l.count++
		a := ack{by: n, agent: l.agents[l.count%len(l.agents)], tag: fmt.Sprintf("t%05d", l.count), begun: time.Now()}
		l.mu.Unlock()
		answer, err := n.Try(bubble.Request{
			Method: "POST", Path: "/v1/tags/" + a.tag + "/agents", Token: l.token, Body: fmt.Sprintf(`{"add":[%q]}`, a.agent),
		})
		if err != nil || answer.Status != http.StatusOK {
			continue
		}
		a.ended = time.Now()
		l.mu.Lock()
		l.acked = append(l.acked, a)
		l.mu.Unlock()
	}
}

// end stops the writers, and checks that all nodes that run have everything that
// was acknowledged.
func (l *load) end() {
	l.c.T.Helper()
	l.stop()
	l.c.SameState(time.Minute)
	for _, n := range l.c.Running() {
		has := map[string]bool{}
		for _, id := range l.agents {
			var agent apiv1.Agent
			n.V1("GET", "/v1/agents/"+id, nil, &agent)
			for _, tag := range agent.Tags {
				has[id+" "+tag] = true
			}
		}
		for _, a := range l.acked {
			if !has[a.agent+" "+a.tag] {
				l.c.T.Errorf("%s does not have %s of %s, which %s acknowledged at %s", n.Name, a.tag, a.agent, a.by.Name, a.ended)
			}
		}
	}
	l.c.T.Logf("%d of %d writes were acknowledged", len(l.acked), l.count)
}

// after returns the writes that these nodes acknowledged and that were begun
// since then, in the order of their ends.
func (l *load) after(since time.Time, nodes ...*bubble.Node) (list []ack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.acked {
		if a.begun.After(since) && slices.Contains(nodes, a.by) {
			list = append(list, a)
		}
	}
	return list
}

// wrote fails the test unless each of these nodes acknowledges a write soon that
// is begun from now on. It returns how long the slowest took.
func (l *load) wrote(what string, within time.Duration, nodes ...*bubble.Node) time.Duration {
	l.c.T.Helper()
	since := time.Now()
	l.c.Eventually(within, what+": writes through each of "+strings.Join(bubble.Names(nodes), ", "), func() error {
		for _, n := range nodes {
			if len(l.after(since, n)) == 0 {
				return errors.New("none through " + n.Name)
			}
		}
		return nil
	})
	return time.Since(since)
}

// The leader is lost in every way, again and again, while every node is written
// to: nothing acknowledged is lost, and the others write again soon.
func TestBubbleLeaderIsLostUnderWrites(t *testing.T) {
	formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
		l := startLoad(c, inventory(c, 20))
		for round := range 4 {
			c.Pass(time.Duration(rand.IntN(3000)) * time.Millisecond)
			l.wrote("before", 2*time.Second, c.Nodes...)
			leader := c.Leader()
			way := []string{"killed", "gone silent", "stopped", "alone"}[round%4]
			switch way {
			case "killed":
				leader.Kill()
			case "gone silent":
				leader.Vanish()
			case "stopped":
				leader.Stop()
			case "alone":
				c.Isolate(leader)
			}
			lost := time.Now()
			took := l.wrote("the leader is "+way, writtenWithin, c.Others(leader)...)
			t.Logf("the leader is %s: written again after %s", way, took)
			if way == "alone" {
				aloneIsHarmless(t, c, l, leader, lost)
				c.Heal()
			} else {
				leader.Start()
			}
			c.AllReady(30*time.Second, c.Nodes...)
		}
		l.end()
	})
}

// aloneIsHarmless wants a leader that hears nobody to acknowledge nothing, and
// to go on answering agents.
func aloneIsHarmless(t *testing.T, c *bubble.Cluster, l *load, alone *bubble.Node, since time.Time) {
	t.Helper()
	c.Pass(12 * time.Second)
	if late := l.after(since.Add(time.Second), alone); len(late) > 0 {
		t.Errorf("%s is alone and acknowledged %d writes", alone.Name, len(late))
	}
	if names, err := alone.Discovered(); err != nil || !slices.Contains(names, alone.Name) {
		t.Errorf("service discovery of the node that is alone: %q %v", names, err)
	}
	wantReadiness(alone, time.Second, "503", "without a leader")
	if leader := c.Others(alone)[0]; leader.Leads() == c.Others(alone)[1].Leads() {
		t.Error("not one of the two others leads")
	}
}

// Two of five nodes are parted from the rest: they refuse writes, serve agents'
// queries, and follow the others' state when they meet again.
func TestBubbleMinorityRefusesWrites(t *testing.T) {
	formed(t, 5, func(t *testing.T, c *bubble.Cluster) {
		l := startLoad(c, inventory(c, 10))
		l.wrote("before", 5*time.Second, c.Nodes...)
		few := []*bubble.Node{c.Leader()}
		few = append(few, c.Others(few[0])[rand.IntN(4)])
		many := c.Others(few...)
		c.Divide(few)
		parted := time.Now()
		l.wrote("the majority", writtenWithin, many...)
		c.AllDiscovered(5*time.Second, many, many)
		c.AllDiscovered(5*time.Second, few, sorted(few))
		c.Pass(5 * time.Second)
		if late := l.after(parted.Add(time.Second), few...); len(late) > 0 {
			t.Errorf("the minority acknowledged %d writes", len(late))
		}
		c.Heal()
		l.wrote("together", 15*time.Second, c.Nodes...)
		c.AllDiscovered(time.Minute, c.Nodes, c.Nodes)
		l.end()
	})
}

func sorted(nodes []*bubble.Node) []*bubble.Node {
	return slices.SortedFunc(slices.Values(nodes), func(a, b *bubble.Node) int { return strings.Compare(a.Name, b.Name) })
}

// A link that works one way only, from the leader or to it, stops the writes for
// a moment at most.
func TestBubbleOneWayLinks(t *testing.T) {
	formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
		l := startLoad(c, inventory(c, 10))
		for _, way := range []string{"deaf", "mute", "deaf to one", "mute to one"} {
			l.wrote("before", 2*time.Second, c.Nodes...)
			leader := c.Leader()
			others := c.Others(leader)
			switch way {
			case "deaf":
				c.Deafen(leader)
			case "mute":
				for _, other := range others {
					c.Net.Block(leader.IP, other.IP)
				}
			case "deaf to one":
				c.Net.Block(others[0].IP, leader.IP)
			case "mute to one":
				c.Net.Block(leader.IP, others[0].IP)
			}
			reach := others
			if strings.HasSuffix(way, "one") {
				// A majority with links that work is left, whoever leads it.
				reach = others[1:]
			}
			t.Logf("the leader is %s: written again after %s", way, l.wrote("the leader is "+way, 2*writtenWithin, reach...))
			c.Pass(8 * time.Second)
			c.Heal()
			l.wrote("healed", 15*time.Second, c.Nodes...)
			c.AllReady(30*time.Second, c.Nodes...)
		}
		l.end()
	})
}

// A node whose disk is lost comes back by itself as a new member, with
// everything, and votes.
func TestBubbleWipedNodeComesBack(t *testing.T) {
	for _, which := range []string{"a follower", "the leader"} {
		t.Run(which, func(t *testing.T) {
			formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
				l := startLoad(c, inventory(c, 10))
				setDefaultConfig(c.Nodes[0], bubble.Revision(1), "collector")
				c.Pass(time.Second)
				victim := c.Leader()
				if which == "a follower" {
					victim = c.Others(victim)[0]
				}
				old := victim.ServerID()
				victim.Kill()
				victim.Wipe()
				c.Pass(time.Second)
				began := time.Now()
				victim.Start()
				t.Logf("ready after %s", time.Since(began))
				c.AllReady(30*time.Second, c.Nodes...)
				if id := victim.ServerID(); id == old || id == "" {
					t.Errorf("server ID %q after the disk was lost, before it %q", id, old)
				}
				c.Eventually(30*time.Second, "three voters", func() error { return voters(c.Nodes[0], 3) })
				l.wrote("three nodes again", 5*time.Second, c.Nodes...)
				other := c.Others(victim)[rand.IntN(2)]
				other.Kill()
				l.wrote("with the vote of the new one", writtenWithin, c.Running()...)
				other.Start()
				c.AllReady(30*time.Second, c.Nodes...)
				l.end()
			})
		})
	}
}

// voters wants so many members that vote, and none else.
func voters(n *bubble.Node, want int) error {
	var page apiv1.Page[apiv1.Node]
	n.V1("GET", "/v1/nodes", nil, &page)
	var got []string
	for _, m := range page.Items {
		got = append(got, m.Name+" "+m.State+" "+m.Role)
		if m.Role == "voter" || m.Role == "leader" {
			want--
		}
	}
	if want != 0 {
		return fmt.Errorf("members: %q", got)
	}
	return nil
}

// Two of three disks are lost. No node makes another cluster, all say what to
// do, and doing it brings back everything.
func TestBubbleMajorityIsLost(t *testing.T) {
	formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
		agents := inventory(c, 10)
		l := startLoad(c, agents)
		setDefaultConfig(c.Nodes[0], bubble.Revision(1), "collector")
		c.Pass(2 * time.Second)
		l.end()
		cluster := c.ClusterIDs()
		lost := c.Nodes[:2]
		left := c.Nodes[2]
		for _, n := range lost {
			n.Kill()
			n.Wipe()
		}
		for _, n := range lost {
			n.Launch()
		}
		c.Pass(2 * time.Minute)
		if ids := c.ClusterIDs(); len(ids) != 1 || ids[0] != cluster[0] {
			t.Fatalf("clusters %q, want %q", ids, cluster)
		}
		wantReadiness(left, time.Second, "503", "quorum is lost", "--recover")
		for _, n := range lost {
			wantReadiness(n, time.Second, "503", "quorum")
		}
		for _, n := range c.Nodes {
			if n.Log.Count("quorum") == 0 {
				t.Errorf("%s does not log that quorum is lost", n.Name)
			}
		}
		// Starting it again makes no difference.
		left.Stop()
		left.Launch()
		c.Pass(30 * time.Second)
		wantReadiness(left, time.Second, "503", "quorum is lost", "--recover")

		left.Stop()
		left.Config.Cluster.Recover, left.Config.Cluster.Yes = true, true
		c.Recovered()
		left.Start()
		left.Config.Cluster.Recover, left.Config.Cluster.Yes = false, false
		for _, n := range lost {
			n.WaitReady(time.Minute)
		}
		c.AllReady(time.Minute, c.Nodes...)
		c.Eventually(30*time.Second, "three voters", func() error { return voters(c.Nodes[0], 3) })
		again := startLoad(c, agents)
		again.acked = l.acked // nothing of it is lost
		again.count = l.count
		for _, n := range c.Nodes {
			n.Kill()
			again.wrote("without "+n.Name, writtenWithin, c.Running()...)
			n.Start()
			c.AllReady(30*time.Second, c.Nodes...)
		}
		again.end()
	})
}

// The power fails everywhere at once. All come back by themselves, with all that
// was acknowledged.
func TestBubbleAllNodesDieAtOnce(t *testing.T) {
	formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
		l := startLoad(c, inventory(c, 10))
		for range 3 {
			c.Pass(time.Duration(rand.IntN(3000)) * time.Millisecond)
			l.wrote("before", 2*time.Second, c.Nodes...)
			for _, n := range c.Running() {
				n.Vanish()
			}
			c.Pass(time.Duration(rand.IntN(60_000)) * time.Millisecond)
			c.StartAll(formWithin, c.Nodes...)
			c.AllReady(10*time.Second, c.Nodes...)
		}
		l.end()
	})
}

// A node that is removed through another one ends and says why, and is not taken
// back with its disk; with an empty one it is a new member.
func TestBubbleRemovedNodeIsGone(t *testing.T) {
	for _, which := range []string{"a follower", "the leader"} {
		t.Run(which, func(t *testing.T) {
			formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
				l := startLoad(c, inventory(c, 5))
				gone := c.Leader()
				if which == "a follower" {
					gone = c.Others(gone)[0]
				}
				left := c.Others(gone)
				answer := left[0].Do(bubble.Request{Method: "DELETE", Path: "/v1/nodes/" + gone.Name + "?force=true", Token: left[0].Token()})
				if answer.Status >= http.StatusMultipleChoices {
					t.Fatalf("remove %s: %v", gone.Name, answer)
				}
				if err := gone.WaitEnd(30 * time.Second); err == nil || !strings.Contains(err.Error(), "removed from the cluster") {
					t.Errorf("the removed node ended with: %v", err)
				}
				l.wrote("two are left", writtenWithin, left...)
				c.AllDiscovered(10*time.Second, left, sorted(left))
				c.Eventually(10*time.Second, "two voters", func() error { return voters(left[0], 2) })
				c.SameState(10 * time.Second)

				gone.Launch()
				if err := gone.WaitEnd(time.Minute); err == nil || !strings.Contains(err.Error(), "removed from the cluster") {
					t.Errorf("the removed node with its disk ended with: %v", err)
				}
				gone.Wipe()
				gone.Start()
				c.AllReady(30*time.Second, c.Nodes...)
				c.Eventually(30*time.Second, "three voters", func() error { return voters(left[0], 3) })
				l.end()
			})
		})
	}
}
