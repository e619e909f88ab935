// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

const (
	// dialTimeout is what each address gets.
	dialTimeout = 15 * time.Second
	// maxReuses is how often a connection serves again before SD is asked.
	maxReuses = 5
)

// How the agent came to its connection, as heartbeats say it (net_mode).
const (
	modeUnknown = "unknown"
	modeSD      = "sd"
	modePrivate = "private"
	modePublic  = "public"
)

// link is an agent's connection to a server. Only the agent's own goroutine
// uses it.
type link struct {
	fleet  *Fleet
	conn   *grpc.ClientConn
	reuses int
}

// get returns the connection there is, or finds a new one. The mode is empty
// when the connection is an old one.
func (l *link) get(ctx context.Context) (conn *grpc.ClientConn, mode string, err error) {
	if l.conn != nil {
		if state := l.conn.GetState(); (state == connectivity.Ready || state == connectivity.Idle) && l.reuses < maxReuses {
			l.reuses++
			return l.conn, "", nil
		}
		l.close()
	}
	addrs, lookupErr := l.fleet.discovery.lookup(ctx)
	failures := []error{lookupErr}
	for _, addr := range addrs {
		err := l.dial(ctx, addr)
		if err == nil {
			return l.conn, modeSD, nil
		}
		failures = append(failures, err)
	}
	mode = modePrivate
	for _, addr := range l.fleet.opts.Addrs {
		err := l.dial(ctx, addr)
		if err == nil {
			return l.conn, mode, nil
		}
		failures = append(failures, err)
		mode = modePublic
	}
	return nil, "", errors.Join(failures...)
}

// dial connects as a stock agent does: it waits for the channel to be READY, up
// to 15 s, in which gRPC tries again after failures that may pass, and gives up
// at once when the address refuses.
func (l *link) dial(ctx context.Context, addr string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	l.fleet.counters.dials.Add(1)
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := grpc.DialContext(ctx, addr, l.fleet.dialOptions...) //nolint:staticcheck // the stock agent's very call: NewClient would not wait and fail as it does
	if err != nil {
		l.fleet.counters.dialFailures.Add(1)
		return fmt.Errorf("connect to %s: %w", addr, err)
	}
	l.conn, l.reuses = conn, 0
	return nil
}

func (l *link) close() {
	if l.conn != nil {
		_ = l.conn.Close() // an error says that it is closed already
		l.conn = nil
	}
}
