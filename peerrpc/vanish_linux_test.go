// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"context"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"muster/internal/quickconn"
)

// accepted keeps the connections of a listener.
type accepted struct {
	net.Listener
	conns chan net.Conn
}

func (a accepted) Accept() (net.Conn, error) {
	c, err := a.Listener.Accept()
	if err == nil {
		a.conns <- c
	}
	return c, err
}

// The kernel is told on both sides of a real connection with the broker to
// notice that the other host has vanished, well within 15 s.
func TestVanishedPeerIsNoticed(t *testing.T) {
	w := newWorld(t)
	server := make(chan net.Conn, 10)
	onLoopback := func(n *node) {
		n.listen = func(network, addr string) (net.Listener, error) {
			l, err := quickconn.Listen(network, addr)
			return accepted{l, server}, err
		}
		n.addr, n.opts.Dial = "127.0.0.1:0", quickconn.Dial
	}
	far := make(chan net.Conn, 1)
	a := w.start("a", "10.0.0.1", onLoopback)
	b := w.start("b", "10.0.0.2", onLoopback, func(n *node) {
		n.kafka = func(context.Context) (net.Conn, error) {
			near, there := net.Pipe()
			far <- there
			return near, nil
		}
	})
	c := a.dialKafka(b)
	there := <-far
	w.wg.Go(func() { echoing(there) })
	echo(t, c, "produce")
	for side, conn := range map[string]net.Conn{"dialled": c.(interface{ NetConn() net.Conn }).NetConn(), "accepted": <-server} {
		option := func(opt int) (value int) {
			raw, err := conn.(syscall.Conn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if cerr := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, opt) }); cerr != nil || err != nil {
				t.Fatal(cerr, err)
			}
			return value
		}
		idle, every, probes := option(unix.TCP_KEEPIDLE), option(unix.TCP_KEEPINTVL), option(unix.TCP_KEEPCNT)
		if quiet := idle + every*probes; quiet > 13 {
			t.Errorf("%s: a peer that vanishes while nothing is sent is noticed after %d s", side, quiet)
		}
		if limit := option(unix.TCP_USER_TIMEOUT); limit == 0 || limit > 13000 {
			t.Errorf("%s: a peer that acknowledges nothing is noticed after %d ms", side, limit)
		}
	}
	_ = c.Close()
	w.end()
}
