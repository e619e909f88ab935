// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"fmt"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"

	"muster/fleet"
)

// searchesAtOnce bounds the searches of other nodes that this one carries out
// at the same time; more wait.
const searchesAtOnce = 4

// SearchAgents answers another node's search: about the agents whose streams
// this node holds.
func (a *API) SearchAgents(ctx context.Context, s fleet.AgentSearch) (fleet.AgentHits, error) {
	if err := s.Check(); err != nil {
		return fleet.AgentHits{}, err
	}
	match, err := a.compileFilters(s.Filters)
	if err != nil {
		return fleet.AgentHits{}, err
	}
	select {
	case a.searches <- struct{}{}:
		defer func() { <-a.searches }()
	case <-ctx.Done():
		return fleet.AgentHits{}, fmt.Errorf("wait for other searches: %w", ctx.Err())
	}
	ids, few, err := a.named(s.Filters)
	if err != nil {
		return fleet.AgentHits{}, err
	}
	if !few {
		ids = slices.Sorted(slices.Values(a.opts.Live.Sessions.SessionIDs()))
	}
	from, same := slices.BinarySearch(ids, s.After)
	if same {
		from++
	}
	l := &looker{a: a, search: s, match: match, nodes: a.nodeAddrs(), held: roaring.New(), matching: roaring.New()}
	if err := l.run(ctx, ids[from:]); err != nil {
		return fleet.AgentHits{}, err
	}
	return l.answer()
}

// looker goes through this node's sessions.
type looker struct {
	a      *API
	search fleet.AgentSearch
	match  matcher
	nodes  map[string]string

	held, matching *roaring.Bitmap
	hits           []fleet.AgentHit
	upto           string
}

func (l *looker) run(ctx context.Context, ids []string) error {
	walks, looked := l.search.Walk > 0, 0
	for i, id := range ids {
		if i%scanBatch == 0 && ctx.Err() != nil {
			return fmt.Errorf("search agents: %w", ctx.Err())
		}
		if walks && (looked == l.search.Walk || len(l.hits) == l.search.Limit) {
			l.upto = ids[i-1]
			return nil
		}
		s, ok := l.a.opts.Live.Sessions.Session(id)
		if !ok {
			continue
		}
		looked++
		doc, err := l.a.docOf(id, &s)
		if err != nil {
			return fmt.Errorf("look up agent: %w", err)
		}
		l.look(doc, s.Epoch, walks)
	}
	return nil
}

func (l *looker) look(doc *agentDoc, epoch uint64, walks bool) {
	doc.nodes = l.nodes
	n := doc.agent.Number
	if n == 0 && !walks {
		return // the node that asks finds it once the inventory has it
	}
	if n > 0 {
		l.held.Add(n)
	}
	if !l.match.match(doc) {
		return
	}
	if n > 0 {
		l.matching.Add(n)
	}
	if l.search.Limit == 0 {
		return
	}
	hit := hitOf(doc, l.search)
	hit.Epoch = epoch
	l.hits = append(l.hits, hit)
	// Now and then, so that a list of all is not kept for its first few.
	if !walks && len(l.hits) >= 2*l.search.Limit+scanBatch {
		l.cut()
	}
}

// cut keeps the first hits in the order of the search.
func (l *looker) cut() {
	slices.SortFunc(l.hits, l.search.Compare)
	l.hits = l.hits[:min(len(l.hits), l.search.Limit)]
}

func (l *looker) answer() (fleet.AgentHits, error) {
	l.cut()
	out := fleet.AgentHits{Hits: l.hits, Upto: l.upto}
	var err error
	if out.Held, err = writeSet(l.held); err != nil {
		return out, err
	}
	out.Matching, err = writeSet(l.matching)
	return out, err
}
