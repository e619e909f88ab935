// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"

	"muster/fleet"
	"muster/httpapi"
	"muster/peerrpc"
)

// others are the other live nodes of this node's cluster, as gossip sees them.
// It satisfies agentrpc.Claims.
type others struct {
	self    string                // this node's server ID
	cluster func() string         // the cluster's ID, "" before this node belongs to one
	members func() []fleet.Member // as gossip.Mesh has them
	client  func(serverID string) *peerrpc.Client
	servers func() ([]fleet.Server, error) // as the store's configuration has them
}

// others are those of this node; its parts are asked when they are needed.
func (n *Node) others() others {
	return others{
		self: n.trust.serverID, cluster: n.trust.clusterID, members: n.members.Members, client: n.port.Client,
		servers: n.store.Servers,
	}
}

// live are the members to ask. A node that is leaving is asked until it is gone,
// because it may still hold streams.
func (o others) live() []fleet.Member {
	cluster := o.cluster()
	if cluster == "" {
		return nil
	}
	var live []fleet.Member
	for _, m := range o.members() {
		if m.Alive && m.ServerID != "" && m.ServerID != o.self && m.ClusterID == cluster {
			live = append(live, m)
		}
	}
	return live
}

// Peers are the nodes to ask for agents, and the members that cannot be asked:
// they may hold streams all the same.
func (o others) Peers() []httpapi.Peer {
	var peers []httpapi.Peer
	named := make(map[string]bool)
	for _, m := range o.live() {
		peers = append(peers, httpapi.Peer{Name: m.NodeID, Calls: o.client(m.ServerID)})
		named[m.NodeID] = true
	}
	servers, err := o.servers()
	if err != nil {
		return peers // the store is not running
	}
	for _, s := range servers {
		if s.ID != o.self && !named[s.Name] {
			peers = append(peers, httpapi.Peer{Name: s.Name})
		}
	}
	return peers
}

// Nodes are the server IDs of the nodes that hear of this one's sessions.
func (o others) Nodes() []string {
	var ids []string
	for _, m := range o.live() {
		ids = append(ids, m.ServerID)
	}
	return ids
}

// Claim tells a node which sessions this one holds.
func (o others) Claim(ctx context.Context, serverID string, claims []fleet.Claim) (refused []fleet.Claim, err error) {
	return o.client(serverID).Claim(ctx, claims)
}

// agentsHere answers what other nodes ask about the agents whose streams this
// one holds. It satisfies peerrpc.AgentHandler and peerrpc.Awaits; the parts are
// there before the port serves.
type agentsHere struct{ n *Node }

// Search finds agents by what their documents say.
func (h agentsHere) Search(ctx context.Context, s fleet.AgentSearch) (fleet.AgentHits, error) {
	return h.n.api.SearchAgents(ctx, s)
}

// Sessions returns those of the agents' sessions that are here.
func (h agentsHere) Sessions(_ context.Context, agentIDs []string) ([]fleet.Session, error) {
	var sessions []fleet.Session
	for _, id := range agentIDs {
		if s, ok := h.n.agents.Session(id); ok {
			sessions = append(sessions, s)
		}
	}
	return sessions, nil
}

// Claim ends the sessions here that are older, and refuses for those that are newer.
func (h agentsHere) Claim(_ context.Context, claims []fleet.Claim) (refused []fleet.Claim, err error) {
	return h.n.agents.HandleClaims(claims), nil
}

// Reset closes those of the agents' streams that are here.
func (h agentsHere) Reset(_ context.Context, agentIDs []string) (closed []string, err error) {
	for id, err := range h.n.agents.Reset(agentIDs) {
		if err == nil {
			closed = append(closed, id)
		}
	}
	return closed, nil
}

// AwaitWritten tells when a task's command is written to a stream of this node.
func (h agentsHere) AwaitWritten(taskID string) (wait func(ctx context.Context) error, cancel func() (written bool)) {
	return h.n.agents.AwaitWritten(taskID)
}
