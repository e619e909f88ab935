// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"crypto/x509"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"muster/fleet"
	"muster/peerrpc/peerrpcpb"
)

const (
	// maxMessageBytes allows for an entry of 256 KiB, and for what is found among
	// a million agents.
	maxMessageBytes = 4 << 20
	// maxCallsPerPeer bounds the calls of one peer that are served at once.
	maxCallsPerPeer = 1024
	maxHeaderBytes  = 16 << 10
	// A peer that does not answer a ping is gone. gRPC's clients ping every 10 s
	// at the most often, servers as they like.
	serverPingAfter  = 5 * time.Second
	clientPingAfter  = 10 * time.Second
	pingTimeout      = 3 * time.Second
	minPeerPing      = 2 * time.Second
	peerWindowBytes  = 1 << 20
	maxPublicKeySize = 1 << 10
)

// peerServer answers calls of other members.
type peerServer struct {
	peerrpcpb.UnimplementedPeerServer
	port *Port
}

func (p *Port) newServer() *grpc.Server {
	server := grpc.NewServer(
		grpc.Creds(finished{}),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxConcurrentStreams(maxCallsPerPeer),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.StaticConnWindowSize(peerWindowBytes),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: serverPingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPeerPing, PermitWithoutStream: true}),
	)
	peerrpcpb.RegisterPeerServer(server, &peerServer{port: p})
	return server
}

// Propose is part of the service Peer.
func (s *peerServer) Propose(ctx context.Context, req *peerrpcpb.ProposeRequest) (*peerrpcpb.ProposeResponse, error) {
	answer, index, err := s.port.opts.Handler.Propose(ctx, req.GetEntry())
	if err != nil {
		return nil, toStatus(err)
	}
	return &peerrpcpb.ProposeResponse{Answer: answer, Index: index}, nil
}

// ReadIndex is part of the service Peer.
func (s *peerServer) ReadIndex(ctx context.Context, _ *peerrpcpb.ReadIndexRequest) (*peerrpcpb.ReadIndexResponse, error) {
	index, err := s.port.opts.Handler.ReadIndex(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	return &peerrpcpb.ReadIndexResponse{Index: index}, nil
}

// NodeState is part of the service Peer.
func (s *peerServer) NodeState(ctx context.Context, _ *peerrpcpb.NodeStateRequest) (*peerrpcpb.NodeStateResponse, error) {
	n, err := s.port.opts.Handler.NodeState(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	return &peerrpcpb.NodeStateResponse{
		Applied: n.Applied, Hash: n.Hash, MarkIndex: n.MarkIndex, MarkHash: n.MarkHash,
		Format: uint32(n.Format), Term: n.Term, Leader: n.Leader, Ready: n.Ready,
		CertificateEnd: unixOf(n.CertificateEnd), LogIndex: n.LogIndex, LogTerm: n.LogTerm,
	}, nil
}

// unixOf is the moment as it is sent, 0 for the zero time.
func unixOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func timeOf(unix int64) time.Time {
	if unix == 0 {
		return time.Time{}
	}
	return time.Unix(unix, 0).UTC()
}

// Renew is part of the service Peer. A node gets certificates for itself only.
func (s *peerServer) Renew(ctx context.Context, req *peerrpcpb.RenewRequest) (*peerrpcpb.Certificate, error) {
	from, ok := PeerFrom(ctx)
	if !ok {
		return nil, toStatus(fleet.Refuse(fleet.CodeUnauthenticated, "the connection names no node"))
	}
	cert, err := s.port.issue(ctx, askRenewal, from.ServerID, req.GetPublicKey())
	return cert, toStatus(err)
}

// What nodes ask this one for, as values of a metric's label.
const (
	askEnrolment = "enrolment"
	askRenewal   = "renewal"
	askPromise   = "promise"
)

// issue has a certificate made for a node.
func (p *Port) issue(ctx context.Context, what, serverID string, publicKey []byte) (*peerrpcpb.Certificate, error) {
	issued, err := func() (Issued, error) {
		if len(publicKey) > maxPublicKeySize {
			return Issued{}, fleet.Invalid("public_key", "is %d bytes long", len(publicKey))
		}
		key, err := x509.ParsePKIXPublicKey(publicKey)
		if err != nil {
			return Issued{}, fleet.Invalid("public_key", "cannot be read: %v", err)
		}
		return p.opts.Issuer.IssueNode(ctx, serverID, key)
	}()
	p.asked(what, err)
	if err != nil {
		p.complaints.WarnOf("certificate for a node not issued", what+" "+serverID, "server_id", serverID, "error", err)
		return nil, err
	}
	p.opts.Logger.Info("certificate for a node issued", "server_id", serverID, "asked_by", what)
	return &peerrpcpb.Certificate{ClusterId: issued.ClusterID, Ca: issued.CA, Node: issued.Node}, nil
}

func (p *Port) asked(what string, err error) {
	outcome, _ := fromStatus(context.Background(), "", toStatus(err))
	p.metrics.asks.WithLabelValues(what, outcome).Inc()
}
