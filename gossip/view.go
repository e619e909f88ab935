// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"muster/fleet"
)

const (
	// rememberDead is how long a dead node stays in the list, for people to see,
	// and is called again, in case only the network had failed.
	rememberDead = time.Hour

	// doubtFor, for the profile lan, is how long a node stays whose death memberlist
	// tells although its reports come: under loss its word that it lives may miss
	// this node. It is called again meanwhile, which mends that. Then it is taken for
	// dead: it speaks, but does not hear.
	doubtFor = 2 * time.Minute

	// maxMembers bounds the list; nodes beyond it are ignored.
	maxMembers = 1000
)

// view is what this node knows of all nodes.
type view struct {
	self     string
	maxAge   time.Duration // of a report
	doubtFor time.Duration
	snapshot atomic.Pointer[roster]
	rnd      *rand.Rand // safe for concurrent use

	mu          sync.Mutex
	nodes       map[string]*node
	askers      fleet.Askers
	subscribers map[chan struct{}]struct{}
}

// roster is the nodes at one moment, by NodeID. But for the counters it is
// never changed.
type roster struct {
	members []fleet.Member
	handed  []*fleet.HandOuts // agents sent to each
	askers  float64           // as fleet.Askers counts
}

// chance is a source of random numbers for any number of goroutines.
type chance struct{}

func (chance) Uint64() uint64 { return rand.Uint64() }

type node struct {
	member fleet.Member
	handed *fleet.HandOuts // agents sent to it
	addr   netip.AddrPort  // of its gossip; zero for this node
	diedAt time.Time

	leaving bool      // it said that it leaves
	doubted time.Time // when memberlist told its death, if it is not believed yet
}

func newView(self fleet.Member, profile Profile) *view {
	maxAge := profile.scale(fleet.MaxLoadAge)
	self.Alive, self.MaxAge = true, maxAge
	self.Load, self.ReportedAt = fleet.Load{}, time.Time{}
	v := &view{
		self:        self.NodeID,
		maxAge:      maxAge,
		doubtFor:    profile.scale(doubtFor),
		rnd:         rand.New(chance{}),
		nodes:       map[string]*node{self.NodeID: {member: self, handed: new(fleet.HandOuts)}},
		subscribers: map[chan struct{}]struct{}{},
	}
	v.publish()
	return v
}

// publish makes a new snapshot. The caller holds mu.
func (v *view) publish() {
	nodes := slices.AppendSeq(make([]*node, 0, len(v.nodes)), maps.Values(v.nodes))
	slices.SortFunc(nodes, func(a, b *node) int { return cmp.Compare(a.member.NodeID, b.member.NodeID) })
	r := &roster{members: make([]fleet.Member, len(nodes)), handed: make([]*fleet.HandOuts, len(nodes))}
	for i, n := range nodes {
		r.members[i], r.handed[i] = n.member, n.handed
	}
	r.askers = v.askers.Count(r.members, v.self)
	v.snapshot.Store(r)
}

// changed makes a new snapshot and tells the subscribers. The caller holds mu.
func (v *view) changed() {
	v.publish()
	for ch := range v.subscribers {
		select {
		case ch <- struct{}{}:
		default: // it has not yet looked at the change before
		}
	}
}

func (v *view) subscribe() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.subscribers[ch] = struct{}{}
	return ch, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.subscribers, ch)
	}
}

// setAlive notes that a node is there, or its new facts. It reports whether the
// node was not there before, and why it was ignored, if it was.
func (v *view) setAlive(facts fleet.Member, addr netip.AddrPort) (isNew bool, ignored string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	old, known := v.nodes[facts.NodeID]
	if !known && len(v.nodes) >= maxMembers {
		return false, reasonTooManyNodes
	}
	facts.Alive, facts.MaxAge = true, v.maxAge
	handed := new(fleet.HandOuts)
	if known {
		handed = old.handed
	}
	if known && old.member.Started.Equal(facts.Started) {
		facts.Load, facts.ReportedAt = old.member.Load, old.member.ReportedAt
	}
	v.nodes[facts.NodeID] = &node{member: facts, handed: handed, addr: addr}
	v.changed()
	return !known || !old.member.Alive, ""
}

// setFacts replaces the facts about this node.
func (v *view) setFacts(facts fleet.Member) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.nodes[v.self]
	facts.Alive, facts.MaxAge = true, v.maxAge
	facts.Load, facts.ReportedAt = n.member.Load, n.member.ReportedAt
	n.member = facts
	v.changed()
}

// setLeaving notes that a node is about to leave: no agents are sent to it.
func (v *view) setLeaving(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, ok := v.nodes[id]
	if !ok || id == v.self {
		return
	}
	n.leaving = true
	n.member.Load.Ready = false
	v.publish()
}

// fate is what becomes of a node that memberlist tells to be gone.
type fate int

const (
	fateNone fate = iota // it is not known, or was dead before
	fateLeft             // it left on purpose and is forgotten
	fateDead
	fateDoubted // its reports come: see doubtFor
)

// setGone notes what memberlist tells: that a node is dead, or has left.
func (v *view) setGone(id string, now time.Time) fate {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, ok := v.nodes[id]
	switch {
	case !ok || id == v.self || !n.member.Alive:
		return fateNone
	case n.leaving:
		delete(v.nodes, id)
		v.changed()
		return fateLeft
	case !n.member.Silent(now):
		n.doubted = now
		return fateDoubted
	}
	n.member.Alive, n.diedAt = false, now
	v.changed()
	return fateDead
}

// bury ends the doubts about nodes that are silent, too, or whose death was told
// long ago, and returns who is dead now.
func (v *view) bury(now time.Time) (dead []memberlist.Address) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, n := range v.nodes {
		if n.doubted.IsZero() || !n.member.Alive || !n.member.Silent(now) && now.Sub(n.doubted) <= v.doubtFor {
			continue
		}
		n.member.Alive, n.diedAt = false, now
		dead = append(dead, memberlist.Address{Addr: n.addr.String(), Name: id})
	}
	if len(dead) > 0 {
		v.changed()
	}
	return dead
}

// revenants returns the addresses of the dead nodes whose reports come.
func (v *view) revenants(now time.Time) (addrs []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, n := range v.nodes {
		if !n.member.Alive && n.member.ReportedAt.After(n.diedAt) && !n.member.Silent(now) {
			addrs = append(addrs, n.addr.String())
		}
	}
	return addrs
}

// setLoad notes a report. It returns why it did not, or an empty reason.
func (v *view) setLoad(id string, load fleet.Load, now time.Time) (ignored string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, ok := v.nodes[id]
	if !ok {
		return reasonUnknownNode
	}
	if n.leaving || !n.member.ReportedAt.IsZero() && load.Sequence <= n.member.Load.Sequence {
		return reasonStale
	}
	n.member.Load, n.member.ReportedAt = load, now
	n.handed.Reported(now)
	if id == v.self {
		v.askers.Reported(load.HandedOut)
	}
	v.publishLoad(n)
	return ""
}

// publishLoad is publish for one report: of 200 nodes as many come each second.
// The caller holds mu.
func (v *view) publishLoad(n *node) {
	old := v.snapshot.Load()
	at, ok := slices.BinarySearchFunc(old.members, n.member.NodeID, func(m fleet.Member, id string) int { return cmp.Compare(m.NodeID, id) })
	if !ok {
		v.publish()
		return
	}
	r := &roster{members: slices.Clone(old.members), handed: old.handed}
	r.members[at] = n.member
	r.askers = v.askers.Count(r.members, v.self)
	v.snapshot.Store(r)
}

// pick takes no lock: those who ask in the same instant may be sent to the same
// node, as many as there are processors.
func (v *view) pick(count int, now time.Time) []*fleet.Member {
	r := v.snapshot.Load()
	ranked := fleet.Rank(r.members, fleet.Known{
		HandedOut: func(i int) float64 { return r.handed[i].Outstanding() },
		Askers:    r.askers,
		Now:       now,
		Rnd:       v.rnd,
	}, count)
	picked := make([]*fleet.Member, len(ranked))
	for k, i := range ranked {
		picked[k] = &r.members[i]
	}
	if len(ranked) > 0 {
		r.handed[ranked[0]].Add(now)
	}
	return picked
}

// handedOut is how many agents were sent anywhere that no report holds yet.
func (v *view) handedOut() uint32 {
	sum := 0.0
	for _, h := range v.snapshot.Load().handed {
		sum += h.Outstanding()
	}
	return uint32(sum)
}

// members is the present list, shared and never changed.
func (v *view) members() []fleet.Member { return v.snapshot.Load().members }

func (v *view) countAlive() int {
	alive := 0
	for _, m := range v.members() {
		if m.Alive {
			alive++
		}
	}
	return alive
}

// peers returns the other live nodes, without those that are leaving.
func (v *view) peers() []memberlist.Address {
	v.mu.Lock()
	defer v.mu.Unlock()
	peers := make([]memberlist.Address, 0, len(v.nodes))
	for id, n := range v.nodes {
		if id != v.self && n.member.Alive && !n.leaving {
			peers = append(peers, memberlist.Address{Addr: n.addr.String(), Name: id})
		}
	}
	return peers
}

// peer returns where a live node is.
func (v *view) peer(id string) (memberlist.Address, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, ok := v.nodes[id]
	if !ok || id == v.self || !n.member.Alive {
		return memberlist.Address{}, false
	}
	return memberlist.Address{Addr: n.addr.String(), Name: id}, true
}

// overdue returns the nodes whose report is older than that, in no order. Those
// that have never reported, or not for so long that they count as silent, are
// not among them.
func (v *view) overdue(now time.Time, after time.Duration) (nodes []wanted) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, n := range v.nodes {
		m := &n.member
		if id == v.self || !m.Alive || n.leaving || m.ReportedAt.IsZero() {
			continue
		}
		if age := now.Sub(m.ReportedAt); age > after && age <= v.maxAge {
			nodes = append(nodes, wanted{id, m.Load.Sequence})
		}
	}
	return nodes
}

// newer returns the reports that are newer than those, without the ones that
// are too old to be of use.
func (v *view) newer(nodes []wanted, now time.Time) (reports []known) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, w := range nodes {
		n, ok := v.nodes[w.node]
		if !ok || n.leaving || n.member.Load.Sequence <= w.sequence {
			continue
		}
		if age := now.Sub(n.member.ReportedAt); age <= v.maxAge {
			reports = append(reports, known{w.node, n.member.Load, age})
		}
	}
	return reports
}

// addresses returns where the other nodes are, the live ones, and those that are
// dead or may be.
func (v *view) addresses() (alive, dead map[netip.AddrPort]struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	alive, dead = map[netip.AddrPort]struct{}{}, map[netip.AddrPort]struct{}{}
	for id, n := range v.nodes {
		switch {
		case id == v.self:
		case n.member.Alive && n.doubted.IsZero():
			alive[n.addr] = struct{}{}
		default:
			dead[n.addr] = struct{}{}
		}
	}
	return alive, dead
}

// sweep forgets nodes that have been dead for long.
func (v *view) sweep(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := len(v.nodes)
	maps.DeleteFunc(v.nodes, func(_ string, n *node) bool {
		return !n.member.Alive && now.Sub(n.diedAt) > rememberDead
	})
	if len(v.nodes) != before {
		v.changed()
	}
}
