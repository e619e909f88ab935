// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"muster/fleet"
)

// handoverWait bounds how long a session waits for the last message of the one
// that it replaces, so that an agent's records stay in order.
const handoverWait = 2 * time.Second

// maxLoggedBytes is how much of an agent's own error text is logged.
const maxLoggedBytes = 256

// transfer is the handler of an agent's stream. It does nothing but wait for the
// session's end, so that its stack stays small: there is one for each agent.
func (s *Server) transfer(_ any, stream grpc.ServerStream) error {
	sess, err := s.open(stream)
	if err != nil {
		return err
	}
	select {
	case <-sess.line.ended:
	case <-stream.Context().Done():
		sess.end(status.FromContextError(stream.Context().Err()).Err())
	case <-s.drain:
		sess.end(status.Error(codes.Unavailable, "this node is stopping"))
	}
	s.named(sess) // as good as
	s.leave(sess)
	sess.finish()
	return sess.line.cause
}

// named notes that it is known whose stream this is, or never will be.
func (s *Server) named(sess *session) {
	if sess.unnamed.CompareAndSwap(true, false) {
		s.registry.unnamed.Add(-1)
	}
}

// open makes the session of a stream and starts its receiver.
func (s *Server) open(stream grpc.ServerStream) (*session, error) {
	if s.draining() {
		return nil, s.refuse(reasonDraining, codes.Unavailable, "this node is stopping")
	}
	peer, err := s.identify(stream.Context())
	if err != nil {
		return nil, err
	}
	sess := newSession(stream, peer, s.now(), s.hard)
	sess.unnamed.Store(true)
	s.registry.unnamed.Add(1)
	silent := time.AfterFunc(s.opts.Tuning.FirstMessageTimeout, func() {
		if sess.end(status.Error(codes.DeadlineExceeded, "no message came on this stream")) {
			s.count(reasonSilent)
		}
	})
	s.receivers.Go(func() { s.receive(sess, silent) })
	return sess, nil
}

// leave takes the session out and reports when the agent was last seen. The
// receiver may still be handing over the last message; it has DrainTimeout.
func (s *Server) leave(sess *session) {
	time.AfterFunc(s.opts.Tuning.DrainTimeout, sess.line.cancel)
	s.parts.claims.drop(sess)
	if !s.registry.remove(sess) {
		return // the agent is on a newer stream, here or elsewhere
	}
	sess.mu.Lock()
	seen := sess.obs.beatAt != 0
	report := sess.obs.report(s.facts, s.opts.Node)
	sess.mu.Unlock()
	if seen {
		s.parts.inventory.add(sess, report)
	}
}

// receive is the session's receiver. Its own frame is small, and so is what lies
// below it while it waits.
func (s *Server) receive(sess *session, silent *time.Timer) {
	defer close(sess.line.received)
	defer sess.line.cancel()
	defer silent.Stop()
	var f frame
	for !sess.isEnded() {
		if err := sess.stream.RecvMsg(&f); err != nil {
			sess.end(s.receiveError(sess, err))
			return
		}
		var err error
		if sess.id == "" {
			silent.Stop()
			err = s.takeFirst(sess, f.bytes())
		} else {
			err = s.take(sess, f.bytes())
		}
		f.free()
		if err != nil {
			sess.end(err)
			return
		}
	}
}

// takeFirst takes a session's first message, on a stack of its own: it goes
// deeper than others, into the state, and the receiver's stack, which stays as
// large as it ever was, would be twice as large for it.
func (s *Server) takeFirst(sess *session, raw []byte) error {
	taken := make(chan error, 1)
	s.receivers.Go(func() {
		err := s.take(sess, raw)
		s.named(sess)
		taken <- err
	})
	return <-taken
}

// receiveError turns the end of receiving into the stream's status. For messages
// that gRPC itself refuses, it has told the agent already.
func (s *Server) receiveError(sess *session, err error) error {
	if errors.Is(err, io.EOF) { // the agent has ended the stream
		return nil
	}
	code := status.Code(err)
	if code == codes.ResourceExhausted {
		s.agentLogs.Warn("message too large", "remote", sess.peer.addr, "agent_id", sess.id, "error", err)
		return s.refuse(reasonTooLarge, codes.ResourceExhausted, fmt.Sprintf("a message is larger than %d bytes", maxMessageBytes))
	}
	if code == codes.Internal { // broken frame or compression
		return s.undecodable(sess, err)
	}
	return err // the connection or the stream is gone
}

func (s *Server) undecodable(sess *session, err error) error {
	s.agentLogs.Warn("message cannot be decoded", "remote", sess.peer.addr, "agent_id", sess.id, "error", err)
	return s.refuse(reasonUndecodable, codes.InvalidArgument, "the message cannot be decoded")
}

// take deals with one message. An error is the status that ends the stream;
// nothing of the message has been forwarded then, unless the log refused it.
func (s *Server) take(sess *session, raw []byte) error {
	m, _ := s.messages.Get().(*message)
	defer func() {
		m.reset() // the pool must not keep the frame
		s.messages.Put(m)
	}()
	switch err := m.parse(raw, sess.known); {
	case errors.Is(err, errIdentity):
		if err := fleet.CheckAgentID(string(m.agentID)); err != nil {
			return s.refuse(reasonAgentID, codes.InvalidArgument, err.Error())
		}
		return s.refuse(reasonTooLarge, codes.InvalidArgument, err.Error())
	case errors.Is(err, errTooManyRecs):
		return s.refuse(reasonTooLarge, codes.InvalidArgument, err.Error())
	case err != nil:
		return s.undecodable(sess, err)
	}
	if sess.id == "" {
		if err := s.join(sess, m); err != nil {
			return err
		}
	} else if m.known == nil && string(m.agentID) != sess.id {
		return s.refuse(reasonIDChanged, codes.InvalidArgument, "the agent ID changed within the stream")
	}
	came := s.parts.clock.now()
	now := came.Unix()
	if err := m.stamp(now, *sess.tags.Load()); err != nil {
		return s.refuse(reasonTooLarge, codes.InvalidArgument, err.Error())
	}
	sess.received.messages.Add(1)
	sess.received.records.Add(uint64(len(m.records)))
	s.note(sess, m, now)
	if sess.previous == nil && s.opts.Log.TryAppend(came, sess.id, m.records, m.suffix) {
		m.lane.count(m, len(raw), true)
	} else if err := s.forward(sess, m, len(raw), came); err != nil {
		return err
	}
	return s.act(sess, m, now)
}

// join makes a session of a stream whose first message came.
func (s *Server) join(sess *session, m *message) error {
	id := string(m.agentID)
	if err := fleet.CheckAgentID(id); err != nil {
		return s.refuse(reasonAgentID, codes.InvalidArgument, err.Error())
	}
	if !sess.peer.fleetWide && sess.peer.agentID != id {
		s.agentLogs.Warn("agent presented the certificate of another", "remote", sess.peer.addr,
			"agent_id", id, "certificate_agent_id", sess.peer.agentID)
		return s.refuse(reasonNotItsID, codes.PermissionDenied, "the certificate belongs to another agent")
	}
	// The tags are known before the first record is forwarded.
	if _, err := s.desired(sess, id); err != nil {
		s.logs.Warn("state cannot be read: agent refused", "error", err)
		return s.refuse(reasonState, codes.Unavailable, "this node cannot read its state")
	}
	switch s.registry.add(sess, id) {
	case addRefusedFull:
		s.logs.Warn("session limit reached: agent refused", "limit", s.opts.Limit)
		return s.refuse(reasonSessions, codes.ResourceExhausted, "this node holds as many agents as it may")
	case addRefusedEnded:
		return sess.line.cause
	case added:
	}
	if sess.previous != nil && sess.previous.end(status.Error(codes.Aborted, "the agent has opened a newer stream")) {
		s.metrics.closed.WithLabelValues("replaced").Inc()
	}
	s.metrics.opened.Inc()
	s.parts.claims.joined(sess)
	// A change between the look-up and the entry would have been missed.
	if _, err := s.desired(sess, id); err != nil {
		s.parts.pusher.owe()
	}
	s.nudge(sess) // the stream is accepted: its headers are due
	return nil
}

// note remembers heartbeats and reports what is new.
func (s *Server) note(sess *session, m *message, now int64) {
	if m.known != nil && len(m.notable) == 0 {
		sess.obs.seenAt.Store(now)
		return
	}
	busy := sess.obs.seenAt.Load() >= now-1
	sess.mu.Lock()
	res := sess.obs.note(m, now, s.seed, s.facts, s.opts.Node)
	if m.known == nil {
		sess.known = nil
		if busy { // others need not be compared
			sess.known = m.origin(sess.obs.identity)
		}
	}
	sess.mu.Unlock()
	if res.undecodable > 0 {
		s.metrics.undecodableBodies.Add(float64(res.undecodable))
	}
	if res.beatFault != nil {
		s.agentLogs.Warn("fields of a heartbeat not taken", "agent_id", sess.id, "error", res.beatFault)
	}
	if res.report != nil && !s.parts.inventory.add(sess, *res.report) {
		sess.mu.Lock()
		sess.obs.reported = 0 // the next heartbeat tries again
		sess.mu.Unlock()
	}
}

// forward hands the records to the log when it could not take them at once; it
// blocks while the log is full.
func (s *Server) forward(sess *session, m *message, size int, came time.Time) error {
	m.lane.count(m, size, false)
	s.metrics.appending.Add(1)
	defer s.metrics.appending.Add(-1)
	sess.received.waits.Store(true)
	defer sess.received.waits.Store(false)
	if prev := sess.previous; prev != nil {
		timer := time.NewTimer(handoverWait)
		select {
		case <-prev.line.received:
		case <-timer.C:
		case <-sess.line.appendCtx.Done():
		}
		timer.Stop()
		sess.previous = nil
	}
	err := s.opts.Log.Append(sess.line.appendCtx, sess.id, m.records, m.suffix)
	if err == nil {
		m.lane.waited(s.parts.clock.now().Sub(came))
		return nil
	}
	s.metrics.recordsLost.Add(float64(len(m.records)))
	if !errors.Is(err, context.Canceled) {
		s.logs.Warn("record log does not take records", "error", err)
	}
	return s.refuse(reasonLog, codes.Unavailable, "records cannot be taken now")
}

// act deals with errors and replies, after they were forwarded. It blocks while
// the queue of results is full.
func (s *Server) act(sess *session, m *message, now int64) error {
	for _, n := range m.notable {
		switch {
		case n.dataType == fleet.DataTypeAgentError || n.dataType == fleet.DataTypePluginError:
			s.metrics.agentErrors.Inc()
			s.logAgentError(sess, n)
		case n.dataType.IsTaskReply():
			if err := s.reply(sess, n, now); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Server) logAgentError(sess *session, n notable) {
	var name, text []byte
	err := eachField(n.body, func(k, v []byte) {
		switch {
		case bytes.Equal(k, []byte("name")):
			name = v
		case bytes.Equal(k, []byte("msg")):
			text = v
		}
	})
	if err != nil { // what could be read is better than nothing
		s.metrics.undecodableBodies.Inc()
	}
	s.agentLogs.Warn("agent reports an error", "agent_id", sess.id, "data_type", int32(n.dataType),
		"name", string(clip(name, maxLoggedBytes)), "text", string(clip(text, maxLoggedBytes)))
}

func (s *Server) draining() bool {
	select {
	case <-s.drain:
		return true
	default:
		return false
	}
}
