// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"muster/fleet"
)

// herd is some nodes and the agents that come to them, in steps of 10 ms of a
// made-up clock. Agents ask a random node, take its first address and are there
// after 0.02 to 2 s; reports come each second, up to 0.2 s late, and 5 % are lost.
type herd struct {
	nodes  []herdNode
	asked  int // agents ask the first so many nodes
	rnd    *rand.Rand
	step   int
	events map[int][]func() // by step
}

type herdNode struct {
	load   fleet.Load
	phase  int // its reports are sent at this step of each second
	view   []fleet.Member
	sent   []fleet.HandOuts
	askers fleet.Askers
}

const stepsASecond = 100

func newHerd(limits []uint32, asked int, seed uint64) *herd {
	h := &herd{
		nodes: make([]herdNode, len(limits)), asked: asked,
		rnd: rand.New(rand.NewPCG(seed, 1)), events: map[int][]func(){},
	}
	for i := range h.nodes {
		n := &h.nodes[i]
		n.load = fleet.Load{Limit: limits[i], Ready: true}
		n.phase = h.rnd.IntN(stepsASecond)
		n.sent = make([]fleet.HandOuts, len(limits))
		n.view = make([]fleet.Member, len(limits))
		for j := range n.view {
			n.view[j] = fleet.Member{
				NodeID: fmt.Sprint("n", j), Alive: true, ReportedAt: rankNow,
				Load: fleet.Load{Limit: limits[j], Ready: true},
			}
		}
	}
	return h
}

func (h *herd) now() time.Time {
	return rankNow.Add(time.Duration(h.step) * time.Second / stepsASecond)
}

func (h *herd) in(steps int, do func()) { h.events[h.step+steps] = append(h.events[h.step+steps], do) }

// arrive has an agent ask for an address.
func (h *herd) arrive() {
	asked := h.rnd.IntN(h.asked)
	n := &h.nodes[asked]
	first := fleet.Rank(n.view, fleet.Known{
		HandedOut: func(i int) float64 { return n.sent[i].Outstanding() },
		Askers:    n.askers.Count(n.view, n.view[asked].NodeID),
		Now:       h.now(),
		Rnd:       h.rnd,
	}, 10)[0]
	n.sent[first].Add(h.now())
	h.in(2+h.rnd.IntN(2*stepsASecond-2), func() { h.nodes[first].load.Sessions++ })
}

// report has a node tell its load.
func (h *herd) report(from int) {
	n := &h.nodes[from]
	load := n.load
	outstanding := 0.0
	for i := range n.sent {
		outstanding += n.sent[i].Outstanding()
	}
	load.HandedOut = uint32(outstanding)
	n.askers.Reported(load.HandedOut)
	for to := range h.nodes {
		late := 0
		if to != from {
			late = 1 + h.rnd.IntN(20)
		}
		if to != from && h.rnd.IntN(20) == 0 {
			continue
		}
		h.in(late, func() {
			h.nodes[to].view[from].Load, h.nodes[to].view[from].ReportedAt = load, h.now()
			h.nodes[to].sent[from].Reported(h.now())
		})
	}
}

// second lets one pass, with so many agents arriving in its first steps.
func (h *herd) second(arrivals, steps int) {
	for s := range stepsASecond {
		for i := range h.nodes {
			if h.step%stepsASecond == h.nodes[i].phase {
				h.report(i)
			}
		}
		for range min(s+1, steps)*arrivals/steps - min(s, steps)*arrivals/steps {
			h.arrive()
		}
		for len(h.events[h.step]) > 0 { // what happens may have something happen at once
			do := h.events[h.step]
			delete(h.events, h.step)
			for _, do := range do {
				do()
			}
		}
		h.step++
	}
}

// worst is the most that a node has of its fair share.
func (h *herd) worst() float64 {
	var sessions, limits, worst float64
	for i := range h.nodes {
		sessions += float64(h.nodes[i].load.Sessions)
		limits += float64(h.nodes[i].load.Limit)
	}
	for i := range h.nodes {
		worst = max(worst, float64(h.nodes[i].load.Sessions)/float64(h.nodes[i].load.Limit)*limits/sessions)
	}
	return worst
}

func equal(nodes int, limit uint32) []uint32 {
	limits := make([]uint32, nodes)
	for i := range limits {
		limits[i] = limit
	}
	return limits
}

func TestNoHerd(t *testing.T) {
	for name, tt := range map[string]struct {
		limits         []uint32
		asked          int
		rate, arrivals int    // rate 0: all within 0.01 to 0.3 s
		began          uint32 // sessions on all nodes but the first
	}{
		"five nodes":                       {equal(5, 20_000), 5, 1_000, 15_000, 0},
		"five nodes, 400 a second":         {equal(5, 20_000), 5, 400, 3_000, 0},
		"a large limit":                    {equal(5, 250_000), 5, 1_000, 15_000, 0},
		"nearly full at the end":           {equal(5, 3_100), 5, 1_000, 15_000, 0},
		"one is asked by all":              {equal(5, 20_000), 1, 1_000, 15_000, 0},
		"two are asked by all":             {equal(5, 20_000), 2, 1_000, 15_000, 0},
		"unequal limits":                   {[]uint32{1_000, 5_000, 10_000, 20_000, 40_000}, 5, 1_000, 15_000, 0},
		"unequal limits, one asked":        {[]uint32{1_000, 5_000, 10_000, 20_000, 40_000}, 1, 1_000, 15_000, 0},
		"a storm":                          {equal(5, 20_000), 5, 0, 15_000, 0},
		"a storm at one":                   {equal(5, 20_000), 1, 0, 15_000, 0},
		"a storm finds one empty":          {equal(5, 20_000), 5, 0, 15_000, 2_000},
		"one is empty at first":            {equal(5, 20_000), 5, 1_000, 15_000, 3_000},
		"one is empty and asked by all":    {equal(5, 20_000), 1, 1_000, 15_000, 3_000},
		"fifty nodes":                      {equal(50, 20_000), 50, 4_000, 44_000, 0},
		"fifty nodes, three of them asked": {equal(50, 20_000), 3, 4_000, 44_000, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var atAny, atEnd [2]float64 // least, most
			for seed := range uint64(max(2, 25/len(tt.limits))) {
				h := newHerd(tt.limits, tt.asked, seed)
				for i := 1; i < len(h.nodes); i++ {
					h.nodes[i].load.Sessions = tt.began
				}
				h.second(0, 1) // the reports of the first second
				h.second(0, 1)
				left, worst := tt.arrivals, 0.0
				if tt.rate == 0 {
					h.second(left, []int{1, 10, 30}[seed%3])
					left = 0
				}
				for s := 1; left > 0 || s < 13; s++ {
					h.second(min(left, tt.rate), stepsASecond)
					left -= min(left, tt.rate)
					if s > 10 {
						worst = max(worst, h.worst())
					}
				}
				for range 3 { // the last are on their way
					h.second(0, 1)
				}
				spread(&atAny, worst)
				spread(&atEnd, h.worst())
			}
			t.Logf("most loaded / fair share: %.3f to %.3f at the worst second, %.3f to %.3f at the end", atAny[0], atAny[1], atEnd[0], atEnd[1])
			if atAny[1] > 1.10 || atEnd[1] > 1.05 {
				t.Error("want at most 1.10 and 1.05")
			}
		})
	}
}

func spread(s *[2]float64, v float64) {
	if s[0] == 0 || v < s[0] {
		s[0] = v
	}
	s[1] = max(s[1], v)
}
