// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"muster/fleet"
	"muster/internal/pki"
	"muster/peerrpc"
	"muster/raftstore"
)

const (
	promiseName = "promise.json"
	// raftTimeout bounds one of Raft's calls to another node, and its dialling.
	raftTimeout = 2 * time.Second
	// raftConns is how many connections to a node Raft keeps for later.
	raftConns = 3
)

// openPeers prepares the port for other nodes and the promise of who may found
// the cluster.
func (n *Node) openPeers() error {
	joinKey, err := pki.JoinKey(n.trust.secret)
	if err != nil {
		return err
	}
	self := peerrpc.Candidate{ServerID: n.trust.serverID, Expect: n.cfg.Cluster.BootstrapExpect}
	n.promises, err = peerrpc.OpenPromises(peerrpc.PromisesOptions{
		Path: filepath.Join(n.cfg.DataDir, promiseName), Self: self, ClusterID: n.knownCluster,
	})
	if err != nil {
		return err
	}
	n.port, err = peerrpc.New(peerrpc.Options{
		Listener:   n.sockets.node,
		Dial:       n.env.Dial,
		ServerID:   n.trust.serverID,
		JoinKey:    joinKey,
		Membership: n.trust.member.Load,
		Resolve:    n.nodeAddr,
		Removed:    n.store.Removed,
		Handler:    stateHandler{n},
		Agents:     agentsHere{n},
		Awaits:     agentsHere{n},
		Issuer:     n,
		Promiser:   n.promises,
		Logger:     n.log.With("part", "peers"),
		Registerer: n.metrics,
	})
	return err
}

// nodeAddr is where a server was last seen, or "".
func (n *Node) nodeAddr(serverID string) string {
	for _, m := range n.members.Members() {
		if m.ServerID == serverID {
			return m.NodeAddr
		}
	}
	return ""
}

// knownCluster is the ID of the cluster that this node belongs to or has seen a
// member of, or "".
func (n *Node) knownCluster() string {
	if id := n.trust.clusterID(); id != "" {
		return id
	}
	for _, m := range n.members.Members() {
		if m.ClusterID != "" {
			return m.ClusterID
		}
	}
	return ""
}

// IssueNode makes the certificate of a node that has proved to know the secret,
// unless another live node has its name. The port calls it.
func (n *Node) IssueNode(_ context.Context, serverID string, key crypto.PublicKey) (peerrpc.Issued, error) {
	name, err := pki.NodeName(serverID)
	if err != nil {
		return peerrpc.Issued{}, err
	}
	for _, m := range n.members.Members() {
		if m.NodeID == name && m.ServerID != serverID && m.Alive {
			return peerrpc.Issued{}, fleet.Refuse(fleet.CodeConflict,
				"the name %s is in use by the live node %s at %s: give the new node another --node-id, or stop the old one", name, m.ServerID, m.NodeAddr)
		}
	}
	return n.trust.certify(serverID, key)
}

// raftTransport carries Raft over the node port. Raft's addresses are server
// IDs, so they stay when a node moves.
func (n *Node) raftTransport(string) raft.Transport {
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: raftStream{n.port.Raft()}, MaxPool: raftConns, Timeout: raftTimeout, Logger: hclog.NewNullLogger(),
	})
}

type raftStream struct{ *peerrpc.RaftLayer }

// Dial connects to the server whose ID is its address. Raft calls it.
func (s raftStream) Dial(server raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.RaftLayer.Dial(string(server), timeout)
}

// stateHandler answers other nodes about the replicated state.
type stateHandler struct{ n *Node }

// Propose puts another node's entry into the log.
func (h stateHandler) Propose(ctx context.Context, entry []byte) (answer []byte, index uint64, err error) {
	answer, index, err = h.n.store.HandleProposal(ctx, entry)
	return answer, index, toPeer(err)
}

// ReadIndex returns what a linearizable read must have applied.
func (h stateHandler) ReadIndex(ctx context.Context) (uint64, error) {
	index, err := h.n.store.HandleReadIndex(ctx)
	return index, toPeer(err)
}

// NodeState tells how far this node is.
func (h stateHandler) NodeState(context.Context) (fleet.NodeState, error) { return h.n.ownState(), nil }

func (n *Node) ownState() fleet.NodeState {
	state, status := n.store.HandleState(), n.store.Status()
	own := fleet.NodeState{
		Applied: state.Applied.Index, Hash: state.Applied.Hash, MarkIndex: state.Mark.Index, MarkHash: state.Mark.Hash,
		Format: state.Format, Term: status.Term, Leader: status.Leader, Ready: n.store.Ready(),
	}
	own.LogIndex, own.LogTerm = n.store.LogEnd()
	if m := n.trust.member.Load(); m != nil {
		own.CertificateEnd = m.Certificate.Leaf.NotAfter
	}
	return own
}

// nodeState asks any node, this one included, how far it is.
func (n *Node) nodeState(ctx context.Context, serverID string) (fleet.NodeState, error) {
	if serverID == n.trust.serverID {
		return n.ownState(), nil
	}
	return n.port.Client(serverID).NodeState(ctx)
}

// statePeers lets the store reach the other nodes' stores.
type statePeers struct{ n *Node }

// Propose has the entry put into the log by that member.
func (p statePeers) Propose(ctx context.Context, serverID string, entry []byte) (answer []byte, index uint64, err error) {
	answer, index, err = p.n.port.Client(serverID).Propose(ctx, entry)
	return answer, index, fromPeer(err)
}

// ReadIndex asks that member for it.
func (p statePeers) ReadIndex(ctx context.Context, serverID string) (uint64, error) {
	index, err := p.n.port.Client(serverID).ReadIndex(ctx)
	return index, fromPeer(err)
}

// State asks that member how far it is.
func (p statePeers) State(ctx context.Context, serverID string) (raftstore.PeerState, error) {
	s, err := p.n.port.Client(serverID).NodeState(ctx)
	return raftstore.PeerState{
		Applied: raftstore.HashAt{Index: s.Applied, Hash: s.Hash},
		Mark:    raftstore.HashAt{Index: s.MarkIndex, Hash: s.MarkHash}, Format: s.Format,
	}, fromPeer(err)
}

// toPeer says in the port's words that this node does not lead.
func toPeer(err error) error {
	if not, ok := errors.AsType[*raftstore.NotLeaderError](err); ok {
		return &peerrpc.NotLeaderError{Leader: not.Leader}
	}
	return err
}

// fromPeer says in the store's words that the other node does not lead.
func fromPeer(err error) error {
	if not, ok := errors.AsType[*peerrpc.NotLeaderError](err); ok {
		return fmt.Errorf("%w: %w", err, &raftstore.NotLeaderError{Leader: not.Leader})
	}
	return err
}
