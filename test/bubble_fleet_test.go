// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"muster/internal/simagent"
	"muster/test/bubble"
)

// A node that dies, however, is gone from every answer of service discovery
// soon, and back in all of them soon after it is ready again.
func TestBubbleDiscoveryFollowsDeaths(t *testing.T) {
	formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
		c.AllDiscovered(5*time.Second, c.Nodes, c.Nodes)
		for _, n := range c.Nodes {
			for way, die := range map[string]func(){"killed": n.Kill, "gone silent": n.Vanish} {
				die()
				died := time.Now()
				c.AllDiscovered(5*time.Second, c.Running(), c.Running())
				gone := time.Since(died)
				c.Pass(time.Minute)
				n.Start()
				ready := time.Now()
				c.AllDiscovered(5*time.Second, c.Nodes, c.Nodes)
				t.Logf("%s is %s: gone from all answers after %s, back %s after it was ready", n.Name, way, gone, time.Since(ready))
				c.AllReady(30*time.Second, c.Nodes...)
			}
		}
	})
}

// A node that is stopped sends its agents away after no other node names it any
// more, and nothing that it received is lost.
func TestBubbleStopLeavesDiscoveryFirst(t *testing.T) {
	formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
		for _, n := range c.Nodes {
			agents := crew(c, 2)
			for _, a := range all(agents) {
				for range 20 {
					if err := a.TrySend(bubble.NewRecord(bubble.Execve, "exe", "/bin/"+n.Name)); err != nil {
						t.Fatal(err)
					}
				}
			}
			stopped := make(chan struct{})
			c.Go(func() {
				n.Stop()
				close(stopped)
			})
			c.Eventually(30*time.Second, "the streams end", func() error {
				for _, a := range agents[n.Name] {
					if !a.Ended() {
						return errors.New("they go on")
					}
				}
				return nil
			})
			for _, other := range c.Nodes {
				if other == n {
					continue
				}
				if names, err := other.Discovered(); err != nil || slices.Contains(names, n.Name) {
					t.Errorf("when the streams of %s end, %s still lists it: %q %v", n.Name, other.Name, names, err)
				}
			}
			<-stopped
			if n.Last.Received != n.Last.Delivered || n.Last.Received == 0 {
				t.Errorf("%s received records that are lost: %+v", n.Name, n.Last)
			}
			n.Start()
			c.AllReady(30*time.Second, c.Nodes...)
			c.AllDiscovered(5*time.Second, c.Nodes, c.Nodes)
			for _, a := range all(agents) {
				a.Cut()
			}
		}
		records := c.Nodes[0].ReadKafka(bubble.KafkaIP + ":9092")
		for _, n := range c.Nodes {
			for i := range 2 {
				id := fmt.Sprintf("agent-%s-%d", n.Name, i)
				if got := len(bubble.Of(records, id, bubble.Execve)); got != 3*20 {
					t.Errorf("%d records of %s are in Kafka, want 60", got, id)
				}
			}
		}
	})
}

// fleetConnected wants all agents of a fleet to have a stream, on nodes that run.
func fleetConnected(c *bubble.Cluster, f *bubble.Fleet, agents int) error {
	sessions := 0
	for _, n := range c.Running() {
		sessions += n.Node.Sessions()
	}
	if s := f.Summary(); s.Agents.Connected != int64(agents) || sessions != agents {
		return fmt.Errorf("%d sessions on the nodes: %s", sessions, s)
	}
	return nil
}

// holders tells which node holds each agent's stream.
func holders(n *bubble.Node) map[string]string {
	n.T.Helper()
	list, missing := listAgents(n)
	for _, running := range bubble.Names(n.Running()) {
		if strings.Contains(missing, running) {
			n.T.Errorf("%s runs and is missing: %q", running, missing)
		}
	}
	at := map[string]string{}
	for _, a := range list {
		if a.Session != nil {
			at[a.ID] = a.Node
		}
	}
	return at
}

// A fleet streams while one node is killed and another one stopped: its agents
// are on other nodes soon, those of the third notice nothing, and what is missing
// in Kafka was of those that had to move.
func TestBubbleFleetThroughFailures(t *testing.T) {
	formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
		const agents = 30
		c.AllDiscovered(5*time.Second, c.Nodes, c.Nodes)
		f := c.StartFleet(agents, func(o *simagent.Options) { o.Load.Rate, o.Load.Ramp = 5, 5*time.Second })
		c.Eventually(20*time.Second, "all agents stream", func() error { return fleetConnected(c, f, agents) })
		c.Pass(5 * time.Second)
		moved := map[string]bool{}
		leader := c.Leader() // no agent notices that another node leads
		for _, n := range []*bubble.Node{leader, c.Others(leader)[0]} {
			before := holders(n)
			for id, at := range before {
				if at == n.Name {
					moved[id] = true
				}
			}
			if n == leader {
				n.Kill()
			} else if n.Stop(); n.Last.Received != n.Last.Delivered {
				t.Errorf("%s received records that are lost: %+v", n.Name, n.Last)
			}
			ended := time.Now()
			c.Eventually(15*time.Second, "all agents stream again", func() error { return fleetConnected(c, f, agents) })
			t.Logf("%s ended: its agents stream elsewhere after %s", n.Name, time.Since(ended))
			undisturbed(t, c, before, n.Name)
			n.Start()
			c.AllReady(30*time.Second, c.Nodes...)
			c.Pass(5 * time.Second)
		}
		if len(moved) == 0 || len(moved) == agents {
			t.Errorf("%d of %d agents had to move: the test tests nothing", len(moved), agents)
		}
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
		c.Pass(2 * time.Second)
		tallyFleet(t, c, f, moved)
	})
}

// undisturbed wants the agents of the other nodes to be where they were.
func undisturbed(t *testing.T, c *bubble.Cluster, before map[string]string, lost string) {
	t.Helper()
	now := holders(c.Running()[0])
	for id, at := range before {
		if at != lost && now[id] != at {
			t.Errorf("%s was on %s when %s was lost, and is on %s now", id, at, lost, now[id])
		}
	}
}

// tallyFleet wants all records of agents that did not have to move, each once,
// and no more than a second's worth missing of the others.
func tallyFleet(t *testing.T, c *bubble.Cluster, f *bubble.Fleet, moved map[string]bool) {
	t.Helper()
	tally := simagent.NewTally(f.RunID())
	for _, r := range c.Running()[0].ReadKafka(bubble.KafkaIP + ":9092") {
		tally.Add(r.Key, r.Data.GetBody())
	}
	for _, id := range f.IDs() {
		tally.Expect(id, f.SentBy(id))
		if counts := tally.Agent(id); counts.Lost > 0 && !moved[id] || counts.Lost > 5 {
			t.Errorf("%s, moved %v, misses %d of %d records", id, moved[id], counts.Lost, f.SentBy(id))
		}
	}
	total := tally.Total()
	t.Logf("%d agents had to move; records: %+v", len(moved), total)
	if total.Duplicates > 0 {
		t.Errorf("%d records are in Kafka twice", total.Duplicates)
	}
}
