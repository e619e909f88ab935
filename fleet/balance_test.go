// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"muster/fleet"
)

// balanced is some nodes in a time of their own. Agents that are sent away arrive
// seconds later at the node that is emptiest then.
type balanced struct {
	t       *testing.T
	now     time.Time
	rnd     *rand.Rand
	members []fleet.Member
	run     []*fleet.Balancer
	coming  map[int64]int // agents that arrive, by Unix second
	steps   []fleet.Step  // the last
	moved   int
	// barred are nodes that agents cannot reach: they stay at another one.
	barred  map[string]bool
	arrived map[string]int  // in the last second, by node
	stuck   map[string]bool // nodes whose agents cannot be sent away just now
}

func newBalanced(t *testing.T, sessions ...uint32) *balanced {
	w := &balanced{
		t: t, now: time.Unix(1e9, 0), rnd: rand.New(rand.NewPCG(1, 2)),
		coming: map[int64]int{}, barred: map[string]bool{}, arrived: map[string]int{},
	}
	for _, n := range sessions {
		w.join(n, 15_000)
	}
	return w
}

func (w *balanced) join(sessions, limit uint32) {
	w.members = append(w.members, fleet.Member{
		NodeID: fmt.Sprintf("n%03d", len(w.members)+1), Alive: true,
		Load: fleet.Load{Sessions: sessions, Limit: limit, Ready: true},
	})
	w.run = append(w.run, new(fleet.Balancer))
	w.steps = append(w.steps, fleet.Step{})
}

// second lets a second pass.
func (w *balanced) second() {
	w.now = w.now.Add(time.Second)
	clear(w.arrived)
	for range w.coming[w.now.Unix()] {
		w.arrive()
	}
	delete(w.coming, w.now.Unix())
	for i := range w.members {
		if w.members[i].Alive {
			w.members[i].ReportedAt = w.now
		}
	}
	seen := slices.Clone(w.members)
	for i := range w.members {
		if !w.members[i].Alive {
			continue
		}
		step := w.run[i].Step(w.now, seen, w.members[i].NodeID, int(w.members[i].Load.Sessions))
		if step.Shed < 0 || step.Shed > int(w.members[i].Load.Sessions) || step.Shed > fleet.DefaultShedRate {
			w.t.Fatalf("%s sends %d of its %d agents away in a second", w.members[i].NodeID, step.Shed, w.members[i].Load.Sessions)
		}
		if w.stuck[w.members[i].NodeID] {
			w.steps[i] = step
			continue
		}
		w.run[i].Sent(step.Shed)
		w.members[i].Load.Sessions -= uint32(step.Shed)
		w.moved += step.Shed
		for range step.Shed {
			w.coming[w.now.Unix()+1+w.rnd.Int64N(12)]++
		}
		w.steps[i] = step
	}
}

func (w *balanced) arrive() {
	order := fleet.Rank(w.members, fleet.Known{Now: w.now, Rnd: w.rnd}, 0)
	for _, i := range order {
		if !w.barred[w.members[i].NodeID] {
			w.members[i].Load.Sessions++
			w.arrived[w.members[i].NodeID]++
			return
		}
	}
	w.t.Fatal("an agent found no node")
}

func (w *balanced) seconds(n int) {
	for range n {
		w.second()
	}
}

// ratio is what a node holds over its share.
func (w *balanced) ratio(i int) float64 {
	return float64(w.members[i].Load.Sessions) / fleet.FairShares(w.members, w.now)[i]
}

func TestSixthNodeGetsItsShare(t *testing.T) {
	for _, each := range []uint32{500, 2_500, 12_500} {
		w := newBalanced(t, each, each, each, each, each)
		w.seconds(60)
		if w.moved != 0 {
			t.Fatalf("%d agents moved before there was a reason", w.moved)
		}
		w.join(0, 15_000)
		w.seconds(300)
		if got := w.ratio(5); got < 0.9 {
			t.Errorf("5 nodes of %d agents: after 5 minutes the sixth holds %.3f of its share", each, got)
		}
		if most := float64(each) * 1.02; float64(w.moved) > most {
			t.Errorf("5 nodes of %d agents: %d moved, at most %.0f had to", each, w.moved, most)
		}
		before := w.moved
		w.seconds(3600)
		if w.moved != before {
			t.Errorf("5 nodes of %d agents: %d moved in an hour of steady load", each, w.moved-before)
		}
	}
}

// Of many small nodes each has few agents too many when one more comes.
func TestNewNodeAmongManySmallOnes(t *testing.T) {
	w := newBalanced(t, slices.Repeat([]uint32{500}, 50)...)
	w.join(0, 15_000)
	w.seconds(300)
	if got := w.ratio(50); got < 0.9 {
		t.Errorf("after 5 minutes the new node holds %.3f of its share", got)
	}
	before := w.moved
	w.seconds(600)
	if w.moved != before {
		t.Errorf("%d agents moved in 10 min of steady load", w.moved-before)
	}
}

// While agents arrive, service discovery evens out what chance makes uneven.
func TestArrivalsMoveNobody(t *testing.T) {
	w := newBalanced(t, 500, 400, 500)
	for range 60 {
		for i, n := range []uint32{55, 40, 45} { // more than chance would
			w.members[i].Load.Sessions += n
		}
		w.second()
	}
	if w.moved != 0 {
		t.Errorf("%d agents moved while agents arrived", w.moved)
	}
	w.seconds(60)
	if w.moved == 0 {
		t.Error("nobody moved when no more arrived")
	}
}

// What a lost node had is on its way when a new one has just been there for long
// enough to be given its share: it gets those.
func TestAgentsOfALostNodeFillANewOne(t *testing.T) {
	w := newBalanced(t, 1520, 1480, 0)
	w.seconds(12)
	w.members[1].Alive, w.members[1].Load.Sessions = false, 0
	for n := range 1480 {
		w.coming[w.now.Unix()+8+int64(n)%3]++
	}
	w.seconds(120)
	if w.moved > 0 {
		t.Errorf("%d agents were moved, although the others' loss had evened it out", w.moved)
	}
	if r := w.ratio(2); r < 0.9 {
		t.Errorf("the new node has %.2f of its share", r)
	}
}

func TestOneNodeIsNotFlooded(t *testing.T) {
	w := newBalanced(t, slices.Repeat([]uint32{10_000}, 49)...)
	w.join(0, 15_000)
	most := 0
	for range 400 {
		w.second()
		most = max(most, w.arrived["n050"])
	}
	if most > 260 { // 200 a second, as chance strews them
		t.Errorf("%d agents came to one node in a second", most)
	}
	if got := w.ratio(49); got < 0.9 {
		t.Errorf("the new node holds %.3f of its share", got)
	}
}

func TestSharesFollowLimits(t *testing.T) {
	w := newBalanced(t)
	w.join(6_000, 10_000)
	w.join(0, 20_000)
	w.join(0, 0) // takes none
	w.seconds(600)
	for i, want := range []float64{2_000, 4_000, 0} {
		if got := float64(w.members[i].Load.Sessions); math.Abs(got-want) > 0.1*want {
			t.Errorf("%s holds %.0f, want about %.0f", w.members[i].NodeID, got, want)
		}
	}
}

func TestSmallDifferencesMoveNobody(t *testing.T) {
	for _, sessions := range [][]uint32{
		{1_000, 1_049, 951}, // within the band
		{12, 4, 4},          // few
		{9, 0, 0},
		{0, 0, 0},
		{5_000},
	} {
		w := newBalanced(t, sessions...)
		w.seconds(120)
		if w.moved != 0 {
			t.Errorf("%v: %d agents moved", sessions, w.moved)
		}
	}
}

func TestDrainEmptiesANode(t *testing.T) {
	w := newBalanced(t, 3_000, 3_000, 3_000)
	w.members[0].Load.Draining = true
	w.seconds(30)
	if !w.steps[0].RefuseNew || !w.steps[0].Shedding {
		t.Fatalf("a draining node's step: %+v", w.steps[0])
	}
	w.seconds(60)
	if got := w.members[0].Load.Sessions; got != 0 || w.steps[0].Shedding {
		t.Fatalf("%d agents are left after 90 s: %+v", got, w.steps[0])
	}
	w.members[0].Load.Draining = false
	w.seconds(200)
	if got := w.ratio(0); got < 0.9 {
		t.Errorf("after the end of its drain the node holds %.3f of its share", got)
	}
}

// An agent that cannot be sent away yet is not one that did not arrive.
func TestDrainWaitsForAgentsThatStay(t *testing.T) {
	w := newBalanced(t, 3, 3_000)
	w.members[0].Load.Draining = true
	w.stuck = map[string]bool{"n001": true}
	for range 90 {
		w.second()
		if !w.steps[0].RefuseNew || w.steps[0].Waits != "" || w.steps[0].Shed != 3 {
			t.Fatalf("a draining node whose agents cannot be sent away yet: %+v", w.steps[0])
		}
	}
	w.stuck = nil
	w.second()
	if got := w.members[0].Load.Sessions; got != 0 {
		t.Errorf("%d agents are left", got)
	}
}

func TestDrainNeedsRoom(t *testing.T) {
	w := newBalanced(t, 3_000)
	w.join(999, 1_000)
	w.join(100, 1_000)
	w.members[2].Alive = false
	w.members[0].Load.Draining = true
	w.seconds(60)
	if got := w.members[0].Load.Sessions; got < 2_998 || w.steps[0].RefuseNew || !strings.Contains(w.steps[0].Waits, "no other node") {
		t.Errorf("%d agents are left: %+v", got, w.steps[0])
	}
}

func TestAgentsThatDoNotArriveStopIt(t *testing.T) {
	w := newBalanced(t, 5_000, 5_000, 5_000)
	w.barred["n004"] = true
	w.join(0, 15_000)
	w.seconds(3600)
	if !strings.Contains(w.steps[0].Waits, "n004") {
		t.Errorf("a node does not say why it stopped: %+v", w.steps[0])
	}
	// Three nodes for 30 s of each 10 min at 50 a second.
	if w.moved > 3*6*30*fleet.DefaultShedRate {
		t.Errorf("%d agents moved in an hour, to a node that they cannot reach", w.moved)
	}
	delete(w.barred, "n004")
	w.seconds(1200)
	if got := w.ratio(3); got < 0.9 {
		t.Errorf("the node holds %.3f of its share 20 min after agents could reach it again", got)
	}
}

func TestTroubleMovesNobody(t *testing.T) {
	for name, spoil := range map[string]func(m *fleet.Member){
		"silent":     func(m *fleet.Member) { m.Alive = false },
		"starting":   func(m *fleet.Member) { m.Load.Ready = false },
		"no Kafka":   func(m *fleet.Member) { m.Load.KafkaAway = true },
		"leaderless": func(m *fleet.Member) { m.Load.Leaderless = true },
	} {
		w := newBalanced(t, 5_000, 5_000, 0)
		spoil(&w.members[2])
		w.seconds(120)
		if w.moved != 0 {
			t.Errorf("%s: %d agents moved", name, w.moved)
		}
		w = newBalanced(t, 5_000, 5_000, 0)
		for i := range w.members {
			spoil(&w.members[i])
		}
		w.seconds(120)
		if w.moved != 0 {
			t.Errorf("all are %s: %d agents moved", name, w.moved)
		}
	}
}

func TestFairShares(t *testing.T) {
	now := time.Unix(1e9, 0)
	node := func(sessions, limit uint32, change func(m *fleet.Member)) fleet.Member {
		m := fleet.Member{Alive: true, ReportedAt: now, Load: fleet.Load{Sessions: sessions, Limit: limit, Ready: true}}
		if change != nil {
			change(&m)
		}
		return m
	}
	got := fleet.FairShares([]fleet.Member{
		node(100, 1_000, nil),
		node(200, 2_000, nil),
		node(30, 1_000, func(m *fleet.Member) { m.Load.Draining = true }),
		node(50, 1_000, func(m *fleet.Member) { m.Load.KafkaAway = true }),
		node(70, 1_000, func(m *fleet.Member) { m.Alive = false }),
		node(70, 1_000, func(m *fleet.Member) { m.ReportedAt = now.Add(-4 * time.Second) }),
	}, now)
	if want := []float64{110, 220, 0, 0, 0, 0}; !slices.Equal(got, want) {
		t.Errorf("shares %v, want %v", got, want)
	}
	if got := fleet.FairShares([]fleet.Member{node(10, 0, nil)}, now); !slices.Equal(got, []float64{0}) {
		t.Errorf("a node without a limit has a share of %v", got)
	}
}
