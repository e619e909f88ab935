// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"muster/internal/apiclient"
	"muster/test/process"
)

// leaderlessWithin is how long a node without a leader may call itself ready,
// and a little more.
const leaderlessWithin = 15 * time.Second

// TestProcessClusterCuts cuts real links between nodes, each in a network
// namespace of its own, while clients write and agents deliver.
func TestProcessClusterCuts(t *testing.T) {
	t.Parallel()
	network := process.NewNetwork(t)
	c := process.NewCluster(t, 3, process.ClusterOptions{Network: network})
	c.Form()
	w := watch(t, c, process.AgentOptions{Agents: 12, Rate: 1}, 100*time.Millisecond, 10)

	// The leader alone: the others choose another, and it says that it has none.
	leader := c.Leader()
	others := c.Others(leader)
	network.Divide([]*process.Node{leader}, others)
	t.Logf("leader alone: the others write again after %s", c.Writes(2*againWorst, others...))
	refusesWrites(t, c, leader)
	notReady(t, leader)
	serves(t, leader)
	network.Heal()
	c.Whole()

	// A follower alone: the others do not notice.
	follower := c.Follower()
	others = c.Others(follower)
	leader = c.Leader()
	network.Divide([]*process.Node{follower}, others)
	notReady(t, follower)
	if now := c.Leader(others...); now != leader {
		t.Errorf("%s leads instead of %s because a follower was cut off", now.Name, leader.Name)
	}
	network.Heal()
	c.Whole()

	// One way only: the leader is heard by nobody and hears all.
	leader = c.Leader()
	others = c.Others(leader)
	network.Cut(leader, others...)
	t.Logf("leader unheard: the others write again after %s", c.Writes(2*againWorst, others...))
	network.Heal()
	c.Whole()

	// One link of three, one way: everybody still has a majority in reach.
	follower = c.Follower()
	network.Cut(c.Leader(), follower)
	t.Logf("one link: the other two write again after %s", c.Writes(2*againWorst, c.Others(follower)...))
	network.Heal()
	c.Whole()
	w.check(t)
}

// refusesWrites wants a node without a majority to refuse, and within its time.
func refusesWrites(t *testing.T, c *process.Cluster, n *process.Node) {
	t.Helper()
	began := time.Now()
	err := process.WriteKey(t.Context(), n.API(c.Token(), time.Minute), "never")
	refused, ok := errors.AsType[*apiclient.Error](err)
	if took := time.Since(began); !ok || refused.Status < 503 || took > 12*time.Second {
		t.Errorf("%s has no majority and says %v to a write, after %s", n.Name, err, took)
	}
}

// notReady waits until a node says that it has no leader.
func notReady(t *testing.T, n *process.Node) {
	t.Helper()
	process.Eventually(t, leaderlessWithin, n.Name+" has no leader", func() error {
		ready, reasons, err := n.Ready()
		if err == nil && (ready || !strings.Contains(strings.Join(reasons, " "), "leader")) {
			err = fmt.Errorf("ready %v, %q", ready, reasons)
		}
		return err
	})
}

// serves wants a node to name somebody to agents, whatever it is cut off from.
func serves(t *testing.T, n *process.Node) {
	t.Helper()
	if addrs, err := n.Discover(); err != nil || len(addrs) == 0 {
		t.Errorf("service discovery of %s: %v, %v", n.Name, addrs, err)
	}
}
