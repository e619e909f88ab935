// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import "strings"

// Limits of what nodes ask each other about agents.
const (
	// MaxSearchHits is how many hits one answer to an AgentSearch may hold, and so
	// how far into a sorted list a page of it may lie.
	MaxSearchHits = 20_000
	// MaxAgentsPerCall is how many agents one call to another node names.
	MaxAgentsPerCall = 5000
)

// AgentSearch asks a node about the agents whose streams it holds. Every filter
// must match. The zero value matches all of them, and wants no hits.
//
// There are two kinds. A walk (Walk > 0) goes through the agents by ID, from
// After on, and stops at the Limit-th hit or when it has looked at Walk agents.
// Any other search judges every agent, and answers the first Limit hits in the
// given order.
type AgentSearch struct {
	Filters []Filter `json:"filters,omitempty"`
	// Order is the field to sort by; empty: by ID. Agents of one value are in the
	// order of their IDs, Descending or not.
	Order      string `json:"order,omitempty"`
	Descending bool   `json:"descending,omitempty"`
	Limit      int    `json:"limit,omitempty"` // at most MaxSearchHits

	After string `json:"after,omitempty"`
	Walk  int    `json:"walk,omitempty"`
}

// AgentHits is a node's answer to an AgentSearch.
type AgentHits struct {
	// Held and Matching are the agents that were judged and those that match, as
	// bitmaps of dense numbers in the portable format of roaring. Agents that the
	// inventory of that node does not have yet have no number; they are in the
	// hits of walks alone.
	Held     []byte `json:"-"`
	Matching []byte `json:"-"`
	// Hits are in the order that was asked for.
	Hits []AgentHit `json:"hits,omitempty"`
	// Upto is the last agent that a walk looked at, empty if it came to its end.
	Upto string `json:"upto,omitempty"`
}

// AgentHit is an agent that matches.
type AgentHit struct {
	AgentID string `json:"agent_id"`
	Number  uint32 `json:"number,omitempty"` // 0: not in the inventory yet
	Epoch   uint64 `json:"epoch,omitempty"`  // of the session that matches
	// Value is what the agent is sorted by: nil, a float64, a string, a bool or a
	// list, as CompareValues takes them.
	Value any `json:"value,omitempty"`
}

// Check refuses a search that no node should carry out.
func (s AgentSearch) Check() error {
	switch {
	case s.Limit < 0 || s.Limit > MaxSearchHits:
		return Invalid("limit", "%d is not between 0 and %d", s.Limit, MaxSearchHits)
	case s.Walk < 0:
		return Invalid("walk", "%d is negative", s.Walk)
	case s.Walk > 0 && s.Limit == 0:
		return Invalid("limit", "is 0: a walk would stop before its first agent")
	case s.Walk > 0 && (s.Order != "" || s.Descending):
		return Invalid("order", "a walk goes by ID")
	}
	return nil
}

// Compare orders two hits as the search asks for.
func (s AgentSearch) Compare(a, b AgentHit) int {
	c := CompareValues(a.Value, b.Value)
	if s.Order == "" && s.Descending {
		return strings.Compare(b.AgentID, a.AgentID)
	}
	if s.Descending {
		c = -c
	}
	if c != 0 {
		return c
	}
	return strings.Compare(a.AgentID, b.AgentID)
}
