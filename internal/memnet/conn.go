// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// Conn is one end of a stream. It is safe for concurrent use.
type Conn struct {
	network       *Network
	link          link // from this end to the other
	local, remote *net.TCPAddr
	in, out       *stream
	peer          *Conn
	closed        bool // guarded by network.mu
	resets        atomic.Bool
}

// newConnPair makes both ends of a stream whose first end is link.from's.
func newConnPair(n *Network, l link, local, remote *net.TCPAddr) (near, far *Conn) {
	there, back := newStream(), newStream()
	near = &Conn{network: n, link: l, local: local, remote: remote, in: back, out: there}
	far = &Conn{network: n, link: link{l.to, l.from}, local: remote, remote: local, in: there, out: back}
	near.peer, far.peer = far, near
	return near, far
}

// Read waits for bytes, the other side's end (io.EOF), or the read deadline.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.wrap("read", err)
}

// Write takes all of p, waiting while the other side does not read.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.wrap("write", err)
}

// Close ends both directions; what was written can still be read by the peer.
func (c *Conn) Close() error {
	if !c.network.forget(c) {
		return c.wrap("close", net.ErrClosed)
	}
	if c.resets.Load() {
		c.out.reset()
	}
	c.out.closeWrite()
	c.in.closeRead()
	return nil
}

// SetLinger is that of *net.TCPConn: after 0, Close makes the peer see a reset.
// Other values are as none.
func (c *Conn) SetLinger(sec int) error {
	c.resets.Store(sec == 0)
	return nil
}

// CloseWrite ends this direction only: the peer reads io.EOF after the rest.
func (c *Conn) CloseWrite() error {
	c.out.closeWrite()
	return nil
}

// CloseRead refuses what the peer sends from now on.
func (c *Conn) CloseRead() error {
	c.in.closeRead()
	return nil
}

// abort closes this end so that the peer sees a reset instead of an end. It does
// nothing to an end that was closed before.
func (c *Conn) abort() {
	if c.network.forget(c) {
		c.out.reset()
		c.out.closeWrite()
		c.in.closeRead()
	}
}

// LocalAddr returns a *net.TCPAddr.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns a *net.TCPAddr.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines; the zero time means none.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline ends pending and future reads at t.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.wrap("set", c.in.setReadDeadline(t))
}

// SetWriteDeadline ends pending and future writes at t.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.wrap("set", c.out.setWriteDeadline(t))
}

func (c *Conn) wrap(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}
