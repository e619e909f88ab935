// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"muster/fleet"
)

// Sessions returns a snapshot of every session, in no order. It decodes their
// heartbeats, so it is not for hot paths.
func (s *Server) Sessions() []fleet.Session {
	all := s.registry.all()
	out := make([]fleet.Session, 0, len(all))
	for _, sess := range all {
		out = append(out, sess.snapshot(s.opts.Node))
	}
	return out
}

// Session returns a snapshot of an agent's session; ok is false when this node
// does not hold its stream.
func (s *Server) Session(agentID string) (snapshot fleet.Session, ok bool) {
	sess := s.registry.get(agentID)
	if sess == nil {
		return fleet.Session{}, false
	}
	return sess.snapshot(s.opts.Node), true
}

// SessionIDs returns the IDs of the agents whose streams this node holds, in no
// order.
func (s *Server) SessionIDs() []string {
	all := s.registry.all()
	out := make([]string, 0, len(all))
	for _, sess := range all {
		out = append(out, sess.id)
	}
	return out
}

// SessionCount returns how many agents have a stream to this node, but for those
// that are being sent away.
func (s *Server) SessionCount() int {
	return max(0, s.registry.count()-s.parts.shedder.count())
}

// StreamCount is SessionCount with the streams on which nothing has come yet: those
// are of agents too, which have nothing to say before their next heartbeat.
func (s *Server) StreamCount() int {
	return s.SessionCount() + int(max(0, s.registry.unnamed.Load()))
}

// Reset closes the streams of the named agents; they come back when they like.
// The answer holds each ID with nil, or fleet.ErrOffline when this node does not
// hold its stream.
func (s *Server) Reset(agentIDs []string) map[string]error {
	out := make(map[string]error, len(agentIDs))
	for _, id := range agentIDs {
		if _, done := out[id]; done {
			continue
		}
		sess := s.registry.get(id)
		if sess == nil {
			out[id] = fleet.ErrOffline
			continue
		}
		out[id] = nil
		if sess.end(status.Error(codes.Aborted, "the stream was reset by an operator")) {
			s.metrics.closed.WithLabelValues("reset").Inc()
		}
	}
	return out
}
