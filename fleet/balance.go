// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// DefaultShedRate is how many agents a node sends away in a second at most.
	DefaultShedRate = 50

	// maxArrivals is how many agents a second are sent to one node by all others
	// together: each costs it a TLS handshake.
	maxArrivals = 200

	// heavyRatio and lightRatio are how many times its share a node may hold
	// before agents are moved. They are apart so that chance moves nobody.
	heavyRatio = 1.05
	lightRatio = 0.90
	// minExcess is below what nothing is moved: a few agents more or less are no load.
	minExcess = 10

	// settleFor is how long an imbalance must last: those that arrive just now
	// may cure it, and a node that just came may go again.
	settleFor = 15 * time.Second
	// travelFor is longer than an agent that was sent away is on its way, held by no node.
	travelFor = 15 * time.Second
	// moveFor is for how long a fleet may have agents on their way without a break
	// and be remembered as it was before.
	moveFor = 10 * time.Minute

	// judgeAfter is when it is looked at where the agents went that were sent away.
	// Of judgeLeast or more, one in judgeShare must have arrived, else none are sent for pauseFor.
	judgeAfter = 2 * travelFor
	judgeLeast = 20
	judgeShare = 4
	pauseFor   = 10 * time.Minute
)

// takesAgents tells whether agents may be moved to a member.
func (m *Member) takesAgents(now time.Time) bool {
	return m.reports(now) && m.Load.Ready && !m.Load.Draining && m.Load.Limit > 0
}

func (m *Member) reports(now time.Time) bool {
	return m.Alive && !m.Silent(now)
}

func (l *Load) degraded() bool { return l.KafkaAway || l.Leaderless }

// FairShares returns how many of the fleet's sessions each member should hold: in
// proportion to their limits for the healthy ones (without any, those that are
// without Kafka or leader), 0 for those that should take none.
func FairShares(members []Member, now time.Time) []float64 {
	b := weigh(members, now)
	return b.shares(members, b.sessions)
}

// balance is the members' loads, weighed at one moment.
type balance struct {
	takes    []bool // those that agents are moved between
	limit    uint64 // of all that take agents
	sessions uint64 // theirs, and of those that are to be emptied
}

func weigh(members []Member, now time.Time) balance {
	b := balance{takes: make([]bool, len(members))}
	healthy := false
	for i := range members {
		healthy = healthy || members[i].takesAgents(now) && !members[i].Load.degraded()
	}
	for i := range members {
		m := &members[i]
		switch {
		case !m.reports(now):
		case m.takesAgents(now) && (!healthy || !m.Load.degraded()):
			b.takes[i] = true
			b.limit += uint64(m.Load.Limit)
			b.sessions += uint64(m.Load.Sessions)
		case !m.takesAgents(now):
			b.sessions += uint64(m.Load.Sessions) // they will have to move
		}
	}
	return b
}

// shares divides so many sessions.
func (b *balance) shares(members []Member, sessions uint64) []float64 {
	shares := make([]float64, len(members))
	for i := range members {
		if b.takes[i] {
			shares[i] = float64(sessions) * float64(members[i].Load.Limit) / float64(b.limit)
		}
	}
	return shares
}

// Balancer decides for one node how many of its agents it sends away, so that
// every node holds its share and a draining one gets empty. All nodes decide by
// the same rules from what gossip tells them; nobody coordinates. An agent that is
// sent away asks service discovery, which names the emptiest node. The zero value
// is ready; a Balancer is not safe for concurrent use.
type Balancer struct {
	// Rate is how many agents are sent away in a second at most; 0 means DefaultShedRate.
	Rate int

	sums     []sum     // of the last travelFor, oldest first
	took     []string  // the nodes that agents were moved between a Step ago
	uneven   time.Time // since when
	shedding bool
	credit   float64 // agents, and parts of one, that may still be sent away
	round    round
	pause    pause
}

// sum is how many sessions there were in all.
type sum struct {
	at       time.Time
	sessions uint64
}

// round is a time of sending agents away, at whose end it is judged.
type round struct {
	began time.Time
	shed  int
	to    map[string]uint64 // the nodes that should get them, and what they held in the beginning
}

type pause struct {
	until time.Time
	why   string
}

// Step is what a node should do in the coming second.
type Step struct {
	Shed      int     // so many agents are to be sent away
	RefuseNew bool    // agents that come anew are to be refused: they find another node
	Share     float64 // of the fleet's sessions; 0 for a node that should take none
	Ratio     float64 // sessions over Share; 0 without a share
	Shedding  bool    // agents are being moved away from here
	Waits     string  // why they are not, although they should be, or ""
}

// Step is called each second with the members, this one's NodeID and how many
// sessions it has now.
func (b *Balancer) Step(now time.Time, members []Member, self string, sessions int) Step {
	at := slices.IndexFunc(members, func(m Member) bool { return m.NodeID == self })
	if at < 0 {
		return Step{}
	}
	weighed := weigh(members, now)
	size := b.size(now, weighed.sessions)
	shares := weighed.shares(members, size)
	step := Step{Share: shares[at]}
	// Held against what others reported up to a second ago, what arrived since this
	// node's own report would make it look the fullest all the time that agents come.
	reported := min(sessions, int(members[at].Load.Sessions))
	if step.Share > 0 {
		step.Ratio = float64(reported) / step.Share
	}
	takes := weighed.takes[at]
	weighed.takes[at] = false
	f := lookAround(members, weighed.takes, shares)
	f.room -= min(f.room, size-weighed.sessions) // for those on their way
	lost := b.lost(f)
	switch load := &members[at].Load; {
	case load.Draining && load.Ready:
		b.drain(now, &step, f, sessions)
	case takes && !load.degraded(): // in trouble nothing is moved
		b.level(now, &step, f, reported, lost)
	default:
		b.rest()
	}
	return step
}

// size is how many sessions there are: the most of the last seconds, because
// nobody counts those that are on their way. While some are sent away all the time,
// it is the most since before that: else each node would take the fleet for smaller
// than it is, and send away more than its excess.
func (b *Balancer) size(now time.Time, sessions uint64) uint64 {
	b.sums = append(b.sums, sum{now, sessions})
	window := travelFor
	if b.shedding {
		window = moveFor
	}
	for now.Sub(b.sums[0].at) > window {
		b.sums = b.sums[1:]
	}
	most := uint64(0)
	for _, s := range b.sums {
		most = max(most, s.sessions)
	}
	return most
}

// field is what a node sees of the others that agents are moved between.
type field struct {
	held     map[string]uint64 // sessions, by node
	light    []string          // nodes below their share
	room     uint64            // sessions that can still be taken
	excess   float64           // sessions above their nodes' shares
	emptiest *Member           // the furthest below its share; nil: none is, by minExcess
	share    float64           // of the emptiest
}

func lookAround(members []Member, takes []bool, shares []float64) field {
	f := field{held: make(map[string]uint64)}
	for i := range members {
		m := &members[i]
		if !takes[i] {
			continue
		}
		held := float64(m.Load.Sessions)
		f.held[m.NodeID] = uint64(m.Load.Sessions)
		f.excess += max(0, held-shares[i])
		if m.Load.Limit > m.Load.Sessions {
			f.room += uint64(m.Load.Limit - m.Load.Sessions)
		}
		if held >= shares[i] {
			continue
		}
		f.light = append(f.light, m.NodeID)
		if shares[i]-held >= minExcess && (f.emptiest == nil || held/shares[i] < f.ratio()) {
			f.emptiest, f.share = m, shares[i]
		}
	}
	return f
}

// ratio is the emptiest node's, 1 if there is none.
func (f *field) ratio() float64 {
	if f.emptiest == nil {
		return 1
	}
	return float64(f.emptiest.Load.Sessions) / f.share
}

// drain sends all agents away, while others have room for them.
func (b *Balancer) drain(now time.Time, step *Step, f field, sessions int) {
	switch {
	case f.room == 0:
		step.Waits = "no other node can take more agents"
		b.rest()
	case b.pausing(now, f):
		step.Waits = b.pause.why
	default:
		step.RefuseNew = true
		b.send(now, step, slices.Collect(maps.Keys(f.held)), f, float64(min(uint64(sessions), f.room)), 1)
	}
}

// lost tells whether one of the other nodes is gone, or takes no agents any more:
// those it had are on their way to the rest.
func (b *Balancer) lost(f field) bool {
	before := b.took
	b.took = slices.Collect(maps.Keys(f.held))
	return slices.ContainsFunc(before, func(id string) bool { _, there := f.held[id]; return !there })
}

// level sends away what is above the share.
func (b *Balancer) level(now time.Time, step *Step, f field, sessions int, lost bool) {
	excess := float64(sessions) - step.Share
	uneven := excess >= minExcess && step.Ratio > heavyRatio || excess >= 1 && f.ratio() < lightRatio
	switch {
	case b.pausing(now, f):
		if uneven {
			step.Waits = b.pause.why
		}
	case excess < 1 || !b.shedding && !uneven:
		b.rest()
	case b.uneven.IsZero(), !b.shedding && (lost || b.grows()):
		b.uneven = now
	case b.shedding || now.Sub(b.uneven) >= settleFor:
		b.send(now, step, f.light, f, excess, excess/(excess+f.excess))
	}
}

// grows tells whether agents arrive in such numbers that service discovery, which
// sends them to the emptiest nodes, evens out more than could be moved.
func (b *Balancer) grows() bool {
	return float64(b.sums[len(b.sums)-1].sessions) > heavyRatio*float64(b.sums[0].sessions)
}

func (b *Balancer) rest() {
	b.uneven, b.shedding, b.credit, b.round = time.Time{}, false, 0, round{}
}

// send lets at most so many agents go, to certain nodes. This one may use a part
// of what those can take.
func (b *Balancer) send(now time.Time, step *Step, to []string, f field, most, part float64) {
	rate := float64(cmp.Or(b.Rate, DefaultShedRate))
	b.credit = min(b.credit+min(rate, maxArrivals*float64(len(to))*part), max(rate, 1))
	step.Shed = int(min(b.credit, most))
	b.shedding, step.Shedding = true, most > 0
	if b.round.began.IsZero() {
		b.round = round{began: now, to: make(map[string]uint64)}
		for _, id := range to {
			b.round.to[id] = f.held[id]
		}
	}
}

// Sent notes how many agents were sent away after a Step: fewer than it said if
// some cannot be just now.
func (b *Balancer) Sent(agents int) {
	b.credit -= float64(agents)
	b.round.shed += agents
}

// pausing tells whether no agents are to be sent away, because those before did
// not arrive. It judges a round that is over.
func (b *Balancer) pausing(now time.Time, f field) bool {
	if now.Before(b.pause.until) {
		return true
	}
	r := b.round
	if r.began.IsZero() || now.Sub(r.began) < judgeAfter {
		return false
	}
	b.round = round{}
	arrived := uint64(0)
	for id, before := range r.to {
		held, there := f.held[id]
		if !there {
			return false // a node is gone, so nothing can be said
		}
		arrived += held - min(held, before)
	}
	if r.shed < judgeLeast || arrived*judgeShare >= uint64(r.shed) {
		return false
	}
	b.rest()
	b.pause = pause{until: now.Add(pauseFor), why: fmt.Sprintf("of %d agents that were sent away, %d arrived at %s: can agents reach what service discovery names for it?",
		r.shed, arrived, strings.Join(slices.Sorted(maps.Keys(r.to)), ", "))}
	return true
}
