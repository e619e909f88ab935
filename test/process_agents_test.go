// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"muster/internal/apiv1"
	"muster/internal/simagent"
	"muster/test/process"
)

const (
	fleetAgents = 300
	fleetRate   = 5 // records a second and agent
	// streamWithin is how long agents may be without a stream when their node dies.
	streamWithin = 15 * time.Second
	// unheard is how much of what an agent sends may be on its way when a node dies:
	// what the node has not yet given to Kafka, and what it has not yet read.
	unheard = 500 * time.Millisecond
)

// TestProcessClusterAgents has 300 agents over three nodes, of which one is
// killed and one is stopped well.
func TestProcessClusterAgents(t *testing.T) {
	t.Parallel()
	c := process.NewCluster(t, 3, process.ClusterOptions{})
	c.Form()
	agents := c.StartAgents(process.AgentOptions{Agents: fleetAgents, Rate: fleetRate})
	process.Eventually(t, 30*time.Second, "all agents have streams", func() error { return agents.Connected(fleetAgents) })
	listed := everywhere(t, c, fleetAgents)
	for _, n := range c.Nodes {
		if some := len(of(listed, n)); some < fleetAgents/6 {
			t.Errorf("%s has %d of %d agents", n.Name, some, fleetAgents)
		}
	}
	killed, pending := killUnder(t, c, agents)
	stopped := stopUnder(t, c, agents)
	agents.Stop()
	for _, n := range c.Running() {
		settled(t, c, n)
	}
	tally := c.Tally(agents)
	total := tally.Total()
	t.Logf("in Kafka: %+v", total)
	if total.Duplicates > 0 {
		t.Errorf("%d records are there twice", total.Duplicates)
	}
	summary := agents.Summary()
	t.Logf("agents: %+v", summary.Records)
	if summary.Records.Dropped > 0 {
		t.Errorf("agents had no room for %d records", summary.Records.Dropped)
	}
	inOnePiece(t, tally, agents.IDs(), killed, stopped)
	lost := uint64(0)
	for _, id := range killed {
		lost += tally.Agent(id).Lost
	}
	most := pending + uint64(float64(len(killed)*fleetRate)*unheard.Seconds())
	t.Logf("of the %d agents of the killed node %d records are missing, at most %d may be; %d were pending", len(killed), lost, most, pending)
	if lost > most {
		t.Error("that is too many")
	}
}

// everywhere wants each node to know the stream of each agent, and the nodes to
// hold no other, and returns what they say.
func everywhere(t *testing.T, c *process.Cluster, want int) (agents map[string]apiv1.Agent) {
	t.Helper()
	for _, n := range c.Running() {
		process.Eventually(t, 20*time.Second, n.Name+" lists all streams", func() (err error) {
			if agents, err = n.Agents(c.Token()); err != nil {
				return err
			}
			streams := 0
			for _, a := range agents {
				if a.Session != nil && c.Named(a.Node).Running() {
					streams++
				}
			}
			if streams != want {
				return fmt.Errorf("%d of %d", streams, want)
			}
			return nil
		})
	}
	process.Eventually(t, 20*time.Second, "no stream is held twice", func() error {
		sum := 0
		for _, n := range c.Running() {
			s, err := n.Status(c.Token())
			if err != nil {
				return err
			}
			sum += s.Agents.Connected
		}
		if sum != want {
			return fmt.Errorf("the nodes hold %d streams of %d agents", sum, want)
		}
		return nil
	})
	return agents
}

// of are the agents whose stream a node has.
func of(agents map[string]apiv1.Agent, n *process.Node) (ids []string) {
	for id, a := range agents {
		if a.Session != nil && a.Node == n.Name {
			ids = append(ids, id)
		}
	}
	return ids
}

// killUnder kills the leader: its agents come back on the others, whose own
// agents notice nothing. It returns its agents and how many records it had in
// memory just before.
func killUnder(t *testing.T, c *process.Cluster, agents *process.Agents) (moved []string, pending uint64) {
	t.Helper()
	before := everywhere(t, c, fleetAgents)
	leader := c.Leader()
	pending = mostPending(t, c, leader)
	began := time.Now()
	leader.Kill()
	process.Eventually(t, 5*time.Second, "agents notice", func() error {
		if agents.Connected(fleetAgents) == nil {
			return errors.New("none has")
		}
		return nil
	})
	process.Eventually(t, streamWithin, "all agents stream again", func() error { return agents.Connected(fleetAgents) })
	t.Logf("%s killed with %d agents: all stream again after %s", leader.Name, len(of(before, leader)), time.Since(began).Round(time.Millisecond))
	after := everywhere(t, c, fleetAgents)
	for _, n := range c.Running() {
		for _, id := range of(before, n) {
			if is, was := after[id], before[id]; is.Node != was.Node || !is.Session.ConnectedAt.Equal(was.Session.ConnectedAt) {
				t.Errorf("agent %s of %s lost its stream when %s, the leader, was killed", id, n.Name, leader.Name)
			}
		}
	}
	leader.Start()
	c.Whole()
	return of(before, leader), pending
}

// inOnePiece wants an agent to have lost records only where a stream of its own
// ended, and each time in one piece: Kafka has everything from before, and
// everything since the next stream.
func inOnePiece(t *testing.T, tally *simagent.Tally, all []string, ended ...[]string) {
	t.Helper()
	for _, id := range all {
		streams := 0
		for _, ids := range ended {
			if slices.Contains(ids, id) {
				streams++
			}
		}
		pieces, lost := 0, tally.LostNumbers(id, 1000)
		for i := range lost {
			if i == 0 || lost[i] != lost[i-1]+1 {
				pieces++
			}
		}
		if pieces > streams {
			t.Errorf("%d streams of agent %s ended, and it has lost %v", streams, id, lost)
		}
	}
}

// mostPending watches a node for a moment and returns the most records that it
// had in memory.
func mostPending(t *testing.T, c *process.Cluster, n *process.Node) (most uint64) {
	t.Helper()
	for range 20 {
		s, err := n.Status(c.Token())
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, s.Records.Pending)
		<-time.After(20 * time.Millisecond)
	}
	return most
}

// stopUnder ends a node with SIGTERM: it is out of service discovery before a
// stream ends, and what it received is in Kafka. It returns its agents.
func stopUnder(t *testing.T, c *process.Cluster, agents *process.Agents) (moved []string) {
	t.Helper()
	n, listed := c.Follower(), everywhere(t, c, fleetAgents)
	for _, other := range c.Others(c.Leader()) {
		if len(of(listed, other)) > len(of(listed, n)) {
			n = other
		}
	}
	others := c.Others(n)
	began := time.Now()
	n.Terminate()
	process.Eventually(t, listedWithin, "streams end", func() error {
		if agents.Connected(fleetAgents) == nil {
			return errors.New("all agents have one")
		}
		if err := n.Listed(false, others...); err != nil {
			t.Errorf("a stream has ended, and still %v", err)
		}
		return nil
	})
	if code := n.WaitExit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	t.Logf("%s stopped with %d agents after %s", n.Name, len(of(listed, n)), time.Since(began).Round(time.Millisecond))
	lastLedger(t, n)
	process.Eventually(t, streamWithin, "all agents stream again", func() error { return agents.Connected(fleetAgents) })
	t.Logf("all stream again %s after SIGTERM", time.Since(began).Round(time.Millisecond))
	return of(listed, n)
}

// lastLedger wants the log of a node that has stopped to say that Kafka has all
// that it received.
func lastLedger(t *testing.T, n *process.Node) {
	t.Helper()
	if l := stoppedWith(t, n); l.Received == 0 || l.Received != l.Delivered || l.Pending != 0 {
		t.Errorf("%s stopped with %+v", n.Name, l)
	}
}

// settled waits until a node has delivered all that it received.
func settled(t *testing.T, c *process.Cluster, n *process.Node) {
	t.Helper()
	process.Eventually(t, 20*time.Second, n.Name+" delivers all", func() error {
		received, delivered, balanced := n.Ledger(c.Token())
		if !balanced {
			t.Fatalf("%s: the ledger does not balance", n.Name)
		}
		if received != delivered {
			return fmt.Errorf("%d of %d", delivered, received)
		}
		return nil
	})
}
