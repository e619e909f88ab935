// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"errors"
	"net"
	"strings"
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
	a.handler.state = peerrpc.NodeState{Applied: 7}
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
