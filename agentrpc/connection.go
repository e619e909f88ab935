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
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
)

// agentCreds is TLS as package credentials does it, and some things besides:
// handshakes are counted, a handler can reach the connection of its stream in
// order to close it, and an idle connection holds little memory. For that, all of
// them share their settings, which package credentials copies for each.
type agentCreds struct {
	credentials.TransportCredentials // for what is not a handshake
	tls                              *tls.Config
	identify                         func(tls.ConnectionState) (agentID string, fleetWide bool, err error)
	gate                             *gate
	seconds                          prometheus.Observer
	failed                           func(remote net.Addr, err error)
}

var (
	errUnexpectedConn = errors.New("unexpected kind of connection")
	errNoHTTP2        = errors.New("the client does not ask for HTTP/2")
)

// agentAuth is what a handshake leaves with the connection.
type agentAuth struct {
	credentials.CommonAuthInfo
	conn      *leanConn
	agentID   string
	fleetWide bool
	refused   error // why the certificate is not good for an agent
}

// AuthType names the protocol.
func (agentAuth) AuthType() string { return "tls" }

func newAgentCreds(opts *Options, g *gate, seconds prometheus.Observer, failed func(remote net.Addr, err error)) *agentCreds {
	return &agentCreds{TransportCredentials: credentials.NewTLS(opts.TLS), tls: opts.TLS, identify: opts.Identify, gate: g, seconds: seconds, failed: failed}
}

// ServerHandshake is called by gRPC with a deadline on the connection.
func (c *agentCreds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	began := time.Now()
	accepted, isOurs := raw.(*agentConn)
	if !isOurs { // never: it comes from our listener
		return nil, nil, errUnexpectedConn
	}
	accepted.passage.begin(c.gate)
	conn := tls.Server(raw, c.tls)
	err := conn.Handshake()
	accepted.passage.end()
	state := conn.ConnectionState()
	if err == nil && state.NegotiatedProtocol != "h2" {
		err = errNoHTTP2
	}
	if err != nil {
		_ = conn.Close()
		c.failed(raw.RemoteAddr(), err)
		return nil, nil, err
	}
	c.seconds.Observe(time.Since(began).Seconds())
	lean := &leanConn{Conn: conn, raw: accepted}
	auth := agentAuth{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, conn: lean}
	auth.agentID, auth.fleetWide, auth.refused = c.identify(state)
	forgetCertificates(state)
	return lean, auth, nil
}

// forgetCertificates takes the parsed certificates, which are some 4 KB, out of
// the connection that they belong to: it shares these lists. Nothing asks for
// them again; the connection is resumed by nobody.
func forgetCertificates(state tls.ConnectionState) {
	clear(state.PeerCertificates)
	for _, chain := range state.VerifiedChains {
		clear(chain)
	}
}

// Clone keeps what the embedded type would lose.
func (c *agentCreds) Clone() credentials.TransportCredentials {
	return &agentCreds{TransportCredentials: c.TransportCredentials.Clone(), tls: c.tls, identify: c.identify, gate: c.gate, seconds: c.seconds, failed: c.failed}
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
	s.connections.used(auth.conn.raw)
	if auth.refused != nil {
		s.agentLogs.Warn("client certificate refused", "remote", p.Addr.String(), "error", auth.refused)
		return peerInfo{}, s.refuse(reasonCertificate, codes.PermissionDenied, "the client certificate is not good for an agent of this fleet")
	}
	return peerInfo{conn: auth.conn, addr: p.Addr.String(), agentID: auth.agentID, fleetWide: auth.fleetWide}, nil
}

// connections are those that agents have open.
type connections struct {
	limit    int
	refused  func(reason)
	refusals refusals
	none     atomic.Bool // none is taken; see RefuseNew

	mu     sync.Mutex
	open   int
	closed bool
	fresh  map[*agentConn]struct{} // without a stream yet
}

func newConnections(limit int, refused func(reason)) *connections {
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
	// ready makes Read fail instead of waiting; see leanConn. It is the reader's alone.
	ready   bool
	passage passage // of the handshake
}

// Read is net.Conn's, but does not wait while ready is set.
func (a *agentConn) Read(p []byte) (int, error) {
	if a.ready {
		return 0, errWouldWait
	}
	if a.passage.step != passageDone {
		return a.readHandshake(p)
	}
	return a.Conn.Read(p)
}

// readHandshake reads with the gate's leave. The wait for it does not count as
// the agent's.
func (a *agentConn) readHandshake(p []byte) (int, error) {
	timeout := a.passage.gate.timeout
	a.passage.reads()
	n, err := a.Conn.Read(p)
	if n == 0 || err != nil {
		return n, err
	}
	if entered, err := a.passage.hasRead(a.gone); !entered {
		return n, err
	}
	return n, a.SetDeadline(time.Now().Add(timeout))
}

// gone tells whether the agent has closed the connection, as far as that can be
// told without reading.
func (a *agentConn) gone() bool {
	c, ok := a.Conn.(interface{ Gone() bool })
	return ok && c.Gone()
}

// Close may be called more than once.
func (a *agentConn) Close() error {
	a.once.Do(func() { a.all.remove(a) })
	return a.Conn.Close()
}

// leanConn is a TLS connection that needs no buffer while it waits for data. gRPC
// looks for ReadOnReady, and takes a buffer from a pool each time that there is
// something to read, in place of one for the life of the connection.
type leanConn struct {
	*tls.Conn // on raw
	raw       *agentConn
	first     [1]byte
	uploads   atomic.Int32
	departing atomic.Pointer[departure] // nil unless the agent is sent away
}

// ReadOnReady waits until there is data, then reads what is there into a buffer
// of the pool. TLS tells nobody how much it has decrypted, so the wait is for one
// byte; the rest comes without waiting.
func (c *leanConn) ReadOnReady(size int, pool mem.BufferPool) (*[]byte, int, error) {
	if n, err := c.Read(c.first[:]); n == 0 {
		if d := c.departing.Load(); d != nil && err != nil {
			d.taken()
		}
		return nil, 0, err
	}
	buf := pool.Get(size)
	(*buf)[0] = c.first[0]
	c.raw.ready = true
	n, _ := c.Read((*buf)[1:]) // an error that stays comes again
	c.raw.ready = false
	return buf, 1 + n, nil
}

// closeWrite ends our side of the connection and gives the agent partingTime to
// end its own. Writes of gRPC fail from then on; it leaves that to its reader, which
// goes on.
func (c *leanConn) closeWrite() {
	err := c.raw.SetDeadline(time.Now().Add(partingTime))
	if err == nil {
		err = c.CloseWrite() // of TLS
	}
	if half, ok := c.raw.Conn.(interface{ CloseWrite() error }); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil { // the agent does not read, or the connection is gone
		_ = c.raw.Close()
	}
}

// errWouldWait is what TLS takes for a passing fault of the network: it keeps
// what it has read so far and goes on from there.
var errWouldWait error = wouldWait{}

type wouldWait struct{}

func (wouldWait) Error() string   { return "no data yet" }
func (wouldWait) Timeout() bool   { return true }
func (wouldWait) Temporary() bool { return true }

// limitedListener closes connections above the limit at once, so that a flood
// of them cannot take all files of the process, and those of agents that were sent
// away.
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
		if l.all.refuses(remoteIP(conn.RemoteAddr())) {
			reset(conn)
			continue
		}
		if a := l.all.add(conn); a != nil {
			return a, nil
		}
		l.all.refused(reasonConnections)
		_ = conn.Close()
	}
}
