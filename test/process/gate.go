// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"net"
	"os"
	"sync"
	"time"
)

// gate stands in front of a listener and lets a broker be away, silent or slow
// while it keeps what it has.
type gate struct {
	net.Listener

	mu     sync.Mutex
	away   bool
	silent chan struct{} // closed when the broker speaks again; nil while it does
	delay  time.Duration // of each answer
	conns  map[*gateConn]struct{}
}

func newGate(l net.Listener) *gate {
	return &gate{Listener: l, conns: make(map[*gateConn]struct{})}
}

// Accept takes connections; while the broker is away it closes them at once.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &gateConn{Conn: conn, gate: g, closed: make(chan struct{})}
		g.mu.Lock()
		refused := g.away
		if !refused {
			g.conns[c] = struct{}{}
		}
		g.mu.Unlock()
		if !refused {
			return c, nil
		}
		_ = conn.Close()
	}
}

// goAway cuts all connections, and takes no more until comeBack.
func (g *gate) goAway() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.away = true
	for c := range g.conns {
		_ = c.Conn.Close()
	}
}

// hush reads nothing more of any connection, old or new, until comeBack.
func (g *gate) hush() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.silent == nil {
		g.silent = make(chan struct{})
	}
}

// slow has each answer take that much longer, until comeBack.
func (g *gate) slow(by time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.delay = by
}

func (g *gate) comeBack() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.away, g.delay = false, 0
	if g.silent != nil {
		close(g.silent)
		g.silent = nil
	}
}

func (g *gate) silence() chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.silent
}

func (g *gate) slowness() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.delay
}

// gateConn is a connection of a broker.
type gateConn struct {
	net.Conn
	gate   *gate
	once   sync.Once
	closed chan struct{}
}

// Read waits while the broker is silent.
func (c *gateConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if silent := c.gate.silence(); silent != nil {
		select {
		case <-silent:
		case <-c.closed:
			return 0, os.ErrClosed
		}
	}
	return n, err
}

// Write is what an answer is written with: once for each.
func (c *gateConn) Write(b []byte) (int, error) {
	if by := c.gate.slowness(); by > 0 {
		select {
		case <-time.After(by):
		case <-c.closed:
			return 0, os.ErrClosed
		}
	}
	return c.Conn.Write(b)
}

// Close may be called more than once.
func (c *gateConn) Close() error {
	c.once.Do(func() {
		c.gate.mu.Lock()
		delete(c.gate.conns, c)
		c.gate.mu.Unlock()
		close(c.closed)
	})
	return c.Conn.Close()
}
