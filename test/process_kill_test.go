// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"slices"
	"testing"
	"time"

	"muster/test/process"
)

const (
	// againMedian and againWorst are how long writes may rest when a leader dies.
	againMedian, againWorst = 1500 * time.Millisecond, 3 * time.Second
	// manyKills have a median that says something.
	manyKills = 10
	// listedWithin is how long service discovery may take to drop a dead node,
	// and to name one that is ready.
	listedWithin = 5 * time.Second
)

// TestProcessClusterKill kills leaders under writes, and then each node in turn.
func TestProcessClusterKill(t *testing.T) {
	t.Parallel()
	c := process.NewCluster(t, 3, process.ClusterOptions{})
	c.Form()
	writers := c.Write(c.Nodes...)
	killLeaders(t, c, times(t, "MUSTER_TEST_REAL_KILLS", 3))
	unlost(t, c, writers)
	for _, n := range c.Nodes {
		writers := c.Write(c.Nodes...)
		sdWithin(t, c, n, true)
		n.Kill()
		gone := sdWithin(t, c, n, false)
		c.Writes(2*againWorst, c.Running()...)
		n.Start()
		back := sdWithin(t, c, n, true)
		c.Whole()
		t.Logf("%s killed: gone from service discovery after %s, back %s after it was ready", n.Name, gone, back)
		unlost(t, c, writers)
	}
	c.OneCluster()
}

// unlost ends the writers and wants every node to have the same state, with all
// that was acknowledged.
func unlost(t *testing.T, c *process.Cluster, writers *process.Writers) {
	t.Helper()
	writers.Stop()
	c.Same()
	writers.Check(t, c.Nodes...)
	t.Logf("%d writes acknowledged", writers.Acked())
}

// killLeaders kills the leader again and again and measures until each of the
// others has taken a write.
func killLeaders(t *testing.T, c *process.Cluster, kills int) {
	t.Helper()
	var took []time.Duration
	for range kills {
		leader := c.Leader()
		leader.Kill()
		took = append(took, c.Writes(4*againWorst, c.Running()...))
		leader.Start()
		c.Whole()
	}
	slices.Sort(took)
	median, worst := took[len(took)/2], took[len(took)-1]
	t.Logf("leader killed, written again after: median %s, worst %s of %d", median, worst, len(took))
	if worst > againWorst || (len(took) >= manyKills && median > againMedian) {
		t.Errorf("that is more than %s, and %s as a rule: %v", againWorst, againMedian, took)
	}
}

// sdWithin waits until every running node names n in service discovery, or none
// does, and returns how long that took.
func sdWithin(t *testing.T, c *process.Cluster, n *process.Node, named bool) time.Duration {
	t.Helper()
	began := time.Now()
	process.Eventually(t, listedWithin, "service discovery follows", func() error { return n.Listed(named, c.Running()...) })
	return time.Since(began)
}
