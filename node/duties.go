// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"muster/fleet"
)

const (
	// dutyEvery is how often a leader looks for nodes to add, if gossip tells
	// nothing new.
	dutyEvery = 2 * time.Second
	// appliedAge is how old what others gossiped must be before this node has to
	// have applied it, and appliedKept how long it is remembered.
	appliedAge  = 2 * time.Second
	appliedKept = 10 * time.Second
	// copyEnds is longer than a node takes to find at its start that it is a copy.
	copyEnds = 2*seedWait + time.Second
)

// lead does, while this node leads, what only the leader may: it adds the nodes
// that have enrolled, and makes the first user.
func (n *Node) lead(ctx context.Context) error {
	changes, stop := n.members.Subscribe()
	defer stop()
	tick := time.NewTicker(dutyEvery)
	defer tick.Stop()
	said := make(map[string]*repeat)
	var alone repeat
	for {
		n.sayLeaderless(&alone)
		if n.store.Leads() && n.trust.ca.Load() != nil {
			n.addMembers(ctx, said)
			if len(n.first) == 0 { // else it is being made
				if err := n.firstUser(ctx); err != nil && ctx.Err() == nil {
					n.log.Warn("the first user could not be made, trying again", "error", err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changes:
		case <-tick.C:
		}
	}
}

// sayLeaderless tells the log what /readyz tells when nobody leads for long.
func (n *Node) sayLeaderless(said *repeat) {
	select {
	case <-n.ready:
	default:
		return // whoever waits for the state says so
	}
	status := n.store.Status()
	if age := time.Duration(status.LeaderContactAgeMS) * time.Millisecond; status.Leader == "" && age > leaderlessAfter {
		if why := n.whyNoLeader(); said.due(why) {
			n.log.Warn("nothing can be changed: the cluster is without a leader", "for", age.Round(time.Second), "waits_for", why)
		}
	}
}

// addMembers has Raft take in every live node that is enrolled and not in yet.
func (n *Node) addMembers(ctx context.Context, said map[string]*repeat) {
	servers, err := n.store.Servers()
	if err != nil {
		return // it is stopping
	}
	in := make(map[string]bool, len(servers))
	for _, s := range servers {
		in[s.ID] = true
	}
	for _, m := range n.members.Members() {
		if !m.Alive || in[m.ServerID] || m.ClusterID != n.trust.clusterID() || n.store.Removed(m.ServerID) {
			continue
		}
		err := n.store.Join(ctx, m.ServerID, m.NodeID, m.ServerID)
		if err == nil || ctx.Err() != nil {
			delete(said, m.ServerID)
			continue
		}
		if said[m.ServerID] == nil {
			said[m.ServerID] = &repeat{}
		}
		if said[m.ServerID].due(err.Error()) {
			n.log.Warn("a node cannot be added to the cluster now, trying again", "server", m.ServerID, "error", err)
		}
	}
}

// watchRivals ends this node when an older one has its name and lives.
func (n *Node) watchRivals(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case rival := <-n.members.Rivals():
			if err := n.judgeRival(ctx, rival, false); err != nil {
				return err
			}
		}
	}
}

// judgeRival returns an error when this node has to give way to another one
// with its name, now or after waiting for that one to be gone. starting is true
// before this node has said anything to anybody.
func (n *Node) judgeRival(ctx context.Context, rival fleet.Member, starting bool) error {
	if !n.givesWay(rival, starting) {
		return nil
	}
	if !starting {
		// A copy that has just been started ends by itself; only one that stays
		// is worth ending for.
		timer := time.NewTimer(copyEnds)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
	}
	if !n.answers(ctx, rival) {
		n.members.RivalGone()
		return nil
	}
	n.members.Yield()
	if rival.ServerID == n.trust.serverID {
		return fmt.Errorf("server ID %s is that of the node at %s, which runs: two nodes run on copies of one data directory; "+
			"stop one, and give the other an empty data directory", rival.ServerID, rival.NodeAddr)
	}
	n.log.Warn("a live node has this one's name; this one waits for it to be gone",
		"node", n.cfg.NodeID, "other", rival.ServerID, "address", rival.NodeAddr, "for", nameWait)
	why := fmt.Sprintf("the live node %s at %s, which has this one's name, to be gone", rival.ServerID, rival.NodeAddr)
	n.waits.Store(&why)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < nameWait; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if !n.answers(ctx, rival) {
			n.members.RivalGone()
			return nil
		}
	}
	return fmt.Errorf("--node-id: the name %s is in use by the live node %s at %s: give this node another one, or stop that one",
		n.cfg.NodeID, rival.ServerID, rival.NodeAddr)
}

// givesWay decides between two nodes with one name: a node that is ready stays,
// and so does a member beside one that is none; one that starts gives way to a
// member. Of two that both start, their clocks decide, and of two that run on copies
// of one data directory always: both may have become ready in a partition.
func (n *Node) givesWay(rival fleet.Member, starting bool) bool {
	running := false
	select {
	case <-n.ready:
		running = true
	default:
	}
	switch {
	case running && rival.ServerID != n.trust.serverID, rival.ClusterID == "" && n.trust.clusterID() != "":
		return false
	case starting && rival.ClusterID != "":
		return true
	}
	own := n.started.Truncate(time.Second)
	if own.Equal(rival.Started) {
		return n.self().NodeAddr > rival.NodeAddr
	}
	return own.After(rival.Started)
}

// answers tells whether another node is still at its address: whoever listens
// there counts, unless it is this node or shows that it is a third one.
func (n *Node) answers(ctx context.Context, rival fleet.Member) bool {
	ctx, cancel := context.WithTimeout(ctx, raftTimeout)
	defer cancel()
	c, err := n.env.Dial(ctx, "tcp", rival.NodeAddr)
	if err != nil {
		return false
	}
	_ = c.Close()
	if itself(c, n.sockets.node.Addr()) {
		return false
	}
	id, err := n.port.WhoIs(ctx, rival.NodeAddr)
	return err == nil && (id == "" || id == rival.ServerID)
}

// itself tells whether a connection leads back to this node, which listens at
// own: the others know it by an address of this machine that it had before.
func itself(c net.Conn, own net.Addr) bool {
	from, ok := c.LocalAddr().(*net.TCPAddr)
	to, toOK := c.RemoteAddr().(*net.TCPAddr)
	port, portOK := own.(*net.TCPAddr)
	return ok && toOK && portOK && from.IP.Equal(to.IP) && to.Port == port.Port &&
		(port.IP.IsUnspecified() || port.IP.Equal(to.IP))
}

// appliedWatch remembers the highest index that other members said to have
// applied, second by second. It is safe for concurrent use.
type appliedWatch struct {
	mu    sync.Mutex
	heard []appliedAt // oldest first
}

type appliedAt struct {
	at    time.Time
	index uint64
}

func (w *appliedWatch) note(now time.Time, index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard = append(w.heard, appliedAt{now, index})
	for now.Sub(w.heard[0].at) > appliedKept {
		w.heard = w.heard[1:]
	}
}

// due is the highest index heard at least appliedAge ago.
func (w *appliedWatch) due(now time.Time) (highest uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.heard {
		if now.Sub(h.at) >= appliedAge {
			highest = max(highest, h.index)
		}
	}
	return highest
}

// othersApplied is the highest index that another member gossips now.
func (n *Node) othersApplied() (highest uint64) {
	for _, m := range n.members.Members() {
		if m.ServerID != n.trust.serverID && m.ClusterID == n.trust.clusterID() && m.Load.Applied > highest && !n.store.Removed(m.ServerID) {
			highest = m.Load.Applied
		}
	}
	return highest
}
