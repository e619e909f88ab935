// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// connections are those with members that are open. Their number is bounded by
// that of the members: only they pass the handshake.
type connections struct {
	mu     sync.Mutex
	closed bool
	open   map[*conn]struct{}
}

func newConnections() *connections { return &connections{open: map[*conn]struct{}{}} }

// add fails once closeAll was called, with an error that wraps net.ErrClosed.
func (s *connections) add(c *conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errEnding()
	}
	s.open[c] = struct{}{}
	return nil
}

func (s *connections) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

func (s *connections) count(proto string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for c := range s.open {
		if c.proto == proto {
			n++
		}
	}
	return n
}

// closeIf closes the connections for which the function says so.
func (s *connections) closeIf(which func(*conn) bool) {
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	for _, c := range all {
		if which(c) {
			_ = c.Close()
		}
	}
}

func (s *connections) closeAll() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.closeIf(func(*conn) bool { return true })
}

// gate bounds the handshakes under way, in all and per host, so that one host
// that opens connections and says nothing does not keep the others out.
type gate struct {
	limit, perHost int

	mu    sync.Mutex
	all   int
	hosts map[netip.Addr]int
}

func (g *gate) enter(host netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all >= g.limit || g.hosts[host] >= g.perHost {
		return false
	}
	g.all++
	g.hosts[host]++
	return true
}

func (g *gate) leave(host netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all--
	if g.hosts[host]--; g.hosts[host] == 0 {
		delete(g.hosts, host)
	}
}

// hostOf returns the IP address of a connection's other side, of IPv6 the /64
// that one host usually has for itself.
func hostOf(addr net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Addr{}
	}
	ip := ap.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ip
	}
	prefix, err := ip.Prefix(64)
	if err != nil {
		return ip
	}
	return prefix.Addr()
}

// queue hands accepted connections of one protocol to whoever serves it.
type queue struct {
	addr  net.Addr
	conns chan *conn
	once  sync.Once
	done  chan struct{}
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, conns: make(chan *conn), done: make(chan struct{})}
}

// put waits until someone accepts the connection, but not for long. After Close
// the error wraps net.ErrClosed.
func (q *queue) put(c *conn, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case q.conns <- c:
		return nil
	case <-q.done:
		return errEnding()
	case <-timer.C:
		return errNotServed()
	}
}

// Accept returns the next connection, or an error that wraps net.ErrClosed.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case <-q.done:
	case c := <-q.conns:
		return c, nil
	}
	return nil, &net.OpError{Op: "accept", Net: q.addr.Network(), Addr: q.addr, Err: net.ErrClosed}
}

// Close ends Accept; it may be called more than once. Connections stay open.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

// Addr returns what the queue was made with.
func (q *queue) Addr() net.Addr { return q.addr }
