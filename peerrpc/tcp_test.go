// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster/fleet"
	"muster/internal/pki"
	"muster/peerrpc"
)

// The kernel's TCP closes otherwise than the one in memory: what one side says
// last must reach the other all the same.
func TestOverRealTCP(t *testing.T) {
	w := newWorld(t)
	onLoopback := func(n *node) {
		n.listen, n.addr, n.opts.Dial = net.Listen, "127.0.0.1:0", (&net.Dialer{}).DialContext
	}
	a, b := w.start("a", "10.0.0.1", onLoopback), w.newcomer("b", "10.0.0.2", onLoopback)
	wrong := w.newcomer("c", "10.0.0.3", onLoopback, otherSecret)
	a.echoRaft()
	a.handler.state = fleet.NodeState{Applied: 7}
	for range 30 {
		if _, err := wrong.port.Enrol(t.Context(), a.addr); !errors.Is(err, fleet.ErrUnauthenticated) && !errors.Is(err, fleet.ErrThrottled) {
			t.Fatalf("wrong secret: %v", err)
		}
	}
	m, err := b.port.Enrol(t.Context(), a.addr)
	if !errors.Is(err, fleet.ErrThrottled) {
		t.Fatalf("from the guesser's address: %v, %v", m, err)
	}
	b.membership.Store(w.member(w.ca, pki.NodeRequest(clusterID, b.id)))
	for range 30 {
		c, err := b.port.Raft().Dial(a.id, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		echo(t, c, "hello")
		_ = c.Close()
	}
	if state, err := b.port.Client(a.id).NodeState(t.Context()); err != nil || state.Applied != 7 {
		t.Errorf("NodeState = %+v, %v", state, err)
	}
	a.removed.Store(b.id, true)
	for range 30 {
		if _, err := b.port.Raft().Dial(a.id, time.Second); err == nil || !strings.Contains(err.Error(), "this node was removed from the cluster") {
			t.Fatalf("removed: %v", err)
		}
	}
	w.end()
}

// failing is a listener whose first accepts fail, as without free files.
type failing struct {
	net.Listener
	left int
}

func (f *failing) Accept() (net.Conn, error) {
	if f.left--; f.left >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return f.Listener.Accept()
}

func TestAcceptFailsForAWhile(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start("a", "10.0.0.1")
		b := w.start("b", "10.0.0.2", func(n *node) {
			listen := n.listen
			n.listen = func(network, addr string) (net.Listener, error) {
				l, err := listen(network, addr)
				return &failing{l, 5}, err
			}
		})
		b.echoRaft()
		c, err := a.port.Raft().Dial(b.id, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		echo(t, c, "hello")
		_ = c.Close()
		if n := b.log.lines("no connections of nodes can be accepted", "too many open files"); n != 1 {
			t.Errorf("log:\n%s", b.log)
		}
	})
}

func TestHostOf(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:80":              "192.0.2.1",
		"[::ffff:192.0.2.1]:80":     "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:80": "2001:db8:1:2::",
		"[fe80::1%eth0]:80":         "fe80::",
		"nonsense":                  "invalid IP",
	} {
		if got := peerrpc.HostOf(textAddr(addr)).String(); got != want {
			t.Errorf("hostOf(%s) = %s, want %s", addr, got, want)
		}
	}
}

type textAddr string

func (textAddr) Network() string  { return "tcp" }
func (a textAddr) String() string { return string(a) }
