// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"muster/fleet"
)

const (
	// scanBatch is how many agents, tasks or sub-tasks are read at once.
	scanBatch = 1000
	// maxMoving bounds the agents that are on their way from one node to another,
	// so that two hold them for a moment, and that a search looks at one by one.
	maxMoving = fleet.MaxAgentsPerCall
	// maxSortBytes is how much of a text lists are sorted by.
	maxSortBytes = 128
	// spareHits is how many more hits than fill the page other nodes are asked
	// for, because some may be of agents that have just moved away from them.
	spareHits = 200
)

func isNotFound(err error) bool { return errors.Is(err, fleet.ErrNotFound) }

// compileFilter makes a client's filter ready; its moments are in the node's
// time zone, as Elkeid has it.
func (a *API) compileFilter(f fleet.Filter) (*fleet.Matcher, error) {
	return f.Compile(a.opts.Now().Location())
}

// matcher is several filters: all must match.
type matcher []*fleet.Matcher

func (a *API) compileFilters(filters []fleet.Filter) (matcher, error) {
	var all matcher
	for _, f := range filters {
		m, err := a.compileFilter(f)
		if err != nil {
			return nil, err
		}
		if !m.All() {
			all = append(all, m)
		}
	}
	return all, nil
}

func (m matcher) match(d *agentDoc) bool {
	for _, one := range m {
		if !one.Match(d.field) {
			return false
		}
	}
	return true
}

// hitOf is the document as an answer to the search, without its epoch.
func hitOf(d *agentDoc, s fleet.AgentSearch) fleet.AgentHit {
	h := fleet.AgentHit{AgentID: d.agent.AgentID, Number: d.agent.Number}
	if s.Order != "" {
		h.Value = sortKey(d.field(s.Order))
	}
	return h
}

// sortKey is as much of a value as lists are sorted by, so that an answer of
// many hits stays small: a list's first element, and the begin of a text.
func sortKey(value any) any {
	switch v := value.(type) {
	case string:
		return strings.ToValidUTF8(v[:min(len(v), maxSortBytes)], "") // as it comes through JSON
	case []string:
		if len(v) > 0 {
			return []any{sortKey(v[0])}
		}
	case []any:
		if len(v) > 0 {
			return []any{sortKey(v[0])}
		}
	}
	return value
}

// named returns the only agents that the filters can choose, if they say so:
// one ID, or those with a tag.
func (a *API) named(filters []fleet.Filter) (ids []string, ok bool, err error) {
	for _, f := range filters {
		if id, ok := f.Equals("agent_id"); ok {
			return []string{id}, true, nil
		}
	}
	for _, f := range filters {
		if tag, ok := f.Equals("tags"); ok {
			ids, err := a.opts.State.Tags.AgentsByTag(tag)
			if err != nil {
				return nil, false, fmt.Errorf("find agents by tag: %w", err)
			}
			if !slices.IsSorted(ids) {
				ids = slices.Sorted(slices.Values(ids))
			}
			return ids, true, nil
		}
	}
	return nil, false, nil
}

// eachAgent calls fn for every agent of the inventory, by ID, until fn returns
// false or the request's time is over.
func (a *API) eachAgent(ctx context.Context, fn func(fleet.Agent) bool) error {
	after := ""
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("search agents: %w", err)
		}
		batch, err := a.opts.State.Agents.Agents(after, scanBatch)
		if err != nil {
			return fmt.Errorf("search agents: %w", err)
		}
		for _, agent := range batch {
			if !fn(agent) {
				return nil
			}
			after = agent.AgentID
		}
		if len(batch) < scanBatch {
			return nil
		}
	}
}

// eachCandidate calls fn for every agent of the inventory that the filters may
// choose, by ID.
func (a *API) eachCandidate(ctx context.Context, filters []fleet.Filter, fn func(fleet.Agent)) error {
	ids, few, err := a.named(filters)
	if err != nil {
		return err
	}
	if !few {
		return a.eachAgent(ctx, func(agent fleet.Agent) bool { fn(agent); return true })
	}
	for i, id := range ids {
		if i%scanBatch == 0 && ctx.Err() != nil {
			return fmt.Errorf("search agents: %w", ctx.Err())
		}
		agent, err := a.opts.State.Agents.Agent(id)
		switch {
		case isNotFound(err):
		case err != nil:
			return fmt.Errorf("search agents: %w", err)
		default:
			fn(agent)
		}
	}
	return nil
}

// fleetHits is what a search of the whole fleet found.
type fleetHits struct {
	// hits are in the order of the search: all of them, or the first ones if the
	// search has a limit.
	hits  []fleet.AgentHit
	total int
}

// find finds the agents of the inventory that the filters choose, wherever
// their streams are: those that other nodes hold are judged there, those that
// nobody holds by the inventory. Documents are not built for it, nor kept: a
// fleet may have a million.
//
// A list in another order than by ID has the first s.Limit hits at least; by ID
// it has all.
func (k *asking) find(ctx context.Context, s fleet.AgentSearch) (fleetHits, error) {
	match, err := k.a.compileFilters(s.Filters)
	if err != nil {
		return fleetHits{}, err
	}
	byID, wanted := s.Order == "" && !s.Descending, s.Limit
	s.Limit = min(wanted+spareHits, fleet.MaxSearchHits)
	if byID {
		s.Limit = 0 // the sets say it all
	}
	others, err := k.search(ctx, s)
	if err != nil {
		return fleetHits{}, err
	}
	var out fleetHits
	var moving []string
	nodes := k.a.nodeAddrs()
	take := func(d *agentDoc) {
		if match.match(d) {
			out.hits = append(out.hits, hitOf(d, s))
			out.total++
		}
	}
	err = k.a.eachCandidate(ctx, s.Filters, func(agent fleet.Agent) {
		doc := &agentDoc{a: k.a, agent: agent, nodes: nodes}
		switch n := agent.Number; {
		case !others.held.Contains(n):
			take(doc)
		case (others.twice.Contains(n) || doc.live() != nil) && len(moving) < maxMoving:
			moving = append(moving, agent.AgentID)
		case others.matching.Contains(n):
			out.total++
			if byID {
				out.hits = append(out.hits, fleet.AgentHit{AgentID: agent.AgentID, Number: n})
			} else if h, ok := others.hits[agent.AgentID]; ok {
				out.hits = append(out.hits, h)
			}
		}
	})
	if err != nil {
		return fleetHits{}, err
	}
	docs, err := k.docs(ctx, moving)
	if err != nil {
		return fleetHits{}, err
	}
	for _, d := range docs {
		take(d)
	}
	if !byID || len(docs) > 0 {
		slices.SortFunc(out.hits, s.Compare)
	}
	if deep := min(wanted, out.total); len(k.peers) > 0 && !byID && deep > fleet.MaxSearchHits {
		return fleetHits{}, fleet.Invalid("page", "ends at item %d; a sorted list can be read up to item %d: sort the other way round, or choose fewer agents", deep, fleet.MaxSearchHits)
	}
	return out, nil
}

// page is what the list of q shows of the agents that f chooses.
func (k *asking) page(ctx context.Context, q pageQuery, f fleet.Filter) (ids []string, total int, err error) {
	m, err := k.a.compileFilter(f)
	if err != nil {
		return nil, 0, err
	}
	if m.All() && !q.sorts() {
		return k.a.pageOfInventory(ctx, q)
	}
	s := fleet.AgentSearch{Filters: []fleet.Filter{f}}
	if q.sorts() {
		s.Order, s.Descending, s.Limit = q.OrderKey, q.OrderValue < 0, q.Page*q.Size
	}
	all, err := k.find(ctx, s)
	if err != nil {
		return nil, 0, err
	}
	from, to := q.bounds(len(all.hits))
	return idsOfHits(all.hits[from:to]), all.total, nil
}

// pageOfInventory is one page of all agents, without a search: for the list
// that everybody asks for.
func (a *API) pageOfInventory(ctx context.Context, q pageQuery) (ids []string, total int, err error) {
	total = a.opts.State.Agents.AgentCount()
	from, to := q.bounds(total)
	if from == to {
		return nil, total, nil
	}
	i := 0
	err = a.eachAgent(ctx, func(agent fleet.Agent) bool {
		if i >= from {
			ids = append(ids, agent.AgentID)
		}
		i++
		return i < to
	})
	return ids, total, err
}

func idsOfHits(hits []fleet.AgentHit) []string {
	return convert(hits, func(h fleet.AgentHit) string { return h.AgentID })
}

// docOf is the document of an agent of the inventory, or of one that has a
// stream and is not in it yet. s is its session, nil if it has none.
func (a *API) docOf(id string, s *fleet.Session) (*agentDoc, error) {
	agent, err := a.opts.State.Agents.Agent(id)
	switch {
	case err == nil:
	case s == nil || !isNotFound(err):
		return nil, err
	default:
		agent = newcomer(*s)
	}
	return &agentDoc{a: a, agent: agent, session: s, looked: true}, nil
}
