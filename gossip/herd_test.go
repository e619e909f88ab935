// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/internal/memnet"
)

// herd is meshes and the agents that come to them: an agent asks one of the first
// asked nodes at random, takes the first address, and is there after 0.02 to 2 s.
type herd struct {
	nodes    []*testNode
	sessions []uint32
	limits   []uint32
	asked    int
	rnd      *rand.Rand
	step     int
	coming   map[int][]int // nodes that an agent gets to in a step
}

const (
	herdStep     = 10 * time.Millisecond
	stepsASecond = int(time.Second / herdStep)
)

// startHerd runs a node for each limit, until all know the load of all.
func startHerd(t *testing.T, n *memnet.Network, asked int, limits ...uint32) *herd {
	t.Helper()
	h := &herd{
		sessions: make([]uint32, len(limits)), limits: limits, asked: asked,
		rnd: rand.New(rand.NewPCG(uint64(asked), 1)), coming: map[int][]int{},
	}
	for i := range limits {
		h.nodes = append(h.nodes, startNode(t, n, i+1))
		h.tell(i)
		time.Sleep(time.Duration(h.rnd.Int64N(int64(time.Second)))) // nodes report at different times of a second
	}
	await(t, 30*time.Second, "all nodes know the load of all", func() bool {
		for _, node := range h.nodes {
			if node.heard() != len(limits) {
				return false
			}
		}
		return true
	})
	return h
}

// heard is how many nodes' load it knows.
func (n *testNode) heard() int {
	count := 0
	for _, m := range n.Members() {
		if m.Alive && m.Load.Ready {
			count++
		}
	}
	return count
}

func (h *herd) tell(i int) {
	h.nodes[i].load.set(fleet.Load{Limit: h.limits[i], Sessions: h.sessions[i], Ready: true})
}

// second lets a second pass, with so many agents arriving.
func (h *herd) second(t *testing.T, arrivals int) {
	t.Helper()
	for s := range stepsASecond {
		for range (s+1)*arrivals/stepsASecond - s*arrivals/stepsASecond {
			answer := h.nodes[h.rnd.IntN(h.asked)].Pick(10)
			if len(answer) != len(h.nodes) {
				t.Fatalf("an answer of %d nodes: %s", len(answer), pickedIDs(answer))
			}
			at := h.step + 2 + h.rnd.IntN(2*stepsASecond-2)
			h.coming[at] = append(h.coming[at], int(answer[0].NodeID[1]-'1'))
		}
		for _, i := range h.coming[h.step] {
			h.sessions[i]++
			h.tell(i)
		}
		delete(h.coming, h.step)
		h.step++
		time.Sleep(herdStep)
	}
}

// worst is the most that a node has of its fair share.
func (h *herd) worst() float64 {
	var sessions, limits, worst float64
	for i := range h.nodes {
		sessions += float64(h.sessions[i])
		limits += float64(h.limits[i])
	}
	for i := range h.nodes {
		worst = max(worst, float64(h.sessions[i])/float64(h.limits[i])*limits/sessions)
	}
	return worst
}

// TestFifteenThousandAgentsArrive at 1,000 a second.
func TestFifteenThousandAgentsArrive(t *testing.T) {
	for name, tt := range map[string]struct {
		asked  int
		limits []uint32
	}{
		"five are asked":   {5, []uint32{20_000, 20_000, 20_000, 20_000, 20_000}},
		"one is asked":     {1, []uint32{20_000, 20_000, 20_000, 20_000, 20_000}},
		"unequal limits":   {5, []uint32{1_000, 5_000, 10_000, 20_000, 40_000}},
		"one is not asked": {4, []uint32{20_000, 20_000, 20_000, 20_000, 20_000}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := startHerd(t, memnet.New(), tt.asked, tt.limits...)
				worst := 0.0
				for s := range 15 {
					if h.second(t, 1000); s >= 10 {
						worst = max(worst, h.worst())
					}
				}
				for range 3 { // the last are on their way
					h.second(t, 0)
				}
				t.Logf("most loaded / fair share: %.3f at the worst second, %.3f at the end; %v", worst, h.worst(), h.sessions)
				if worst > 1.10 || h.worst() > 1.05 {
					t.Error("want at most 1.10 and 1.05")
				}
			})
		})
	}
}

// TestNodesThatTakeNoAgents are named by none, and those in trouble come last.
func TestNodesThatTakeNoAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		h := startHerd(t, n, 8, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000)
		for i, load := range []fleet.Load{
			{Sessions: 500, Ready: true},
			{Sessions: 600, Ready: true},
			{Sessions: 1000, Ready: true},
			{Ready: true, Draining: true},
			{},
			{Ready: true}, // full, draining, starting, soon silent
			{Ready: true, Leaderless: true},
			{Ready: true, KafkaAway: true},
		} {
			load.Limit = 1000
			h.nodes[i].load.set(load)
		}
		time.Sleep(2 * time.Second)
		n.Cut(ip(6))
		time.Sleep(4 * time.Second)
		for _, node := range h.nodes {
			if node.id == "n6" {
				continue // it hears of nobody
			}
			for count := 1; count < 10; count++ {
				got := pickedIDs(node.Pick(count))
				if want := "n1 n2 n7 n8 "; !strings.HasPrefix(want, got) && !strings.HasPrefix("n1 n2 n8 n7 ", got) || len(got) != 3*min(count, 4) {
					t.Errorf("%s asked for %d names %s", node.id, count, got)
				}
			}
		}
		if got := pickedIDs(h.nodes[5].Pick(3)); got != "n6 " {
			t.Errorf("the node that is cut off names %s", got)
		}
		for i := range 2 { // the healthy ones fill up
			h.nodes[i].load.set(fleet.Load{Limit: 1000, Sessions: 1000, Ready: true})
		}
		time.Sleep(1100 * time.Millisecond)
		if got := pickedIDs(h.nodes[0].Pick(10)); got != "n7 n8 " && got != "n8 n7 " {
			t.Errorf("beside full ones those in trouble: %s", got)
		}
		for i := 6; i < 8; i++ {
			h.nodes[i].load.set(fleet.Load{Limit: 1000, Sessions: 1001, Ready: true})
		}
		time.Sleep(1100 * time.Millisecond)
		got := strings.TrimSuffix(pickedIDs(h.nodes[0].Pick(10)), "n6 ") // it may count as dead by now
		if len(got) != 3*7 || !strings.HasSuffix(got, "n4 n5 ") {
			t.Errorf("when none can take agents: %s", got)
		}
	})
}
