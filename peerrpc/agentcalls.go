// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"muster/fleet"
	"muster/peerrpc/peerrpcpb"
)

// Search asks about the agents whose streams the node holds. A node of a
// release without the call is fleet.ErrUnavailable, here and in the calls below.
func (c *Client) Search(ctx context.Context, s fleet.AgentSearch) (fleet.AgentHits, error) {
	var hits fleet.AgentHits
	search, err := json.Marshal(s)
	if err != nil {
		return hits, fmt.Errorf("encode the search: %w", err)
	}
	var resp *peerrpcpb.SearchResponse
	err = c.call(ctx, "Search", func(ctx context.Context, p peerrpcpb.PeerClient) (err error) {
		resp, err = p.Search(ctx, &peerrpcpb.SearchRequest{Search: search})
		return err
	})
	if err != nil {
		return hits, err
	}
	if err := json.Unmarshal(resp.GetHits(), &hits); err != nil {
		return hits, fmt.Errorf("node %s answered hits that cannot be read: %w", c.serverID, err)
	}
	if len(hits.Hits) > s.Limit {
		return hits, fmt.Errorf("node %s answered %d hits, %d were asked for", c.serverID, len(hits.Hits), s.Limit)
	}
	hits.Held, hits.Matching = resp.GetHeld(), resp.GetMatching()
	return hits, nil
}

// Sessions returns those of the agents' sessions that the node holds.
func (c *Client) Sessions(ctx context.Context, agentIDs []string) ([]fleet.Session, error) {
	var sessions []fleet.Session
	for rest := agentIDs; len(rest) > 0; {
		part := rest[:min(len(rest), fleet.MaxAgentsPerCall)]
		var resp *peerrpcpb.SessionsResponse
		err := c.call(ctx, "Sessions", func(ctx context.Context, p peerrpcpb.PeerClient) (err error) {
			resp, err = p.Sessions(ctx, &peerrpcpb.SessionsRequest{AgentIds: part})
			return err
		})
		if err != nil {
			return nil, err
		}
		looked := int(resp.GetLooked())
		if looked < 1 || looked > len(part) || len(resp.GetSessions()) > looked {
			return nil, fmt.Errorf("node %s answered %d sessions of %d agents, %d were asked for", c.serverID, len(resp.GetSessions()), looked, len(part))
		}
		for _, b := range resp.GetSessions() {
			var s fleet.Session
			if err := json.Unmarshal(b, &s); err != nil {
				return nil, fmt.Errorf("node %s answered a session that cannot be read: %w", c.serverID, err)
			}
			sessions = append(sessions, s)
		}
		rest = rest[looked:]
	}
	return sessions, nil
}

// Claim tells the node that this one holds the agents' streams. It returns
// those that the node refuses, because it holds a newer one, with its epoch.
func (c *Client) Claim(ctx context.Context, claims []fleet.Claim) (refused []fleet.Claim, err error) {
	for part := range slices.Chunk(claims, fleet.MaxAgentsPerCall) {
		err := c.call(ctx, "Claim", func(ctx context.Context, p peerrpcpb.PeerClient) error {
			resp, err := p.Claim(ctx, &peerrpcpb.ClaimRequest{Claims: toClaims(part)})
			refused = append(refused, fromClaims(resp.GetRefused())...)
			return err
		})
		if err != nil {
			return refused, err
		}
	}
	return refused, nil
}

// Reset closes those of the agents' streams that the node holds, and names them.
func (c *Client) Reset(ctx context.Context, agentIDs []string) (closed []string, err error) {
	for part := range slices.Chunk(agentIDs, fleet.MaxAgentsPerCall) {
		err := c.call(ctx, "Reset", func(ctx context.Context, p peerrpcpb.PeerClient) error {
			resp, err := p.Reset(ctx, &peerrpcpb.ResetRequest{AgentIds: part})
			closed = append(closed, resp.GetClosed()...)
			return err
		})
		if err != nil {
			return closed, err
		}
	}
	return closed, nil
}
