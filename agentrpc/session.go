// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"net"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"muster/fleet"
)

// session is one stream of one agent. The sender goroutine (the stream's
// handler) lives as long as the stream; the receiver may outlive it by the time
// that the record log needs to take the last message.
type session struct {
	stream grpc.ServerStream
	peer   peerInfo

	// id is set once, by the receiver, under the registry's lock.
	id          string
	claim       claim
	connectedAt int64 // Unix seconds
	previous    *session

	// wake is of one: something may be due. Nobody wakes a session that has not
	// joined.
	wake chan struct{}
	line lifeline
	out  outbox // of the sender alone

	tags     atomic.Pointer[[]byte] // encoded; see encodeTags
	written  atomic.Uint64          // revision of the last config written
	received received

	mu  sync.Mutex // guards obs
	obs observed
}

// received counts what came on the stream.
type received struct {
	messages, records atomic.Uint64
}

// peerInfo says who is at the other end of the connection.
type peerInfo struct {
	conn      net.Conn // closed to get rid of an agent that does not read
	addr      string
	agentID   string // of the certificate; "" unless it is the agent's own
	fleetWide bool
}

// lifeline is how a session ends.
type lifeline struct {
	once  sync.Once
	ended chan struct{}
	cause error // readable once ended is closed

	// received is closed when the receiver has returned.
	received chan struct{}
	// appendCtx outlives the stream by the time that the record log is given.
	appendCtx context.Context //nolint:containedctx // the lifetime of the receiver's last Append
	cancel    context.CancelFunc
}

// outbox is what was sent, for the sender alone.
type outbox struct {
	greeted bool // the headers are out
	// sentAt is when a task was last sent or reported, in Unix seconds, for
	// those that may have to be again.
	sentAt map[string]int64
}

func newSession(stream grpc.ServerStream, peer peerInfo, now int64, hard context.Context) *session { //nolint:revive // hard is kept, it is not this call's context
	sess := &session{
		stream: stream, peer: peer,
		connectedAt: now,
		wake:        make(chan struct{}, 1),
		line:        lifeline{ended: make(chan struct{}), received: make(chan struct{})},
	}
	sess.line.appendCtx, sess.line.cancel = context.WithCancel(hard)
	return sess
}

// end closes the session with a gRPC status, nil meaning OK. The first call
// counts; it returns true.
func (s *session) end(cause error) (first bool) {
	s.line.once.Do(func() {
		first = true
		s.line.cause = cause
		close(s.line.ended)
	})
	return first
}

func (s *session) isEnded() bool {
	select {
	case <-s.line.ended:
		return true
	default:
		return false
	}
}

// nudge makes the sender look for what is due. It never blocks.
func (s *session) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// snapshot decodes the session for a reader.
func (s *session) snapshot(node string) fleet.Session {
	out := fleet.Session{
		Epoch: s.claim.epoch.Load(), RemoteAddr: s.peer.addr, Node: node, ConnectedAt: s.connectedAt,
		ConfigRevision: s.written.Load(), Records: s.received.records.Load(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.obs.describe(&out)
	return out
}
