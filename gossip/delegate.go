// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"muster/fleet"
)

// delegate is what memberlist calls. Most calls come with memberlist's own lock
// held, so nothing here calls memberlist back, or blocks.
type delegate struct{ g *Mesh }

// NodeMeta returns the facts about this node. They were measured before.
func (d delegate) NodeMeta(int) []byte { return *d.g.meta.Load() }

// NotifyMsg takes a message of another node.
func (d delegate) NotifyMsg(b []byte) {
	g := d.g
	if len(b) == 0 {
		g.metrics.ignore(reasonMalformed)
		return
	}
	switch b[0] {
	case kindLoad:
		node, load, err := decodeLoad(b[1:])
		if err != nil || node == g.opts.Self.NodeID {
			g.metrics.ignore(reasonMalformed)
			return
		}
		g.metrics.ignore(g.view.setLoad(node, load, time.Now()))
	case kindLeaving:
		g.view.setLeaving(string(b[1:]))
	case kindQuestion:
		g.asked(b[1:])
	case kindReports:
		g.told(b[1:], time.Now())
	case kindRegistration:
		r, err := decodeRegistration(b[1:])
		if err != nil {
			g.metrics.ignore(reasonMalformed)
			return
		}
		holds, news, ignored := g.registry.merge(r, time.Now())
		g.metrics.ignore(ignored)
		if news {
			g.spread(holds)
		}
	default:
		g.metrics.ignore(reasonUnknownKind)
	}
}

// asked notes what another node asks for.
func (g *Mesh) asked(b []byte) {
	q, err := decodeQuestion(b)
	if err != nil || q.asker == g.opts.Self.NodeID {
		g.metrics.ignore(reasonMalformed)
		return
	}
	select {
	case g.questions <- q:
	default:
		g.metrics.ignore(reasonBusy)
	}
}

// told takes reports that this node has asked for. Several nodes were asked, so
// that most come more than once.
func (g *Mesh) told(b []byte, now time.Time) {
	reports, err := decodeReports(b)
	if err != nil {
		g.metrics.ignore(reasonMalformed)
		return
	}
	for _, k := range reports {
		if k.node == g.opts.Self.NodeID {
			g.metrics.ignore(reasonMalformed)
			continue
		}
		if ignored := g.view.setLoad(k.node, k.load, now.Add(-k.age)); ignored != reasonStale {
			g.metrics.ignore(ignored)
		}
	}
}

// spread queues a registration for the other nodes. A later one about the same
// service replaces it, so the queue is no longer than the registry. A lone node
// tells its registry to whom it meets.
func (g *Mesh) spread(r registration) {
	if g.view.countAlive() < 2 {
		return
	}
	g.queue.QueueBroadcast(&broadcast{registration: r, queued: time.Now()})
}

// GetBroadcasts returns registrations that fit into a packet.
func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.g.queue.GetBroadcasts(overhead, limit)
}

// LocalState returns the service registry for a full comparison.
func (d delegate) LocalState(bool) []byte {
	state, err := d.g.registry.state(time.Now())
	if err != nil {
		d.g.logger.Error("could not compare the service registry with another node", "error", err)
		return nil
	}
	return state
}

// MergeRemoteState takes the other side of a full comparison. News in it are not
// passed on: nodes that lack them compare too, and a newcomer would otherwise
// repeat the whole registry to those who told it.
func (d delegate) MergeRemoteState(b []byte, _ bool) {
	all, err := decodeState(b)
	if err != nil {
		d.g.metrics.ignore(reasonMalformed)
		return
	}
	now := time.Now()
	for _, r := range all {
		_, _, ignored := d.g.registry.merge(r, now)
		d.g.metrics.ignore(ignored)
	}
}

// NotifyAlive refuses nodes that do not belong here.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	facts, err := fleet.DecodeMeta(n.Meta)
	if err != nil {
		return err
	}
	if facts.NodeID != n.Name {
		return fmt.Errorf("node %q calls itself %q: %w", n.Name, facts.NodeID, fleet.ErrInvalid)
	}
	own, err := fleet.DecodeMeta(*d.g.meta.Load())
	if err != nil {
		return err
	}
	if own.ClusterID != "" && facts.ClusterID != "" && own.ClusterID != facts.ClusterID {
		if d.g.foreign.now() {
			d.g.logger.Warn("a node of another cluster has the same secret; it is ignored",
				"node", n.Name, "address", n.Address(), "its_cluster", facts.ClusterID, "our_cluster", own.ClusterID)
		}
		return fmt.Errorf("node %q is of cluster %q: %w", n.Name, facts.ClusterID, fleet.ErrForbidden)
	}
	return nil
}

// NotifyJoin notes a node that is there, new or again.
func (d delegate) NotifyJoin(n *memberlist.Node) { d.notify(n) }

// NotifyUpdate notes a node's new facts.
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.notify(n) }

func (d delegate) notify(n *memberlist.Node) {
	if n.Name == d.g.opts.Self.NodeID {
		return // what this node is, it knows best
	}
	facts, err := fleet.DecodeMeta(n.Meta)
	ip, ok := netip.AddrFromSlice(n.Addr)
	if err != nil || !ok {
		d.g.metrics.ignore(reasonMalformed) // NotifyAlive has let it pass, so this does not happen
		return
	}
	addr := netip.AddrPortFrom(ip.Unmap(), n.Port)
	isNew, ignored := d.g.view.setAlive(facts, addr)
	d.g.metrics.ignore(ignored)
	if isNew {
		d.g.logger.Info("node joined", "node", n.Name, "address", addr.String(), "version", facts.Version)
	}
}

// NotifyLeave notes that a node is gone.
func (d delegate) NotifyLeave(n *memberlist.Node) {
	if n.Name == d.g.opts.Self.NodeID {
		return
	}
	switch d.g.view.setGone(n.Name, time.Now()) {
	case fateNone:
	case fateLeft:
		d.g.logger.Info("node left", "node", n.Name, "address", n.Address())
	case fateDead:
		d.g.tellDead(n.Name, n.Address())
	case fateDoubted:
		d.g.logger.Info("node answers no probes, but its reports come", "node", n.Name, "address", n.Address())
	}
}

func (g *Mesh) tellDead(node, address string) {
	g.logger.Warn("node does not answer any more and counts as dead", "node", node, "address", address)
}

// NotifyConflict tells of two nodes with one name.
func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	if facts, err := fleet.DecodeMeta(other.Meta); err == nil && existing.Name == d.g.opts.Self.NodeID {
		select {
		case d.g.rivals <- facts:
		default: // the last one has not been looked at yet
		}
	}
	if d.g.conflicts.now() {
		d.g.logger.Error("two live nodes have the same name; stop one, or give it another --node-id",
			"node", existing.Name, "address", existing.Address(), "other_address", other.Address())
	}
}

// broadcast is a registration on its way.
type broadcast struct {
	registration registration
	queued       time.Time
}

// Invalidates tells whether this one replaces another.
func (b *broadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(*broadcast)
	return ok && o.registration.key() == b.registration.key()
}

// Message returns the bytes to send, with the age of now.
func (b *broadcast) Message() []byte {
	r := b.registration
	r.AgeMS += time.Since(b.queued).Milliseconds()
	message, err := encodeRegistration(r)
	if err != nil {
		return nil // Check has seen to it that extra is JSON, and nothing else can fail
	}
	return message
}

// Finished does nothing: nobody waits.
func (b *broadcast) Finished() {}

// seldom lets a log line through once a minute.
type seldom struct {
	mu   sync.Mutex
	last time.Time
}

func (s *seldom) now() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.last.IsZero() && time.Since(s.last) < time.Minute {
		return false
	}
	s.last = time.Now()
	return true
}
