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

// agentScanChunk is how many IDs are read at once where few agents pass.
const agentScanChunk = 1000

// idSource lists the next n IDs after the given one.
type idSource func(after string, n int) ([]string, error)

// walk finds the next agents by ID that the filters choose, wherever their
// streams are. next is where the page after it begins; empty: there is none.
func (k *asking) walk(ctx context.Context, filters []fleet.Filter, ids idSource, after string, limit int) (page []string, next string, err error) {
	match, err := k.a.compileFilters(filters)
	if err != nil {
		return nil, "", err
	}
	if len(match) == 0 {
		page, err = ids(after, limit+1)
		if err == nil && len(page) > limit {
			page, next = page[:limit], page[limit-1]
		}
		return page, next, err
	}
	others, err := k.search(ctx, fleet.AgentSearch{Filters: filters, After: after, Limit: limit + 1, Walk: k.a.walk})
	if err != nil {
		return nil, "", err
	}
	w := &walker{k: k, match: match, others: others, end: others.upto, left: limit + 1}
	if err := w.run(ctx, ids, after); err != nil {
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

	end    string   // what is known goes up to here; empty: up to the end
	left   int      // hits to look for
	hits   []string // of agents that no other node holds
	moving []string // agents that two nodes hold
}

func (w *walker) run(ctx context.Context, ids idSource, after string) error {
	for looked := 0; ; {
		chunk, err := ids(after, agentScanChunk)
		if err != nil {
			return err
		}
		for _, id := range chunk {
			if w.end != "" && id > w.end {
				return nil
			}
			if len(w.hits) == w.left || looked == w.k.a.walk {
				w.end = after
				return nil
			}
			looked++
			after = id
			if err := w.look(id); err != nil {
				return err
			}
		}
		if len(chunk) < agentScanChunk {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func (w *walker) look(id string) error {
	var own *fleet.Session
	if s, ok := w.k.a.opts.Live.Sessions.Session(id); ok {
		own = &s
	}
	doc, err := w.k.a.docOf(id, own)
	if isNotFound(err) { // gone since it was listed
		return nil
	}
	if err != nil {
		return err
	}
	n := doc.agent.Number
	_, there := w.others.hits[id]
	there = there || w.others.held.Contains(n)
	switch {
	case !there:
		if w.match.match(doc) {
			w.hits = append(w.hits, id)
		}
	case own != nil || w.others.twice.Contains(n):
		w.moving = append(w.moving, id)
	}
	return nil
}
