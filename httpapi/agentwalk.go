// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"maps"
	"slices"

	"muster/fleet"
)

// maxAgentScan bounds the agents that one page of a filtered list looks at, on
// each node: the page ends there, with fewer items than asked for and a next.
const maxAgentScan = 20_000

// agentSource lists the next n agents after the given one, by ID.
type agentSource func(after string, n int) ([]fleet.Agent, error)

// walk finds the next agents by ID that the filters choose, wherever their
// streams are. next is where the page after it begins; empty: there is none.
func (k *asking) walk(ctx context.Context, filters []fleet.Filter, agents agentSource, after string, limit int) (page []string, next string, err error) {
	match, err := k.a.compileFilters(filters)
	if err != nil {
		return nil, "", err
	}
	if len(match) == 0 {
		all, err := agents(after, limit+1)
		page = convert(all, func(g fleet.Agent) string { return g.AgentID })
		if len(page) > limit {
			page, next = page[:limit], page[limit-1]
		}
		return page, next, err
	}
	others, err := k.search(ctx, fleet.AgentSearch{Filters: filters, After: after, Limit: limit + 1, Walk: k.a.walk})
	if err != nil {
		return nil, "", err
	}
	w := &walker{k: k, match: match, others: others, nodes: k.a.nodeAddrs(), end: others.upto, left: limit + 1}
	if err := w.run(ctx, agents, after); err != nil {
		return nil, "", err
	}
	docs, err := k.docs(ctx, w.moving)
	if err != nil {
		return nil, "", err
	}
	for _, id := range w.moving {
		delete(others.hits, id)
	}
	page = w.hits
	for _, d := range docs {
		if match.match(d) {
			page = append(page, d.agent.AgentID)
		}
	}
	page = slices.AppendSeq(page, maps.Keys(others.hits))
	slices.Sort(page)
	page = slices.Compact(page)
	if w.end != "" {
		behind, found := slices.BinarySearch(page, w.end)
		if found {
			behind++
		}
		page = page[:behind]
	}
	if len(page) > limit {
		return page[:limit], page[limit-1], nil
	}
	return page, w.end, nil
}

// walker looks at this node's sessions and at the inventory, as far as the
// other nodes have.
type walker struct {
	k      *asking
	match  matcher
	others holdings
	nodes  map[string]string // as in agentDoc

	end    string   // what is known goes up to here; empty: up to the end
	left   int      // hits to look for
	hits   []string // of agents that no other node holds
	moving []string // agents that two nodes hold
}

func (w *walker) run(ctx context.Context, agents agentSource, after string) error {
	for looked := 0; ; {
		chunk, err := agents(after, scanBatch)
		if err != nil {
			return err
		}
		for _, agent := range chunk {
			if w.end != "" && agent.AgentID > w.end {
				return nil
			}
			if len(w.hits) == w.left || looked == w.k.a.walk {
				w.end = after
				return nil
			}
			looked++
			after = agent.AgentID
			w.look(agent)
		}
		if len(chunk) < scanBatch {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func (w *walker) look(agent fleet.Agent) {
	doc := &agentDoc{a: w.k.a, agent: agent, nodes: w.nodes}
	_, there := w.others.hits[agent.AgentID]
	there = there || w.others.held.Contains(agent.Number)
	switch {
	case !there:
		if w.match.match(doc) {
			w.hits = append(w.hits, agent.AgentID)
		}
	case w.others.twice.Contains(agent.Number) || doc.live() != nil:
		w.moving = append(w.moving, agent.AgentID)
	}
}
