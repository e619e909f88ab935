// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"muster/fleet"
	"muster/internal/pki"
	"muster/peerrpc/peerrpcpb"
)

// maxClients bounds the peers that are called; clusters have tens of nodes.
const maxClients = 256

// Client calls one other member. It is a name, not a connection: it may be kept
// as long as one likes, and connects when it is first used.
type Client struct {
	port     *Port
	serverID string
}

// Client returns what calls the member with the server ID. All clients of one
// member share a connection.
func (p *Port) Client(serverID string) *Client { return &Client{port: p, serverID: serverID} }

// Propose has the node put an entry into the log. Errors are those of its
// Handler; fleet.ErrUnavailable and fleet.ErrTimeout, but not a *NotLeaderError,
// leave open whether it was written: propose the same entry again.
func (c *Client) Propose(ctx context.Context, entry []byte) (answer []byte, index uint64, err error) {
	var resp *peerrpcpb.ProposeResponse
	err = c.call(ctx, "Propose", func(ctx context.Context, p peerrpcpb.PeerClient) (err error) {
		resp, err = p.Propose(ctx, &peerrpcpb.ProposeRequest{Entry: entry})
		return err
	})
	return resp.GetAnswer(), resp.GetIndex(), err
}

// ReadIndex asks the leader for the index that a linearizable read here must
// have applied.
func (c *Client) ReadIndex(ctx context.Context) (uint64, error) {
	var resp *peerrpcpb.ReadIndexResponse
	err := c.call(ctx, "ReadIndex", func(ctx context.Context, p peerrpcpb.PeerClient) (err error) {
		resp, err = p.ReadIndex(ctx, &peerrpcpb.ReadIndexRequest{})
		return err
	})
	return resp.GetIndex(), err
}

// NodeState asks how far the node's state is.
func (c *Client) NodeState(ctx context.Context) (fleet.NodeState, error) {
	var resp *peerrpcpb.NodeStateResponse
	err := c.call(ctx, "NodeState", func(ctx context.Context, p peerrpcpb.PeerClient) (err error) {
		resp, err = p.NodeState(ctx, &peerrpcpb.NodeStateRequest{})
		return err
	})
	return fleet.NodeState{
		Applied: resp.GetApplied(), Hash: resp.GetHash(), MarkIndex: resp.GetMarkIndex(), MarkHash: resp.GetMarkHash(),
		Format: int(resp.GetFormat()), Term: resp.GetTerm(), Leader: resp.GetLeader(), Ready: resp.GetReady(),
		CertificateEnd: timeOf(resp.GetCertificateEnd()), LogIndex: resp.GetLogIndex(), LogTerm: resp.GetLogTerm(),
	}, err
}

// Renew makes a new key for this node and has the other one certify it. Only a
// certificate of the CA that this node knows already is accepted.
func (c *Client) Renew(ctx context.Context) (*Membership, error) {
	m := c.port.opts.Membership()
	if m == nil {
		return nil, fmt.Errorf("renew the node certificate: this node is not a member: %w", fleet.ErrUnavailable)
	}
	key, public, err := newNodeKey()
	if err != nil {
		return nil, err
	}
	var resp *peerrpcpb.Certificate
	err = c.call(ctx, "Renew", func(ctx context.Context, p peerrpcpb.PeerClient) (err error) {
		resp, err = p.Renew(ctx, &peerrpcpb.RenewRequest{PublicKey: public})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("renew the node certificate: %w", err)
	}
	renewed, err := membershipFrom(resp, c.port.opts.ServerID, key)
	switch {
	case err != nil:
		return nil, fmt.Errorf("renew the node certificate: node %s answered: %w", c.serverID, err)
	case renewed.ClusterID != m.ClusterID || !renewed.CA.Equal(m.CA):
		return nil, fmt.Errorf("renew the node certificate: node %s answered with another CA", c.serverID)
	}
	return renewed, nil
}

// call bounds, measures and translates one call.
func (c *Client) call(ctx context.Context, method string, do func(context.Context, peerrpcpb.PeerClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.port.opts.Tuning.CallTimeout)
	defer cancel()
	shared, err := c.port.clients.take(c.serverID)
	if err != nil {
		return fmt.Errorf("node %s: %w", c.serverID, err)
	}
	defer c.port.clients.release(shared)
	start := time.Now()
	outcome, err := fromStatus(ctx, c.serverID, do(ctx, shared.peer))
	c.port.metrics.calls.WithLabelValues(method, outcome).Observe(time.Since(start).Seconds())
	return err
}

// newNodeKey returns a private key and its public half as it is sent.
func newNodeKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate a node key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("encode a node key: %w", err)
	}
	return key, public, nil
}

// membershipFrom checks that an issued certificate is for this node and its key.
func membershipFrom(c *peerrpcpb.Certificate, serverID string, key *ecdsa.PrivateKey) (*Membership, error) {
	cas, err := pki.ParseCertificates(c.GetCa())
	if err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	certs, err := pki.ParseCertificates(c.GetNode())
	if err != nil {
		return nil, fmt.Errorf("node certificate: %w", err)
	}
	node, err := pki.VerifyNode(certs, x509.VerifyOptions{
		Roots: pki.Pool(cas[0]), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: time.Now(),
	})
	want := pki.NodeIdentity{ClusterID: c.GetClusterId(), Name: node.Name, ServerID: serverID}
	switch {
	case err != nil:
		return nil, fmt.Errorf("node certificate: %w", err)
	case node != want:
		return nil, fmt.Errorf("the certificate is for node %q of cluster %q", node.ServerID, node.ClusterID)
	case !key.PublicKey.Equal(certs[0].PublicKey):
		return nil, fmt.Errorf("the certificate is for another key")
	}
	return &Membership{
		ClusterID: node.ClusterID, CA: cas[0],
		Certificate: &tls.Certificate{Certificate: [][]byte{certs[0].Raw}, PrivateKey: key, Leaf: certs[0]},
	}, nil
}

// clients are the shared connections, by server ID.
type clients struct {
	port *Port

	mu     sync.Mutex
	closed bool
	byID   map[string]*sharedClient
}

type sharedClient struct {
	conn *grpc.ClientConn
	peer peerrpcpb.PeerClient

	// Guarded by clients.mu.
	users int
	used  time.Time
}

func newClients(p *Port) *clients { return &clients{port: p, byID: map[string]*sharedClient{}} }

// take returns the client of a member and keeps it open until release.
func (s *clients) take(serverID string) (*sharedClient, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.byID[serverID]
	switch {
	case s.closed:
		return nil, fleet.ErrClosed
	case ok:
	case s.port.opts.Resolve(serverID) == "":
		return nil, errNoAddress()
	case len(s.byID) >= maxClients:
		return nil, fmt.Errorf("%d nodes are being called already: %w", maxClients, fleet.ErrUnavailable)
	default:
		conn, err := s.port.newClientConn(serverID) // does not connect yet
		if err != nil {
			return nil, err
		}
		c = &sharedClient{conn: conn, peer: peerrpcpb.NewPeerClient(conn)}
		s.byID[serverID] = c
	}
	c.users++
	return c, nil
}

func (s *clients) release(c *sharedClient) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.users--
	c.used = time.Now()
}

// sweep closes the clients that were not used for long or whose node is gone.
func (s *clients) sweep(now time.Time) {
	var gone []*sharedClient
	s.mu.Lock()
	for id, c := range s.byID {
		idle := c.users == 0 && now.Sub(c.used) >= s.port.opts.Tuning.IdleTimeout
		if idle || s.port.opts.Resolve(id) == "" {
			delete(s.byID, id)
			gone = append(gone, c)
		}
	}
	s.mu.Unlock()
	for _, c := range gone {
		_ = c.conn.Close()
	}
}

func (s *clients) closeAll() {
	s.mu.Lock()
	s.closed = true
	all := s.byID
	s.byID = map[string]*sharedClient{}
	s.mu.Unlock()
	for _, c := range all {
		_ = c.conn.Close()
	}
}

func (p *Port) newClientConn(serverID string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///peer",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			c, err := p.dial(ctx, protoPeer, serverID)
			if err != nil {
				return nil, err
			}
			return c, nil
		}),
		grpc.WithTransportCredentials(finished{}),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(p.opts.Tuning.IdleTimeout),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		grpc.WithMaxHeaderListSize(maxHeaderBytes),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: p.opts.Tuning.HandshakeTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: clientPingAfter, Timeout: pingTimeout, PermitWithoutStream: true}),
	)
}
