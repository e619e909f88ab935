// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"sync"
	"testing"
	"time"

	"muster/internal/agentpb"
	"muster/test/process"
)

// watched is a cluster with a few agents and with clients that keep a history
// through every node.
type watched struct {
	*process.Cluster
	agents  *process.Agents
	seen    *sightings
	history *history
	errands *errands
	writers *process.Writers
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

// watch starts the agents and, through each node, the clients, which rest
// between two calls. Tasks end after so many seconds, sent or not.
func watch(t *testing.T, c *process.Cluster, agents process.AgentOptions, rest time.Duration, taskSeconds int64) *watched {
	t.Helper()
	w := &watched{Cluster: c, seen: &sightings{}}
	w.errands = &errands{seconds: taskSeconds}
	agents.Hooks.OnCommand = func(agentID string, command *agentpb.Command) {
		w.seen.see(agentID, command)
		w.errands.see(agentID, command)
	}
	w.agents = c.StartAgents(agents)
	process.Eventually(t, 30*time.Second, "the agents have streams", func() error { return w.agents.Connected(agents.Agents) })
	process.Eventually(t, 30*time.Second, "the inventory has the agents", func() error { return known(c, w.agents.IDs()) })
	w.history, w.errands.agents = newHistory(c, w.agents.IDs(), rest), w.agents.IDs()
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	token := c.Token()
	for i, n := range c.Nodes {
		w.wg.Go(func() { w.history.client(ctx, i, n, token) })
		w.wg.Go(func() { w.history.client(ctx, i+len(c.Nodes), n, token) })
		w.wg.Go(func() { w.errands.client(ctx, n, token, 3*rest) })
	}
	w.writers = c.Write(c.Nodes...)
	t.Cleanup(w.end)
	return w
}

func (w *watched) end() {
	w.stop()
	w.wg.Wait()
	w.writers.Stop()
	w.agents.Stop()
}

// check ends everything and holds all that was seen against what may be.
func (w *watched) check(t *testing.T) {
	t.Helper()
	w.stop()
	w.wg.Wait()
	w.writers.Stop()
	w.Same()
	w.writers.Check(t, w.Running()...)
	w.history.check(t)
	w.seen.check(t, w.history)
	w.errands.check(t, w.Running()[0], w.Token())
	w.OneCluster()
}

// known wants each node to have these agents in its inventory, so that they can
// be given tags there.
func known(c *process.Cluster, ids []string) error {
	for _, n := range c.Running() {
		agents, err := n.Agents(c.Token())
		if err != nil {
			return err
		}
		for _, id := range ids {
			if agents[id].Number == 0 {
				return notYet(n.Name, id)
			}
		}
	}
	return nil
}

// TestProcessClusterPause stops the leader's process for so long that another
// leads when it goes on: what it believes then is old, and neither clients nor
// agents may be told any of it.
func TestProcessClusterPause(t *testing.T) {
	t.Parallel()
	c := process.NewCluster(t, 3, process.ClusterOptions{})
	c.Form()
	w := watch(t, c, process.AgentOptions{Agents: 12, Rate: 1}, 50*time.Millisecond, 10)
	for _, pause := range []time.Duration{10 * time.Second, 700 * time.Millisecond} {
		leader := c.Leader()
		leader.Pause()
		resumed := time.After(pause)
		if pause > againWorst {
			others := c.Others(leader)
			t.Logf("leader stopped, written again after %s", c.Writes(2*againWorst, others...))
			if err := leader.Listed(false, others...); err != nil {
				process.Eventually(t, listedWithin, "nobody is sent to the stopped node", func() error { return leader.Listed(false, others...) })
			}
		}
		<-resumed
		leader.Resume()
		c.Whole()
	}
	w.check(t)
}
