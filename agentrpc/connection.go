// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// agentCreds is TLS as package credentials does it, and two things besides:
// failures are counted, and a handler can reach the connection of its stream in
// order to close it.
type agentCreds struct {
	credentials.TransportCredentials
	failed func()
}

// agentAuth is what a handshake leaves with the connection.
type agentAuth struct {
	credentials.TLSInfo
	conn net.Conn
}

func newAgentCreds(config *tls.Config, failed func()) *agentCreds {
	return &agentCreds{TransportCredentials: credentials.NewTLS(config), failed: failed}
}

// ServerHandshake is called by gRPC with a deadline on the connection.
func (c *agentCreds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		c.failed()
		return nil, nil, err
	}
	tlsInfo, ok := info.(credentials.TLSInfo)
	if !ok { // never: it is package credentials' own type
		c.failed()
		_ = conn.Close()
		return nil, nil, credentials.ErrConnDispatched
	}
	return conn, agentAuth{TLSInfo: tlsInfo, conn: conn}, nil
}

// Clone keeps what the embedded type would lose.
func (c *agentCreds) Clone() credentials.TransportCredentials {
	return &agentCreds{TransportCredentials: c.TransportCredentials.Clone(), failed: c.failed}
}

// identify tells who is at the other end of a stream; the error is a status.
func (s *Server) identify(ctx context.Context) (peerInfo, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return peerInfo{}, s.refuse(reasonCertificate, codes.Unauthenticated, "the connection has no peer")
	}
	auth, ok := p.AuthInfo.(agentAuth)
	if !ok {
		return peerInfo{}, s.refuse(reasonCertificate, codes.Unauthenticated, "the connection has no TLS")
	}
	id, fleetWide, err := s.opts.Identify(auth.State)
	if err != nil {
		s.logs.warn("client certificate refused", "remote", p.Addr.String(), "error", err)
		return peerInfo{}, s.refuse(reasonCertificate, codes.PermissionDenied, "the client certificate is not good for an agent of this fleet")
	}
	return peerInfo{conn: auth.conn, addr: p.Addr.String(), agentID: id, fleetWide: fleetWide}, nil
}

// limitedListener closes connections above a limit at once, so that a flood of
// them cannot take all files of the process.
type limitedListener struct {
	net.Listener
	open    *atomic.Int64
	limit   int64
	refused func()
}

// Accept returns the next connection that is within the limit.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) > l.limit {
			l.open.Add(-1)
			l.refused()
			_ = conn.Close()
			continue
		}
		return &countedConn{Conn: conn, open: l.open}, nil
	}
}

// countedConn tells its listener when it is closed.
type countedConn struct {
	net.Conn
	once sync.Once
	open *atomic.Int64
}

// Close may be called more than once.
func (c *countedConn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}
