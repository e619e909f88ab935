// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"muster/internal/pki"
)

// The protocols of the port.
const (
	protoRaft  = "muster-raft/1"
	protoPeer  = "muster-peer/1"
	protoJoin  = "muster-join/1"
	protoKafka = "muster-kafka/1"
)

func protocols() []string { return []string{protoRaft, protoPeer, protoJoin, protoKafka} }

// conn is a connection between members whose handshake is over.
type conn struct {
	*tls.Conn
	peer  pki.NodeIdentity
	proto string
	until time.Time // the end of the peer's certificate
	all   *connections
}

// Close may be called more than once.
func (c *conn) Close() error {
	c.all.remove(c)
	return c.Conn.Close()
}

// accepting returns the TLS settings of one accepted connection. Certificates
// are looked up for each, so they can be replaced at any time. The peer's is
// asked for here and judged by greet, which can say what is wrong with it.
// When the handshake fails, why is the reason to count.
func (p *Port) accepting(m *Membership, why *reason) *tls.Config {
	base := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{*p.anonymous},
		NextProtos:             protocols(),
		SessionTicketsDisabled: true,
	}
	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		i := slices.IndexFunc(hello.SupportedProtos, func(s string) bool { return slices.Contains(protocols(), s) })
		if i < 0 {
			*why = reasonProtocol
			if len(hello.SupportedProtos) == 0 {
				return nil, errors.New("the client names no protocol")
			}
			return nil, nil // package tls refuses it in words
		}
		config := base.Clone()
		config.GetConfigForClient = nil
		config.NextProtos = hello.SupportedProtos[i : i+1]
		if hello.SupportedProtos[i] != protoJoin {
			config.ClientAuth = tls.RequireAnyClientCert
			if m != nil {
				config.Certificates = []tls.Certificate{*m.Certificate}
			}
		}
		return config, nil
	}
	return base
}

// dialling returns the TLS settings of a connection to another node. cert is
// nil for joining.
func dialling(proto string, cert *tls.Certificate) *tls.Config {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{proto},
		// Nodes are known by their IDs, not by the names of their hosts: greet
		// checks the chain and the ID; for joining, the proofs take its place.
		InsecureSkipVerify: true,
	}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	return config
}

// greet judges the certificate of the other side, tells it the verdict, and
// hears its own. Only a connection that both welcome is returned. expect is the
// server ID of the node that was dialled, "" on the accepting side. What admit
// says about a good certificate counts as the verdict; nil says welcome.
func (p *Port) greet(t *tls.Conn, m *Membership, expect string, admit func() (verdict, error)) (*conn, error) {
	state := t.ConnectionState()
	peer, mine, err := p.judge(state, m, expect)
	if err == nil && admit != nil {
		mine, err = admit()
	}
	if _, werr := t.Write([]byte{byte(mine)}); werr != nil && err == nil {
		return nil, fmt.Errorf("greet: %w", werr)
	}
	var theirs [1]byte
	_, rerr := io.ReadFull(t, theirs[:])
	heard := rerr == nil && theirs[0] != byte(welcome)
	switch v := verdict(theirs[0]); {
	case heard && err == nil && v == removed:
		select {
		case p.expelled <- peer.ServerID:
		default: // one is enough
		}
		fallthrough
	case heard && (err == nil || v == notMember):
		return nil, &refusedError{v.reason(), fmt.Sprintf("it refuses this node: %s", v.words())}
	case err != nil:
		return nil, &refusedError{mine.reason(), err.Error()}
	case rerr != nil:
		return nil, fmt.Errorf("greet: %w", rerr)
	}
	return &conn{
		Conn: t, peer: peer, proto: state.NegotiatedProtocol,
		until: state.PeerCertificates[0].NotAfter, all: p.conns,
	}, nil
}

// judge tells who the other side is and whether it may speak to this node. An
// error goes with every verdict but welcome.
func (p *Port) judge(state tls.ConnectionState, m *Membership, expect string) (pki.NodeIdentity, verdict, error) {
	var none pki.NodeIdentity
	if m == nil {
		return none, notMember, errors.New("this node is not a member of a cluster yet")
	}
	chain := state.PeerCertificates
	if len(chain) == 0 { // never: package tls asked for one
		return none, noIdentity, errors.New("it showed no certificate")
	}
	// What the certificate claims is looked at first: "another cluster" says more
	// than "an unknown authority". It is believed only after the signature was checked.
	claimed, err := pki.NodeOf(chain[0])
	switch {
	case err != nil:
		return none, noIdentity, fmt.Errorf("its certificate names no node: %w", err)
	case claimed.ClusterID != m.ClusterID:
		return none, wrongCluster, fmt.Errorf("it is node %q of cluster %q, this one belongs to %q", claimed.ServerID, claimed.ClusterID, m.ClusterID)
	}
	usage := x509.ExtKeyUsageClientAuth
	if expect != "" {
		usage = x509.ExtKeyUsageServerAuth
	}
	peer, err := pki.VerifyNode(chain, x509.VerifyOptions{
		Roots: pki.Pool(m.CA), KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: time.Now(),
	})
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return none, notValidNow, fmt.Errorf("the certificate of node %q is valid from %s to %s only: compare the clocks of both",
			claimed.ServerID, chain[0].NotBefore.UTC().Format(time.RFC3339), chain[0].NotAfter.UTC().Format(time.RFC3339))
	}
	switch {
	case err != nil:
		return none, wrongCA, fmt.Errorf("the certificate of node %q is not from this cluster's CA: %w", claimed.ServerID, err)
	case expect != "" && peer.ServerID != expect:
		return none, wrongNode, fmt.Errorf("it is node %q, not %q", peer.ServerID, expect)
	case peer.ServerID == p.opts.ServerID:
		return none, wrongNode, fmt.Errorf("it uses this node's own identity, %q", peer.ServerID)
	case p.opts.Removed != nil && p.opts.Removed(peer.ServerID):
		return none, removed, fmt.Errorf("node %q was removed from the cluster", peer.ServerID)
	}
	return peer, welcome, nil
}

// dial opens a connection of a protocol to another member.
func (p *Port) dial(ctx context.Context, proto, serverID string) (*conn, error) {
	m := p.opts.Membership()
	if m == nil {
		return nil, &refusedError{reasonNotMember, "this node is not a member of a cluster yet"}
	}
	addr := p.opts.Resolve(serverID)
	if addr == "" {
		return nil, fmt.Errorf("node %q: %w", serverID, errNoAddress())
	}
	ctx, cancel := context.WithTimeout(ctx, p.opts.Tuning.HandshakeTimeout)
	defer cancel()
	t, err := p.shake(ctx, addr, dialling(proto, m.Certificate))
	if err != nil {
		return nil, fmt.Errorf("node %q at %s: %w", serverID, addr, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = t.NetConn().Close() })
	c, err := p.greet(t, m, serverID, nil)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = t.Close()
		err = fmt.Errorf("node %q at %s: %w", serverID, addr, err)
		if refused, ok := errors.AsType[*refusedError](err); ok {
			p.metrics.refused.WithLabelValues(sideDialled, string(refused.reason)).Inc()
			p.complaints.WarnOf("connection to a node refused", serverID+" "+string(refused.reason),
				"server_id", serverID, "address", addr, "protocol", proto, "reason", refused.reason, "error", refused)
		}
		return nil, err
	}
	if p.conns.add(c) != nil {
		_ = t.Close()
		return nil, fmt.Errorf("node %q at %s: %w", serverID, addr, net.ErrClosed)
	}
	_ = t.SetDeadline(time.Time{})
	p.metrics.connections.WithLabelValues(sideDialled, proto).Inc()
	return c, nil
}

// shake dials and does the TLS handshake. The deadline of ctx stays on the
// connection.
func (p *Port) shake(ctx context.Context, addr string, config *tls.Config) (*tls.Conn, error) {
	raw, err := p.opts.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return p.shakeOn(ctx, raw, config)
}

// shakeOn does the handshake on a connection, and closes it if that fails.
func (*Port) shakeOn(ctx context.Context, raw net.Conn, config *tls.Config) (*tls.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = raw.SetDeadline(deadline)
	}
	t := tls.Client(raw, config)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return t, nil
}
