// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"muster/fleet"
	"muster/peerrpc/peerrpcpb"
)

// AgentHandler answers what other members ask about the agents whose streams
// this node holds. Errors are as those of Handler.
type AgentHandler interface {
	Search(ctx context.Context, s fleet.AgentSearch) (fleet.AgentHits, error)
	// Sessions returns those of the agents' sessions that this node holds, in any
	// order.
	Sessions(ctx context.Context, agentIDs []string) ([]fleet.Session, error)
	// Claim is told that another node holds the agents' streams. It refuses those
	// of which this node holds a newer one, with the epoch of that.
	Claim(ctx context.Context, claims []fleet.Claim) (refused []fleet.Claim, err error)
	// Reset closes those of the agents' streams that this node holds, and names them.
	Reset(ctx context.Context, agentIDs []string) (closed []string, err error)
}

const (
	// sessionsBytes bounds the sessions of one answer; one session is cut to
	// maxSessionBytes.
	sessionsBytes   = 2 << 20
	maxSessionBytes = 512 << 10
)

// agents is the handler; the error is a status.
func (s *peerServer) agents(named int) (AgentHandler, error) {
	switch h := s.port.opts.Agents; {
	case h == nil:
		return nil, errNoAgents()
	case named > fleet.MaxAgentsPerCall:
		return nil, toStatus(fleet.Refuse(fleet.CodeTooLarge, "the call names %d agents, at most %d are accepted", named, fleet.MaxAgentsPerCall))
	default:
		return h, nil
	}
}

// errNoAgents is what a node of a release without these calls answers, too.
func errNoAgents() error {
	return status.Error(codes.Unimplemented, "the node answers nothing about agents")
}

// Search is part of the service Peer.
func (s *peerServer) Search(ctx context.Context, req *peerrpcpb.SearchRequest) (*peerrpcpb.SearchResponse, error) {
	h, err := s.agents(0)
	if err != nil {
		return nil, err
	}
	var search fleet.AgentSearch
	if err := json.Unmarshal(req.GetSearch(), &search); err != nil {
		return nil, toStatus(fleet.Invalid("search", "cannot be read: %v", err))
	}
	if err := search.Check(); err != nil {
		return nil, toStatus(err)
	}
	found, err := h.Search(ctx, search)
	if err != nil {
		return nil, toStatus(err)
	}
	hits, err := json.Marshal(found)
	if err != nil {
		return nil, toStatus(fmt.Errorf("encode the hits: %w", err))
	}
	resp := &peerrpcpb.SearchResponse{Hits: hits, Held: found.Held, Matching: found.Matching}
	if size := len(hits) + len(found.Held) + len(found.Matching); size > maxMessageBytes-1024 {
		return nil, toStatus(fleet.Refuse(fleet.CodeTooLarge, "the answer to the search has %d bytes: ask for fewer hits", size))
	}
	return resp, nil
}

// Sessions is part of the service Peer. The answer is about as many of the
// agents as fit into it.
func (s *peerServer) Sessions(ctx context.Context, req *peerrpcpb.SessionsRequest) (*peerrpcpb.SessionsResponse, error) {
	ids := req.GetAgentIds()
	h, err := s.agents(len(ids))
	if err != nil {
		return nil, err
	}
	const step = 200 // sessions that are decoded at once
	resp := &peerrpcpb.SessionsResponse{}
	for size := 0; int(resp.GetLooked()) < len(ids) && size < sessionsBytes; {
		part := ids[resp.GetLooked():]
		part = part[:min(len(part), step)]
		sessions, err := h.Sessions(ctx, part)
		if err != nil {
			return nil, toStatus(err)
		}
		encoded, bytes, err := encodeSessions(sessions)
		if err != nil {
			return nil, toStatus(err)
		}
		if size += bytes; size > maxMessageBytes-4096 {
			// Rare: what one agent says is bounded, but not by much.
			return s.fewSessions(ctx, h, resp, part, size-bytes)
		}
		resp.Sessions = append(resp.Sessions, encoded...)
		resp.Looked += uint32(len(part)) //nolint:gosec // at most MaxAgentsPerCall
	}
	return resp, nil
}

// fewSessions adds sessions one by one until the answer is full.
func (s *peerServer) fewSessions(ctx context.Context, h AgentHandler, resp *peerrpcpb.SessionsResponse, ids []string, size int) (*peerrpcpb.SessionsResponse, error) {
	for _, id := range ids {
		sessions, err := h.Sessions(ctx, []string{id})
		if err != nil {
			return nil, toStatus(err)
		}
		encoded, bytes, err := encodeSessions(sessions)
		if err != nil {
			return nil, toStatus(err)
		}
		if size += bytes; size > sessionsBytes && resp.GetLooked() > 0 {
			break
		}
		resp.Sessions = append(resp.Sessions, encoded...)
		resp.Looked++
	}
	return resp, nil
}

func encodeSessions(sessions []fleet.Session) (encoded [][]byte, size int, err error) {
	for _, sess := range sessions {
		b, err := json.Marshal(sess)
		if err == nil && len(b) > maxSessionBytes {
			// An agent that says so much is shown without what it says.
			b, err = json.Marshal(fleet.Session{
				Identity: fleet.Identity{AgentID: sess.AgentID}, Epoch: sess.Epoch, RemoteAddr: sess.RemoteAddr, Node: sess.Node,
				ConnectedAt: sess.ConnectedAt, SeenAt: sess.SeenAt, HeartbeatAt: sess.HeartbeatAt,
				ConfigRevision: sess.ConfigRevision, Records: sess.Records,
			})
		}
		if err != nil {
			return nil, 0, fmt.Errorf("encode a session: %w", err)
		}
		encoded = append(encoded, b)
		size += len(b) + 8
	}
	return encoded, size, nil
}

// Claim is part of the service Peer.
func (s *peerServer) Claim(ctx context.Context, req *peerrpcpb.ClaimRequest) (*peerrpcpb.ClaimResponse, error) {
	h, err := s.agents(len(req.GetClaims()))
	if err != nil {
		return nil, err
	}
	refused, err := h.Claim(ctx, fromClaims(req.GetClaims()))
	if err != nil {
		return nil, toStatus(err)
	}
	return &peerrpcpb.ClaimResponse{Refused: toClaims(refused)}, nil
}

// Reset is part of the service Peer.
func (s *peerServer) Reset(ctx context.Context, req *peerrpcpb.ResetRequest) (*peerrpcpb.ResetResponse, error) {
	h, err := s.agents(len(req.GetAgentIds()))
	if err != nil {
		return nil, err
	}
	closed, err := h.Reset(ctx, req.GetAgentIds())
	if err != nil {
		return nil, toStatus(err)
	}
	return &peerrpcpb.ResetResponse{Closed: closed}, nil
}

func toClaims(claims []fleet.Claim) []*peerrpcpb.AgentClaim {
	out := make([]*peerrpcpb.AgentClaim, len(claims))
	for i, c := range claims {
		out[i] = &peerrpcpb.AgentClaim{AgentId: c.AgentID, Epoch: c.Epoch}
	}
	return out
}

func fromClaims(claims []*peerrpcpb.AgentClaim) []fleet.Claim {
	out := make([]fleet.Claim, len(claims))
	for i, c := range claims {
		out[i] = fleet.Claim{AgentID: c.GetAgentId(), Epoch: c.GetEpoch()}
	}
	return out
}
