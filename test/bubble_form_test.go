// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/node"
	"muster/test/bubble"
)

// formWithin is how long three cold nodes may take to form a cluster.
const formWithin = 15 * time.Second

// formed runs a test with so many nodes that have formed a cluster; what the
// test leaves running must end up in one state.
func formed(t *testing.T, nodes int, test func(t *testing.T, c *bubble.Cluster), change ...func(*node.Config)) {
	t.Helper()
	bubble.RunCluster(t, nodes, func(t *testing.T, c *bubble.Cluster) {
		c.Form(formWithin)
		c.AllReady(5*time.Second, c.Nodes...)
		c.Eventually(5*time.Second, "all nodes vote", func() error { return voters(c.Nodes[0], nodes) })
		test(t, c)
		if t.Failed() {
			return
		}
		c.SameState(30 * time.Second)
		wantOneCluster(c)
	}, change...)
}

// wantOneCluster fails the test unless all nodes that belong to a cluster belong
// to the same one.
func wantOneCluster(c *bubble.Cluster) {
	c.T.Helper()
	if ids := c.ClusterIDs(); len(ids) != 1 {
		c.T.Fatalf("clusters %q, want one", ids)
	}
}

// serverIDs are those of nodes, which stay as long as their disks do.
func serverIDs(c *bubble.Cluster) (ids []string) {
	for _, n := range c.Nodes {
		ids = append(ids, n.ServerID())
	}
	return ids
}

// Three cold nodes form a cluster, two more join it, and from then on any of
// them, or all, may be stopped and started with the same flags in any order.
func TestBubbleClusterForms(t *testing.T) {
	bubble.RunCluster(t, 5, func(t *testing.T, c *bubble.Cluster) {
		began := time.Now()
		c.StartAll(formWithin, c.Nodes[:3]...)
		t.Logf("three cold nodes are ready after %s", time.Since(began))
		c.AllReady(5*time.Second, c.Nodes[:3]...)
		setDefaultConfig(c.Nodes[2], bubble.Revision(1), "collector")
		for _, n := range c.Nodes[3:] {
			began := time.Now()
			n.Start()
			t.Logf("%s is ready after %s", n.Name, time.Since(began))
			if took := time.Since(began); took > formWithin {
				t.Errorf("%s took %s to join", n.Name, took)
			}
		}
		c.AllDiscovered(5*time.Second, c.Nodes, c.Nodes)
		c.SameState(10 * time.Second)
		wantOneCluster(c)
		for line, want := range map[string]int{"cluster founded": 1, "first user made": 1, "node is ready": 5} {
			if got := c.Log.Count(`msg="` + line); got != want {
				t.Errorf("%q is logged %d times, want %d", line, got, want)
			}
		}

		ids, cluster := serverIDs(c), c.ClusterIDs()
		for _, i := range rand.Perm(5) {
			c.Nodes[i].Stop()
			c.Pass(time.Duration(rand.IntN(5000)) * time.Millisecond)
			c.Nodes[i].Start()
		}
		for range 3 {
			c.StopAll()
			c.Pass(time.Minute)
			for _, i := range rand.Perm(5) {
				c.Nodes[i].Launch()
				c.Pass(time.Duration(rand.IntN(10_000)) * time.Millisecond)
			}
			for _, n := range c.Nodes {
				n.WaitReady(formWithin)
			}
			c.SameState(10 * time.Second)
		}
		c.AllDiscovered(5*time.Second, c.Nodes, c.Nodes)
		if diff := cmp.Diff(ids, serverIDs(c)); diff != "" {
			t.Errorf("server IDs after restarts with the same flags (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(cluster, c.ClusterIDs()); diff != "" {
			t.Errorf("cluster IDs after restarts (-before +after):\n%s", diff)
		}
	})
}

// allFound has each of five nodes expect three founders and know all others.
func allFound(c *node.Config) {
	c.Cluster.BootstrapExpect = 3
	c.Cluster.Join = nil
	for i := range 5 {
		c.Cluster.Join = append(c.Cluster.Join, fmt.Sprintf("10.0.0.%d:7946", i+1))
	}
}

// Five cold nodes that expect three are parted in every way and meet later: they
// found one cluster or none, and in the end one.
func TestBubbleClusterIsFoundedOnce(t *testing.T) {
	parts := map[string][][]int{
		"two and three":        {{0, 1}, {2, 3, 4}},
		"three and two":        {{0, 1, 2}, {3, 4}},
		"two and two and one":  {{0, 1}, {2, 3}, {4}},
		"the lowest alone":     {{0}, {1, 2, 3, 4}},
		"everybody is alone":   {{0}, {1}, {2}, {3}, {4}},
		"the highest are late": {{0, 1, 2, 3, 4}},
	}
	for name, sides := range parts {
		t.Run(name, func(t *testing.T) {
			bubble.RunCluster(t, 5, func(t *testing.T, c *bubble.Cluster) {
				expected := 0
				for _, side := range sides {
					nodes := pick(c, side...)
					c.Divide(nodes)
					if len(nodes) >= 3 {
						expected = 1
					}
				}
				for _, n := range c.Nodes {
					n.Launch()
				}
				c.Pass(40 * time.Second)
				if ids := c.ClusterIDs(); len(ids) != expected {
					t.Fatalf("while they are parted: clusters %q, want %d", ids, expected)
				}
				c.Heal()
				for _, n := range c.Nodes {
					n.WaitReady(2 * time.Minute)
				}
				wantOneCluster(c)
				c.SameState(10 * time.Second)
			}, allFound)
		})
	}
}

// Links come and go while five cold nodes found their cluster, and some of them
// die and come back.
func TestBubbleClusterIsFoundedInTurmoil(t *testing.T) {
	for range 3 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			bubble.RunCluster(t, 5, func(t *testing.T, c *bubble.Cluster) {
				for _, n := range c.Nodes {
					n.Launch()
				}
				for range 12 {
					switch n, other := c.Nodes[random.IntN(5)], c.Nodes[random.IntN(5)]; {
					case random.IntN(3) == 0 && n.Node != nil:
						n.Kill()
					case n.Node == nil:
						n.Launch()
					case random.IntN(2) == 0 && n != other:
						c.Net.Partition(n.IP, other.IP)
					default:
						c.Heal()
					}
					c.Pass(time.Duration(random.IntN(6000)) * time.Millisecond)
					if ids := c.ClusterIDs(); len(ids) > 1 {
						t.Fatalf("clusters %q", ids)
					}
				}
				c.Heal()
				for _, n := range c.Nodes {
					if n.Node == nil {
						n.Launch()
					}
				}
				for _, n := range c.Nodes {
					n.WaitReady(3 * time.Minute)
				}
				wantOneCluster(c)
				c.SameState(10 * time.Second)
			}, allFound)
		})
	}
}

// stride is how many steps lie between two that one run of a test tries; it
// begins at a random one.
const stride = 2

// The node that founds the cluster dies at each step until it is ready: each
// line that it logs, each call to another node. It comes back with its disk: one cluster is formed. It comes back
// without: never two.
func TestBubbleFounderDiesAtEachStep(t *testing.T) {
	for _, wiped := range []bool{false, true} {
		for step := 1 + rand.IntN(stride); ; step += stride {
			var reached bool
			t.Run(fmt.Sprintf("wiped=%v/step=%d", wiped, step), func(t *testing.T) {
				bubble.RunCluster(t, 3, func(t *testing.T, c *bubble.Cluster) { reached = founderDies(t, c, step, wiped) })
			})
			if t.Failed() {
				return
			}
			if !reached {
				if step < 10 {
					t.Errorf("the founder is ready after %d steps: that is too few", step)
				}
				break
			}
		}
	}
}

// The node that founds the cluster stalls at a step, and is cut off until the
// others believe that it is dead. Then it goes on.
func TestBubbleFounderStalls(t *testing.T) {
	for step := 1 + rand.IntN(stride); ; step += stride {
		var reached bool
		t.Run(fmt.Sprintf("step=%d", step), func(t *testing.T) {
			bubble.RunCluster(t, 5, func(t *testing.T, c *bubble.Cluster) {
				founder := c.Nodes[0]
				if reached = launchAndTrap(t, c, founder, step); !reached {
					return
				}
				c.Isolate(founder)
				c.Pass(30 * time.Second)
				if ids := c.ClusterIDs(); len(ids) > 1 {
					t.Fatalf("clusters %q while the founder stalls", ids)
				}
				founder.Release()
				c.Pass(10 * time.Second)
				if ids := c.ClusterIDs(); len(ids) > 1 {
					t.Fatalf("clusters %q after the founder went on", ids)
				}
				c.Heal()
				for _, n := range c.Nodes {
					n.WaitReady(2 * time.Minute)
				}
				wantOneCluster(c)
			}, allFound)
		})
		if t.Failed() || !reached || step > 20 {
			break
		}
	}
}

// launchAndTrap starts all nodes, and tells whether one of them is held at a step
// before it is ready.
func launchAndTrap(t *testing.T, c *bubble.Cluster, held *bubble.Node, step int) bool {
	t.Helper()
	var at string
	held.Trap = func(n int, what string) bool {
		if n == step {
			at = what
		}
		return n == step
	}
	for _, n := range c.Nodes {
		n.Launch()
	}
	caught := false
	c.Eventually(formWithin, "the node is held or ready", func() error {
		if caught = held.Trapped(); caught || isReady(held) {
			return nil
		}
		return fmt.Errorf("it took %d steps", held.Steps())
	})
	held.Trap = nil
	if caught {
		t.Logf("held at %q", at)
	}
	return caught
}

// founderDies tells whether the founder took so many steps before it was ready.
func founderDies(t *testing.T, c *bubble.Cluster, step int, wiped bool) bool {
	t.Helper()
	founder := c.Nodes[0]
	if !launchAndTrap(t, c, founder, step) {
		return false
	}
	founder.Kill()
	c.Pass(12 * time.Second)
	if ids := c.ClusterIDs(); len(ids) > 1 {
		t.Fatalf("clusters %q while the founder is dead", ids)
	}
	before := c.ClusterIDs()
	if wiped {
		founder.Wipe()
	}
	founder.Launch()
	if wiped {
		// What it had promised is lost with its disk: the others may have to wait
		// for a person.
		c.Pass(time.Minute)
	} else {
		for _, n := range c.Nodes {
			n.WaitReady(30 * time.Second)
		}
		c.SameState(10 * time.Second)
	}
	after := c.ClusterIDs()
	if len(after) > 1 || !wiped && len(after) != 1 || len(before) == 1 && !slices.Equal(before, after) && !wiped {
		t.Errorf("clusters %q while the founder was dead, then %q", before, after)
	}
	return true
}

// A list with a wrong address does no harm; a node whose whole list is wrong
// waits, says so, and joins once it is corrected.
func TestBubbleTypoInAJoinList(t *testing.T) {
	bubble.RunCluster(t, 4, func(t *testing.T, c *bubble.Cluster) {
		c.Nodes[1].Config.Cluster.Join = []string{"10.0.0.1:7946", "10.0.0.77:7946", "10.0.0.3:7964"}
		late := c.Nodes[3]
		good := late.Config.Cluster.Join
		late.Config.Cluster.BootstrapExpect = 3
		late.Config.Cluster.Join = []string{"10.0.7.1:7946", "10.0.0.2:6760"}
		late.Launch()
		c.StartAll(formWithin, c.Nodes[:3]...)
		c.Pass(2 * time.Minute)
		if id := late.ServerID(); id == "" || len(c.ClusterIDs()) != 1 {
			t.Errorf("server ID %q, clusters %q", id, c.ClusterIDs())
		}
		wantReadiness(late, time.Second, "503", "1 of 3 new nodes are seen")
		if late.Log.Count("no other node could be joined") == 0 {
			t.Error("the node with the wrong list does not say that it reaches nobody")
		}
		late.Stop()
		late.Config.Cluster.Join = good
		late.Start()
		wantOneCluster(c)
		c.SameState(10 * time.Second)
	})
}

// Nodes that expect different numbers of founders wait and say so.
func TestBubbleNodesThatDisagree(t *testing.T) {
	bubble.RunCluster(t, 3, func(t *testing.T, c *bubble.Cluster) {
		c.Nodes[2].Config.Cluster.BootstrapExpect = 2
		for _, n := range c.Nodes {
			n.Launch()
		}
		c.Pass(time.Minute)
		if ids := c.ClusterIDs(); len(ids) != 0 {
			t.Fatalf("clusters %q", ids)
		}
		for _, n := range c.Nodes {
			wantReadiness(n, time.Second, "503", "--bootstrap-expect")
		}
		c.Nodes[2].Stop()
		c.Nodes[2].Config.Cluster.BootstrapExpect = 3
		c.Nodes[2].Launch()
		for _, n := range c.Nodes {
			n.WaitReady(formWithin)
		}
		wantOneCluster(c)
	})
}

func pick(c *bubble.Cluster, numbers ...int) (nodes []*bubble.Node) {
	for _, i := range numbers {
		nodes = append(nodes, c.Nodes[i])
	}
	return nodes
}
