// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"fmt"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
	"golang.org/x/sync/errgroup"

	"muster/fleet"
)

const (
	// searchesAtOnce bounds the searches of other nodes that this one carries out
	// at the same time, unless it is busy; more wait.
	searchesAtOnce = 4
	// maxHands bounds the goroutines of one search; they take half of the processors.
	maxHands = 8
	// numbersKept is for more sessions than a node takes; 30 MB at most.
	numbersKept = 200_000
)

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
	leave, err := a.searches.enter(ctx)
	if err != nil {
		return fleet.AgentHits{}, fmt.Errorf("wait for other searches: %w", err)
	}
	defer leave()
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

// numbered is the number of an agent, as it was when its session began.
type numbered struct {
	number uint32
	epoch  uint64
}

// numberOf is the agent's dense number, 0 if the inventory does not have it yet.
// It is kept for the next search: to read the agent takes most of the time.
func (a *API) numberOf(s fleet.Session) (uint32, error) {
	var kept numbered
	a.numbers.update(s.AgentID, func(n *numbered) bool {
		kept = *n
		return kept.number != 0
	})
	if kept.number != 0 && kept.epoch == s.Epoch {
		return kept.number, nil
	}
	agent, err := a.opts.State.Agents.Agent(s.AgentID)
	switch {
	case isNotFound(err):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("look up agent: %w", err)
	}
	a.numbers.update(s.AgentID, func(n *numbered) bool {
		*n = numbered{number: agent.Number, epoch: s.Epoch}
		return true
	})
	return agent.Number, nil
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

// run looks at the agents, with several hands where it is not a walk.
func (l *looker) run(ctx context.Context, ids []string) error {
	hands := max(1, min(l.a.hands, len(ids)/scanBatch))
	if l.search.Walk > 0 || hands == 1 {
		return l.lookAt(ctx, ids)
	}
	parts := make([]looker, hands)
	work, ctx := errgroup.WithContext(ctx)
	for i := range parts {
		part := &parts[i]
		*part = *l
		part.held, part.matching = roaring.New(), roaring.New()
		work.Go(func() error { return part.lookAt(ctx, ids[i*len(ids)/hands:(i+1)*len(ids)/hands]) })
	}
	if err := work.Wait(); err != nil {
		return err
	}
	for _, part := range parts {
		l.held.Or(part.held)
		l.matching.Or(part.matching)
		l.hits = append(l.hits, part.hits...)
	}
	return nil
}

func (l *looker) lookAt(ctx context.Context, ids []string) error {
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
		n, err := l.a.numberOf(s)
		if err != nil {
			return err
		}
		l.look(s, n)
	}
	return nil
}

func (l *looker) look(s fleet.Session, number uint32) {
	walks := l.search.Walk > 0
	if number == 0 && !walks {
		return // the node that asks finds it once the inventory has it
	}
	if number > 0 {
		l.held.Add(number)
	}
	doc := &agentDoc{a: l.a, nodes: l.nodes, session: &s, looked: true, unread: true}
	doc.agent.AgentID = s.AgentID
	if !l.match.match(doc) {
		return
	}
	if number > 0 {
		l.matching.Add(number)
	}
	if l.search.Limit == 0 {
		return
	}
	hit := hitOf(doc, l.search)
	hit.Number, hit.Epoch = number, s.Epoch
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
