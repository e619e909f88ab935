// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"muster/fleet"
)

// event is what truly happened to a service, by the clock of the history.
type event struct {
	at      time.Duration
	evicted bool
}

// historyNode is a node of a history. Its clocks are its own: base is what its
// monotonic one began with, skew how far its wall clock is off.
type historyNode struct {
	*registry

	base  time.Time
	skew  time.Duration
	side  int           // nodes of different sides do not reach each other
	heard map[int]event // the latest that it was told of each service
}

// history is a cluster with a perfect memory beside it.
type history struct {
	*rapid.T

	at      time.Duration
	nodes   []*historyNode
	skewed  bool
	evicted map[int]bool // services that ever were
}

const historyServices = 3

func historyKey(s int) fleet.ServiceKey {
	return fleet.ServiceKey{Name: "svc", IP: "192.0.2.1", Port: s + 1}
}

func newHistory(t *rapid.T) *history {
	h := &history{T: t, evicted: map[int]bool{}, skewed: rapid.Bool().Draw(t, "skewed")}
	for i := range rapid.IntRange(2, 5).Draw(t, "nodes") {
		n := &historyNode{base: testNow.Add(time.Duration(i) * 1000 * time.Hour)}
		h.nodes = append(h.nodes, n)
		h.setClock(n)
		h.restart(n)
	}
	return h
}

func (h *history) pick() *historyNode { return rapid.SampledFrom(h.nodes).Draw(h.T, "node") }

func (n *historyNode) now(h *history) time.Time { return n.base.Add(h.at) }

// setClock sets a node's wall clock to any time, if this history has such.
func (h *history) setClock(n *historyNode) {
	if h.skewed {
		hours := rapid.SampledFrom([]int{0, 1, -1, 30, -400_000, 600_000}).Draw(h.T, "hours")
		n.skew = time.Duration(hours) * time.Hour
	}
}

func (h *history) restart(n *historyNode) {
	name := fmt.Sprint("n", slices.Index(h.nodes, n))
	n.registry = newRegistry(name, func() time.Time { return testNow.Add(h.at + n.skew) })
	n.heard = map[int]event{}
}

// hears notes what a node is told.
func (n *historyNode) hears(s int, e event) {
	if known, ok := n.heard[s]; !ok || known.at < e.at {
		n.heard[s] = e
	}
}

// tell delivers a message to the other nodes of the side, or to some of them.
func (h *history) tell(from *historyNode, s int, e event, m registration, all bool) {
	from.hears(s, e)
	for _, to := range h.nodes {
		if to != from && to.side == from.side && (all || rapid.IntRange(0, 3).Draw(h.T, "lost") > 0) {
			to.merge(m, to.now(h))
			to.hears(s, e)
		}
	}
}

func (h *history) register(s int, n *historyNode, all bool) {
	key := historyKey(s)
	_, m, err := n.registry.register(fleet.Service{Name: key.Name, IP: key.IP, Port: key.Port}, n.now(h))
	if err != nil {
		h.Fatal(err)
	}
	h.tell(n, s, event{at: h.at}, m, all)
}

func (h *history) evict(s int, n *historyNode) {
	m, _, kept := n.registry.evict(historyKey(s), n.now(h))
	if !kept {
		h.Fatal("an eviction was not kept")
	}
	h.evicted[s] = true
	h.tell(n, s, event{at: h.at, evicted: true}, m, false)
}

// compare has two nodes compare all that they know, which takes a while.
func (h *history) compare(one, two *historyNode) {
	if one == two || one.side != two.side {
		return
	}
	told := [2][]byte{}
	for i, n := range []*historyNode{one, two} {
		state, err := n.state(n.now(h))
		if err != nil {
			h.Fatal(err)
		}
		told[i] = state
	}
	h.pass(time.Duration(rapid.IntRange(1, 2000).Draw(h.T, "ms")) * time.Millisecond)
	for i, to := range []*historyNode{two, one} {
		all, err := decodeState(told[i])
		if err != nil {
			h.Fatal(err)
		}
		for _, m := range all {
			to.merge(m, to.now(h))
		}
	}
	for s := range historyServices {
		for i, to := range []*historyNode{two, one} {
			if e, ok := []*historyNode{one, two}[i].heard[s]; ok {
				to.hears(s, e)
			}
		}
	}
}

func (h *history) pass(d time.Duration) {
	h.at += d
	for _, n := range h.nodes {
		n.sweep(n.now(h))
	}
}

func (n *historyNode) lists(h *history, s int) bool {
	return slices.ContainsFunc(n.list("", n.now(h)), func(have fleet.Service) bool { return have.Key() == historyKey(s) })
}

// check holds what each node lists against what it was told.
func (h *history) check() {
	h.Helper()
	const slack = sameAge + 2*time.Second
	for i, n := range h.nodes {
		for s := range historyServices {
			if h.skewed && h.evicted[s] {
				continue // clocks that are hours apart may take an eviction for later than it was
			}
			e, known := n.heard[s]
			age := h.at - e.at
			switch listed := n.lists(h, s); {
			case !known || e.evicted:
				if listed && (!known || age < fleet.ServiceEvictAge) {
					h.Fatalf("n%d lists service %d, of which it heard: %v, %+v, %v ago", i, s, known, e, age)
				}
			case age <= fleet.ServiceEvictAge-slack && !listed:
				h.Fatalf("n%d does not list service %d, which it heard of %v ago", i, s, age)
			case age > fleet.ServiceEvictAge+slack && listed:
				h.Fatalf("n%d still lists service %d, silent for %v", i, s, age)
			}
		}
	}
}

func (h *history) step() {
	n, s := h.pick(), rapid.IntRange(0, historyServices-1).Draw(h.T, "service")
	switch rapid.IntRange(0, 12).Draw(h.T, "step") {
	case 0:
		h.evict(s, n)
	case 1:
		h.restart(n)
		h.compare(n, h.pick()) // as it joins
	case 2:
		n.side = rapid.IntRange(0, 1).Draw(h.T, "side")
	case 3:
		h.setClock(n)
	case 4, 5, 6:
		h.compare(n, h.pick())
	case 7:
		h.pass(time.Duration(rapid.IntRange(1, 240).Draw(h.T, "seconds")) * time.Second)
	default:
		h.register(s, n, false)
	}
	h.pass(time.Duration(rapid.IntRange(1, 10_000).Draw(h.T, "pause")) * time.Millisecond)
}

// TestAnyHistoryOfServices: registered, renewed and evicted through any node,
// with messages lost, nodes cut off and restarted and clocks that are decades
// apart and jump, no node loses a service that it heard of in time. Once all
// reach each other again they agree, and the next renewal is seen by all.
func TestAnyHistoryOfServices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(t)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			h.step()
			h.check()
		}
		for _, n := range h.nodes {
			n.side = 0
		}
		for range 3 { // a node that has aged out what another renews hears first, and tells then
			for _, n := range h.nodes {
				h.compare(h.nodes[0], n)
			}
		}
		h.check()
		h.agree()
		for s := range historyServices {
			h.register(s, h.pick(), true)
			for i, n := range h.nodes {
				if !n.lists(h, s) {
					t.Fatalf("n%d does not list service %d, which has just registered", i, s)
				}
			}
		}
	})
}

// agree wants the nodes to list the same, but for services that are about to be
// forgotten.
func (h *history) agree() {
	h.Helper()
	const young = fleet.ServiceEvictAge - 3*sameAge
	for s := range historyServices {
		held := make([]*entry, len(h.nodes))
		for i, n := range h.nodes {
			if n.lists(h, s) {
				held[i] = n.entries[historyKey(s)]
			}
		}
		for i, e := range held {
			for j, other := range held {
				switch {
				case e == nil || h.ageOf(h.nodes[i], e) > young:
				case other == nil:
					h.Fatalf("n%d lists service %d, n%d does not", i, s, j)
				default:
					if diff := cmp.Diff(e.message(h.nodes[i].base), other.message(h.nodes[j].base), ignoreAge); diff != "" {
						h.Fatalf("n%d and n%d differ about service %d: %s", i, j, s, diff)
					}
				}
			}
		}
	}
}

func (h *history) ageOf(n *historyNode, e *entry) time.Duration { return n.now(h).Sub(e.refreshed) }

// ignoreAge leaves out what is not the same on two nodes.
var ignoreAge = cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".AgeMS" }, cmp.Ignore())

// Two nodes that are cut off hear renewals of one service; the clock of one is an
// hour ahead. What it says last is older, and must not outlive what the other
// knows.
func TestAClockAheadDoesNotAgeAService(t *testing.T) {
	at := testNow
	ahead := newRegistry("ahead", func() time.Time { return at.Add(time.Hour) })
	behind := newRegistry("behind", func() time.Time { return at })
	s := fleet.Service{Name: "svc", IP: "192.0.2.1", Port: 1, Weight: 1}
	_, early, err := ahead.register(s, at)
	if err != nil {
		t.Fatal(err)
	}
	at = at.Add(100 * time.Second)
	s.Weight = 2
	if _, _, err := behind.register(s, at); err != nil {
		t.Fatal(err)
	}
	early.AgeMS = 100_000
	behind.merge(early, at)
	at = at.Add(20 * time.Second)
	if got := behind.list("svc", at); len(got) != 1 || got[0].Status != fleet.ServiceGreen || got[0].Weight != 1 {
		t.Fatalf("20 s after it registered: %+v", got)
	}
	s.Weight = 3
	if _, m, err := behind.register(s, at); err != nil || m.Stamp <= early.Stamp {
		t.Fatalf("the next renewal has stamp %d, %v", m.Stamp, err)
	}
}

// What is passed on again and again, a little late each time, does not stay young.
func TestPassingOnDoesNotKeepAServiceAlive(t *testing.T) {
	at := testNow
	nodes := []*registry{testRegistry(), testRegistry()}
	_, m, err := nodes[0].register(fleet.Service{Name: "svc", IP: "192.0.2.1", Port: 1}, at)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; at.Sub(testNow) <= fleet.ServiceEvictAge+2*sameAge; i++ {
		at = at.Add(5 * time.Second) // each message is so long under way
		nodes[(i+1)%2].merge(m, at)
		e := nodes[(i+1)%2].entries[m.key()]
		m = e.message(at)
	}
	for i, n := range nodes {
		if got := n.list("", at); len(got) != 0 {
			t.Errorf("node %d has %+v", i, got)
		}
	}
}

// A full registry is not searched for each registration that it refuses.
func TestAFullRegistryRefusesCheaply(t *testing.T) {
	r := testRegistry()
	for i := range maxServices {
		if _, _, err := r.register(fleet.Service{Name: fmt.Sprint("s", i), IP: "192.0.2.1", Port: 1}, testNow); err != nil {
			t.Fatal(err)
		}
	}
	more := fleet.Service{Name: "more", IP: "192.0.2.1", Port: 1}
	later := testNow.Add(fleet.ServiceEvictAge)
	if _, _, err := r.register(more, later); err == nil {
		t.Fatal("one too many is taken")
	}
	later = later.Add(sweepPause - 1) // by now all the others may go
	if _, _, err := r.register(more, later); err == nil || r.len() != maxServices {
		t.Fatalf("searched again at once: %v, %d entries", err, r.len())
	}
	if _, _, err := r.register(more, later.Add(1)); err != nil || r.len() != 1 {
		t.Fatalf("after a pause: %v, %d entries", err, r.len())
	}
}

// BenchmarkFullComparison is one side of a comparison of full registries that
// know the same.
func BenchmarkFullComparison(b *testing.B) {
	one, two := testRegistry(), testRegistry()
	for i := range maxServices {
		s := fleet.Service{Name: "rule_engine", IP: fmt.Sprintf("10.1.%d.%d", i/250, i%250), Port: 9000, Weight: i, Extra: map[string]any{"zone": "a"}}
		_, m, err := one.register(s, testNow)
		if err != nil {
			b.Fatal(err)
		}
		two.merge(m, testNow)
	}
	for b.Loop() {
		state, err := one.state(testNow)
		if err != nil {
			b.Fatal(err)
		}
		all, err := decodeState(state)
		if err != nil {
			b.Fatal(err)
		}
		for _, m := range all {
			if _, news, _ := two.merge(m, testNow); news {
				b.Fatalf("%+v is news", m)
			}
		}
		b.ReportMetric(float64(len(state))/maxServices, "bytes/service")
	}
}
