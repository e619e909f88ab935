// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"net"
	"time"
)

// RaftLayer carries Raft's connections. Servers are addressed by their server
// IDs, which never change, instead of HOST:PORT: Dial looks up where the server
// is now, so Raft's configuration need not follow a node that moves. Close ends
// Accept only.
type RaftLayer struct {
	*queue
	port *Port
}

// serverAddr is a server ID where package net wants an address.
type serverAddr string

// Network returns the name of the protocol.
func (serverAddr) Network() string { return protoRaft }

// String returns the server ID.
func (a serverAddr) String() string { return string(a) }

// Dial connects to a server and verifies that it is the one. It needs no longer
// than the timeout (0: that of a handshake). It is safe for concurrent use.
func (l *RaftLayer) Dial(serverID string, timeout time.Duration) (net.Conn, error) {
	if timeout <= 0 {
		timeout = l.port.opts.Tuning.HandshakeTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := l.port.dial(ctx, protoRaft, serverID)
	if err != nil {
		return nil, err // not c: a nil *conn in an interface is not nil
	}
	return c, nil
}
