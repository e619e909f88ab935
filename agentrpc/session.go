// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"muster/fleet"
)

// session is one stream of one agent. The receiver may outlive the stream by the
// time that the record log needs to take the last message. A sender lives only
// while something is due.
type session struct {
	stream grpc.ServerStream
	peer   peerInfo

	// id is set once, by the receiver, under the registry's lock.
	id          string
	claim       claim
	connectedAt int64 // Unix seconds
	previous    *session
	known       *origin // the receiver's; nil unless the agent is busy

	line lifeline
	out  outbox

	tags     atomic.Pointer[[]byte] // encoded; see encodeTags
	written  atomic.Uint64          // revision of the last config written
	unnamed  atomic.Bool            // no message has come yet
	received received

	mu  sync.Mutex // guards obs
	obs observed
}

// received counts what came on the stream.
type received struct {
	messages, records atomic.Uint64
	waits             atomic.Bool // for the record log to take the last of them
}

// peerInfo says who is at the other end of the connection.
type peerInfo struct {
	conn      *leanConn
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

// outbox is what was sent. But for due, idle and waits it is the sender's alone.
type outbox struct {
	// due is 0 while there is no sender, else it counts the nudges since that began.
	due  atomic.Int64
	idle chan struct{} // closed by the last sender of a session that has ended

	greeted bool // the headers are out
	// since is when the session began, zero once this node's state is known to have
	// all that was known then: an older one could take back what the agent was sent
	// by the node it comes from.
	since time.Time
	waits bool // among the pusher's comers, whose lock guards it
	// sentAt is when a task was last sent or reported, in Unix seconds, for
	// those that may have to be again.
	sentAt map[string]int64
}

func newSession(stream grpc.ServerStream, peer peerInfo, now int64, hard context.Context) *session { //nolint:revive // hard is kept, it is not this call's context
	sess := &session{stream: stream, peer: peer, connectedAt: now}
	sess.line.ended, sess.line.received = make(chan struct{}), make(chan struct{})
	sess.out.idle = make(chan struct{})
	sess.out.since = time.Now()
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

// nudge makes a sender look for what is due; nobody nudges a session that has
// not joined. It never blocks.
func (s *Server) nudge(sess *session) {
	if sess.out.due.Add(1) == 1 {
		s.senders.Go(func() { s.sendDue(sess) })
	}
}

// sendDue is a sender: it is done when nobody has nudged since it last looked.
func (s *Server) sendDue(sess *session) {
	for {
		seen := sess.out.due.Load()
		if sess.isEnded() {
			close(sess.out.idle) // due stays above 0: there is no other sender
			return
		}
		if err := s.serve(sess); err != nil {
			sess.end(err)
		} else if sess.out.due.CompareAndSwap(seen, 0) {
			return
		}
	}
}

// finish waits for the sender of a session that has ended. No other one begins.
func (s *session) finish() {
	if s.out.due.Add(1) > 1 {
		<-s.out.idle
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
