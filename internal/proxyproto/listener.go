// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package proxyproto

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// DefaultTimeout is how long a header may take to come. A balancer sends it
	// first thing, with its first packet.
	DefaultTimeout = 5 * time.Second
	// maxWaiting connections wait for their header, or to be accepted, at once;
	// more wait in the kernel's queue, as they do where nobody accepts.
	maxWaiting = 512
)

// Options are what Listen needs.
type Options struct {
	// Trusted are the balancers: a connection from there must begin with a
	// header, which is believed. One from elsewhere is taken as it is, so that
	// nobody else can claim an address.
	Trusted []netip.Prefix
	// CloseLocal ends the balancers' own connections (command LOCAL) instead of
	// giving them out with the balancer's address, for a port on which they have
	// nothing to ask.
	CloseLocal bool
	// Refused is told of each trusted connection that was closed for want of a
	// good header. It may be called by several goroutines at once.
	Refused func(balancer net.Addr, err error)
	// Timeout bounds the wait for a header; 0 means DefaultTimeout.
	Timeout time.Duration
}

// Listen returns a listener in front of l that reads headers before Accept
// returns a connection, each in a goroutine of its own. It owns l.
func Listen(l net.Listener, opts Options) net.Listener {
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	return &listener{
		Listener: l, opts: opts, accepted: make(chan accepted), closed: make(chan struct{}),
		slots: make(chan struct{}, maxWaiting), waiting: make(map[net.Conn]struct{}),
	}
}

type listener struct {
	net.Listener
	opts     Options
	accepted chan accepted
	closed   chan struct{}
	slots    chan struct{} // full: no more are accepted
	begin    sync.Once
	end      sync.Once
	running  sync.WaitGroup

	mu      sync.Mutex
	waiting map[net.Conn]struct{} // for their header; nil once closed
}

type accepted struct {
	conn net.Conn
	err  error
}

// Accept returns the next connection of which it is known who is at its end.
func (l *listener) Accept() (net.Conn, error) {
	l.begin.Do(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.waiting != nil {
			l.running.Go(l.run)
		}
	})
	select {
	case a := <-l.accepted:
		return a.conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close also closes what was not accepted, and waits for the goroutines.
func (l *listener) Close() error {
	l.end.Do(func() {
		l.mu.Lock()
		for conn := range l.waiting {
			_ = conn.Close()
		}
		l.waiting = nil
		l.mu.Unlock()
		close(l.closed)
	})
	err := l.Listener.Close()
	l.running.Wait()
	return err
}

func (l *listener) run() {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.closed:
			return
		}
		conn, err := l.Listener.Accept()
		if err != nil {
			<-l.slots
			if !l.give(nil, err) { // who accepts decides what it means
				return
			}
			continue
		}
		l.running.Go(func() {
			defer func() { <-l.slots }()
			l.introduce(conn)
		})
	}
}

// introduce gives a connection out once it is known whose it is.
func (l *listener) introduce(conn net.Conn) {
	if !l.trusts(conn.RemoteAddr()) {
		if !l.give(conn, nil) {
			_ = conn.Close()
		}
		return
	}
	h, err := l.read(conn)
	switch {
	case errors.Is(err, net.ErrClosed), errors.Is(err, io.EOF): // we close; or it only knocked, as simple health checks do
		_ = conn.Close()
	case errors.Is(err, os.ErrDeadlineExceeded):
		l.opts.Refused(conn.RemoteAddr(), fmt.Errorf("no whole header came within %s: have the balancer send one of version 2, or take its address out of --proxy-from", l.opts.Timeout))
		_ = conn.Close()
	case err != nil:
		l.opts.Refused(conn.RemoteAddr(), err)
		_ = conn.Close()
	case h.Local && l.opts.CloseLocal:
		_ = conn.Close()
	case h.Local:
		if !l.give(conn, nil) {
			_ = conn.Close()
		}
	default:
		if !l.give(&introduced{Conn: conn, remote: net.TCPAddrFromAddrPort(h.Source)}, nil) {
			_ = conn.Close()
		}
	}
}

// read reads the header in the time that there is for it.
func (l *listener) read(conn net.Conn) (Header, error) {
	l.mu.Lock()
	if l.waiting == nil {
		l.mu.Unlock()
		return Header{}, net.ErrClosed
	}
	l.waiting[conn] = struct{}{}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.waiting, conn)
	}()
	if err := conn.SetReadDeadline(time.Now().Add(l.opts.Timeout)); err != nil {
		return Header{}, err
	}
	h, err := Read(conn)
	if err != nil {
		return Header{}, err
	}
	return h, conn.SetReadDeadline(time.Time{})
}

// give waits until the connection or the error is accepted; false: never.
func (l *listener) give(conn net.Conn, err error) bool {
	select {
	case l.accepted <- accepted{conn, err}:
		return true
	case <-l.closed:
		return false
	}
}

// trusts tells whether the address is a balancer's. One that cannot be read is not.
func (l *listener) trusts(addr net.Addr) bool {
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return false
	}
	ip := at.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(l.opts.Trusted, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// introduced is a connection with the address of the client behind it.
type introduced struct {
	net.Conn
	remote net.Addr
}

// RemoteAddr is the client's address, as the balancer has said.
func (c *introduced) RemoteAddr() net.Addr { return c.remote }

// Gone is that of the connection itself, where it has one: whether the other side
// has closed it.
func (c *introduced) Gone() bool {
	conn, ok := c.Conn.(interface{ Gone() bool })
	return ok && conn.Gone()
}

// SetLinger is that of the connection itself, where it has one: 0 makes its end a
// reset.
func (c *introduced) SetLinger(sec int) error {
	conn, ok := c.Conn.(interface{ SetLinger(sec int) error })
	if !ok {
		return errors.ErrUnsupported
	}
	return conn.SetLinger(sec)
}
