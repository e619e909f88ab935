// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// wordKept is how long a member's word that this node was removed counts; it
	// is repeated at every try to reach that member.
	wordKept = time.Minute
	// forkAfter is longer than a removed node takes to end.
	forkAfter = 10 * time.Second
	// loadsWithin bounds how long a recovery waits to hear whether a leader lives.
	loadsWithin = 3 * time.Second
)

// apart is what this node knows of servers and members that do not count each
// other in. It is safe for concurrent use.
type apart struct {
	mu   sync.Mutex
	by   string // the member that last said that this node was removed
	told time.Time
	// outsider is a server that was removed and goes on with a leader of its own,
	// since then.
	outsider string
	since    time.Time
}

func (a *apart) note(by string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.by, a.told = by, time.Now()
}

// saysRemoved is a member that said lately that this node was removed, or "".
func (a *apart) saysRemoved() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.told) > wordKept {
		return ""
	}
	return a.by
}

func (a *apart) see(outsider string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.outsider == "" || outsider == "" {
		a.since = time.Now()
	}
	a.outsider = outsider
}

// fork says in words that two parts of the cluster go on without each other, or "".
func (a *apart) fork() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.outsider == "" || time.Since(a.since) < forkAfter {
		return ""
	}
	return fmt.Sprintf("the cluster is forked: %s was removed by a recovery, but runs and has a leader. Decide which part is right, stop the nodes of the other, "+
		"move their data directories away and let them join again", a.outsider)
}

// watchRemoval ends this node when it was removed from the cluster: by its own
// state, or by a member's word, because after a recovery from another node its own
// state knows nothing of it. A node that serves, and has a leader, does not end on
// a word alone: that may come from a recovery by mistake.
func (n *Node) watchRemoval(ctx context.Context) error {
	tick := time.NewTicker(dutyEvery)
	defer tick.Stop()
	var said repeat
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case by := <-n.port.Expelled():
			n.apart.note(by)
		case <-tick.C:
		}
		if n.store.Removed(n.trust.serverID) {
			return errRemoved(n)
		}
		if by := n.apart.saysRemoved(); by != "" {
			if !n.serves() {
				return fmt.Errorf("%w (%s says so)", errRemoved(n), by)
			}
			if text := removedBy(by); said.due(text) {
				n.log.Error("two parts of the cluster go on without each other", "why", text)
			}
		}
		n.apart.see(n.outsider())
		if text := n.apart.fork(); text != "" && said.due(text) {
			n.log.Error("two parts of the cluster go on without each other", "why", text)
		}
	}
}

func removedBy(by string) string {
	return by + " says that this server was removed, and goes on without it: if it was recovered with --recover by mistake, empty its data directory and let it join again, else stop this node"
}

// serves tells whether this node is ready and has, or had just now, a leader.
func (n *Node) serves() bool {
	select {
	case <-n.ready:
	default:
		return false
	}
	status := n.store.Status()
	return status.Leader != "" || time.Duration(status.LeaderContactAgeMS)*time.Millisecond < leaderlessAfter
}

// outsider is a live server that was removed and has a leader all the same, or "".
func (n *Node) outsider() string {
	for _, m := range n.members.Members() {
		fresh := m.Alive && time.Since(m.ReportedAt) < forkAfter/2
		if fresh && m.Load.Ready && !m.Load.Leaderless && m.ClusterID == n.trust.clusterID() && n.store.Removed(m.ServerID) {
			return m.ServerID
		}
	}
	return ""
}

// recoverAlone makes this node the only voter, unless it hears of a leader: then
// the majority lives, and the cluster would be forked. Nor if another node that is
// left has a log which goes further: that one has more of what was acknowledged.
func (n *Node) recoverAlone(ctx context.Context) error {
	tick := time.NewTicker(lookEvery / 5)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < loadsWithin; {
		silent := 0
		for _, m := range n.members.Members() {
			switch {
			case !m.Alive || m.ServerID == n.trust.serverID || m.ClusterID == "" || m.ClusterID != n.trust.clusterID():
			case m.ReportedAt.IsZero():
				silent++
			case !m.Load.Leaderless:
				return fmt.Errorf("--recover: node %s has a leader, so the majority lives and would be forked off: start this node without --recover", m.NodeID)
			}
		}
		if silent == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	voters, err := n.store.Voters()
	if err != nil {
		return err
	}
	if up := n.votersUp(voters); 2*up > len(voters) {
		return fmt.Errorf("--recover: %d of %d voters are up with this node, which is a majority: start this node without --recover", up, len(voters))
	}
	if err := n.furthestLog(ctx); err != nil {
		return err
	}
	return n.store.Recover()
}

// votersUp counts this node and those that it sees.
func (n *Node) votersUp(voters []string) (up int) {
	for _, id := range voters {
		alive := id == n.trust.serverID
		for _, m := range n.members.Members() {
			alive = alive || m.Alive && m.ServerID == id
		}
		if alive {
			up++
		}
	}
	return up
}

// furthestLog refuses when a live member has more in its log than this node.
func (n *Node) furthestLog(ctx context.Context) error {
	index, term := n.store.LogEnd()
	for _, m := range n.members.Members() {
		if !m.Alive || m.ServerID == n.trust.serverID || m.ClusterID != n.trust.clusterID() {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, raftTimeout)
		other, err := n.port.Client(m.ServerID).NodeState(ctx)
		cancel()
		switch {
		case err != nil:
			n.log.Warn("a node could not be asked how far its log goes", "node", m.NodeID, "error", err)
		case other.LogTerm > term || other.LogTerm == term && other.LogIndex > index:
			return fmt.Errorf("--recover: the log of node %s goes to index %d of term %d, this one's to %d of term %d: recover that node, and start this one without --recover",
				m.NodeID, other.LogIndex, other.LogTerm, index, term)
		}
	}
	return nil
}
