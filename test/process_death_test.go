// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster/internal/apiv1"
	"muster/test/process"
)

const (
	// goneWithin is how long a dead node may be in anybody's answer.
	goneWithin = 5 * time.Second
	// stall is how long a node may be silent without consequences.
	stall = 1500 * time.Millisecond
)

// TestProcessClusterDeaths has nodes die in every way, and be slow or hard to
// hear in others, and looks at what every other node tells agents.
func TestProcessClusterDeaths(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"loopback", "namespaces"} {
		t.Run(where, func(t *testing.T) {
			var opts process.ClusterOptions
			if where == "namespaces" {
				opts.Network = process.NewNetwork(t)
			}
			c := process.NewCluster(t, 5, opts)
			c.Form()
			deaths(t, c, opts.Network)
			stalls(t, c)
			if opts.Network != nil {
				loss(t, c, opts.Network)
			}
		})
	}
}

// loss loses three packets of ten between the nodes, for ten seconds.
func loss(t *testing.T, c *process.Cluster, network *process.Network) {
	t.Helper()
	const asked = "muster_gossip_asked_reports_total"
	before, err := c.Nodes[0].Metric(asked)
	if err != nil {
		t.Fatal(err)
	}
	network.Lose(0.3, c.Nodes...)
	m := lookout(c, c.Nodes)
	<-time.After(10 * time.Second)
	network.Heal()
	<-time.After(5 * time.Second)
	m.nobody(t, "30 % of the packets are lost")
	if after, err := c.Nodes[0].Metric(asked); err != nil || after-before < 5 {
		t.Errorf("%v reports were asked for: are packets lost at all? %v", after-before, err)
	}
}

// deaths has nodes die in each way.
func deaths(t *testing.T, c *process.Cluster, network *process.Network) {
	t.Helper()
	ways := map[string][2]func(*process.Node){
		"killed":  {(*process.Node).Kill, func(n *process.Node) { n.Start() }},
		"stopped": {(*process.Node).Pause, (*process.Node).Resume},
	}
	if network != nil {
		ways["cut off"] = [2]func(*process.Node){
			func(n *process.Node) { network.Divide([]*process.Node{n}, c.Others(n)) },
			func(*process.Node) { network.Heal() },
		}
	}
	for way, do := range ways {
		var took []time.Duration
		for range times(t, "MUSTER_TEST_DEATHS", 1) {
			n := c.Nodes[rand.IntN(len(c.Nodes))]
			process.Eventually(t, 30*time.Second, "all nodes name all", func() error { return allNamed(c) })
			<-time.After(rand.N(time.Second)) // at any moment between two reports
			others := c.Others(n)
			do[0](n)
			took = append(took, goneFrom(t, n, others))
			do[1](n)
			c.Whole()
		}
		slices.Sort(took)
		t.Logf("%s: in nobody's answer after %s to %s, median %s of %d", way, took[0], took[len(took)-1], took[len(took)/2], len(took))
		if took[len(took)-1] > goneWithin {
			t.Errorf("%s: that is more than %s: %v", way, goneWithin, took)
		}
	}
}

// goneFrom asks every other node all the time, and returns when the last one
// named the node: neither first nor at any place.
func goneFrom(t *testing.T, n *process.Node, others []*process.Node) time.Duration {
	t.Helper()
	began := time.Now()
	var mu sync.Mutex
	var last time.Duration
	var asking sync.WaitGroup
	for _, other := range others {
		asking.Go(func() {
			for time.Since(began) < goneWithin+time.Second {
				asked := time.Since(began)
				addrs, err := other.Discover()
				if err != nil || len(addrs) == 0 {
					t.Errorf("%s answers %v: %v", other.Name, addrs, err)
				}
				if slices.Contains(addrs, n.Agent) {
					mu.Lock()
					last = max(last, asked)
					mu.Unlock()
				}
				<-time.After(20 * time.Millisecond)
			}
		})
	}
	asking.Wait()
	return last
}

// allNamed wants every running node to name every one.
func allNamed(c *process.Cluster) error {
	for _, n := range c.Running() {
		addrs, err := n.Discover()
		if err != nil || len(addrs) != len(c.Running()) {
			return fmt.Errorf("%s answers %v, %w", n.Name, addrs, err)
		}
	}
	return nil
}

// stalls stops nodes for a moment: nobody misses them, and they miss nobody.
func stalls(t *testing.T, c *process.Cluster) {
	t.Helper()
	process.Eventually(t, 30*time.Second, "all nodes name all", func() error { return allNamed(c) })
	for _, n := range c.Nodes[:min(len(c.Nodes), times(t, "MUSTER_TEST_DEATHS", 1))] {
		m := lookout(c, c.Others(n))
		<-time.After(rand.N(time.Second))
		n.Pause()
		<-time.After(stall)
		n.Resume()
		own := lookout(c, []*process.Node{n})
		<-time.After(3 * time.Second)
		m.nobody(t, n.Name+" stalls for "+stall.String())
		own.nobody(t, n.Name+" stalled for "+stall.String())
	}
}

// watcher notes who is missing in the answers and the lists of nodes.
type watcher struct {
	stop  chan struct{}
	wg    sync.WaitGroup
	mu    sync.Mutex
	looks int
	lacks map[string]int
	pulse pulse
}

// lookout asks these nodes all the time about all that run.
func lookout(c *process.Cluster, asked []*process.Node) *watcher {
	m := &watcher{stop: make(chan struct{}), lacks: map[string]int{}}
	running, token := c.Running(), c.Token()
	m.wg.Go(func() { m.pulse.watch(m.stop) })
	for _, n := range asked {
		m.wg.Go(func() {
			for {
				select {
				case <-m.stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
				missing := lacking(n, running, token)
				m.mu.Lock()
				m.looks++
				for _, what := range missing {
					m.lacks[what]++
				}
				m.mu.Unlock()
			}
		})
	}
	return m
}

// calm is the longest gap with which the machine can be said to run its processes.
const calm = 200 * time.Millisecond

// pulse measures how well the machine runs this process: the longest time for
// which it did not.
type pulse struct{ longest atomic.Int64 }

func (p *pulse) watch(stop <-chan struct{}) {
	const beat = 10 * time.Millisecond
	for last := time.Now(); ; last = time.Now() {
		select {
		case <-stop:
			return
		case <-time.After(beat):
		}
		if gap := time.Since(last) - beat; gap > p.gap() {
			p.longest.Store(int64(gap))
		}
	}
}

func (p *pulse) gap() time.Duration { return time.Duration(p.longest.Load()) }

// lacking says who is missing in a node's answer to agents, and in its list of
// members, or is dead there.
func lacking(n *process.Node, running []*process.Node, token string) (missing []string) {
	addrs, err := n.Discover()
	if err != nil {
		return []string{err.Error()}
	}
	var page apiv1.Page[apiv1.Node]
	if page, err = n.Nodes(token); err != nil {
		return []string{err.Error()}
	}
	for _, other := range running {
		if !slices.Contains(addrs, other.Agent) {
			missing = append(missing, other.Name+" in an answer of "+n.Name)
		}
		if !slices.ContainsFunc(page.Items, func(m apiv1.Node) bool {
			return m.Name == other.Name && m.State != "dead"
		}) {
			missing = append(missing, other.Name+" in the list of "+n.Name)
		}
	}
	return missing
}

// nobody ends the lookout and wants nobody to have been missing, unless the
// machine was so busy that nodes may have been silent for longer than was meant.
func (m *watcher) nobody(t *testing.T, what string) {
	t.Helper()
	close(m.stop)
	m.wg.Wait()
	t.Logf("%s: %d looks, missing: %v; the machine stood still for %s", what, m.looks, m.lacks, m.pulse.gap())
	if m.pulse.gap() <= calm && len(m.lacks) > 0 || m.looks == 0 {
		t.Errorf("%s: missing in %d looks: %v", what, m.looks, m.lacks)
	}
}
