// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// agentCreds is TLS as package credentials does it, and two things besides:
// handshakes are counted, and a handler can reach the connection of its stream in
// order to close it.
type agentCreds struct {
	credentials.TransportCredentials
	seconds prometheus.Observer
	failed  func(remote net.Addr, err error)
}

// agentAuth is what a handshake leaves with the connection.
type agentAuth struct {
	credentials.TLSInfo
	conn *agentConn
}

func newAgentCreds(config *tls.Config, seconds prometheus.Observer, failed func(remote net.Addr, err error)) *agentCreds {
	return &agentCreds{TransportCredentials: credentials.NewTLS(config), seconds: seconds, failed: failed}
}

// ServerHandshake is called by gRPC with a deadline on the connection.
func (c *agentCreds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	began := time.Now()
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		c.failed(raw.RemoteAddr(), err)
		return nil, nil, err
	}
	c.seconds.Observe(time.Since(began).Seconds())
	tlsInfo, isTLS := info.(credentials.TLSInfo)
	accepted, isOurs := raw.(*agentConn)
	if !isTLS || !isOurs { // never: they come from package credentials and from our listener
		_ = conn.Close()
		return nil, nil, errors.New("unexpected kind of connection")
	}
	return conn, agentAuth{TLSInfo: tlsInfo, conn: accepted}, nil
}

// Clone keeps what the embedded type would lose.
func (c *agentCreds) Clone() credentials.TransportCredentials {
	return &agentCreds{TransportCredentials: c.TransportCredentials.Clone(), seconds: c.seconds, failed: c.failed}
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
	s.connections.used(auth.conn)
	id, fleetWide, err := s.opts.Identify(auth.State)
	if err != nil {
		s.agentLogs.warn("client certificate refused", "remote", p.Addr.String(), "error", err)
		return peerInfo{}, s.refuse(reasonCertificate, codes.PermissionDenied, "the client certificate is not good for an agent of this fleet")
	}
	return peerInfo{conn: auth.conn, addr: p.Addr.String(), agentID: id, fleetWide: fleetWide}, nil
}

// connections are those that agents have open.
type connections struct {
	limit   int
	refused func()

	mu     sync.Mutex
	open   int
	closed bool
	fresh  map[*agentConn]struct{} // without a stream yet
}

func newConnections(limit int, refused func()) *connections {
	return &connections{limit: limit, refused: refused, fresh: make(map[*agentConn]struct{})}
}

// add takes a connection in; nil means that there are too many, or that no more
// are taken.
func (c *connections) add(conn net.Conn) *agentConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.open >= c.limit {
		return nil
	}
	c.open++
	a := &agentConn{Conn: conn, all: c}
	c.fresh[a] = struct{}{}
	return a
}

// used notes that a connection has a stream.
func (c *connections) used(a *agentConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.fresh, a)
}

func (c *connections) remove(a *agentConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.fresh, a)
	c.open--
}

func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

// closeFresh takes no more connections and closes those that never had a
// stream: gRPC would wait for their handshakes when it stops.
func (c *connections) closeFresh() {
	c.mu.Lock()
	c.closed = true
	fresh := slices.Collect(maps.Keys(c.fresh))
	c.mu.Unlock()
	for _, a := range fresh {
		_ = a.Close()
	}
}

// agentConn tells the others when it is closed.
type agentConn struct {
	net.Conn
	once sync.Once
	all  *connections
}

// Close may be called more than once.
func (a *agentConn) Close() error {
	a.once.Do(func() { a.all.remove(a) })
	return a.Conn.Close()
}

// limitedListener closes connections above the limit at once, so that a flood
// of them cannot take all files of the process.
type limitedListener struct {
	net.Listener
	all *connections
}

// Accept returns the next connection that is within the limit.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if a := l.all.add(conn); a != nil {
			return a, nil
		}
		l.all.refused()
		_ = conn.Close()
	}
}
