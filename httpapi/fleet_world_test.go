// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"testing"

	"muster/fleet"
	"muster/httpapi"
)

// fleetWorld is a cluster: nodes n1, n2 ... over one replicated state, each with
// its own streams. lone is a node that knows everything by itself: what a fleet
// answers must be what it answers.
type fleetWorld struct {
	nodes []*world
	lone  *world
	peers map[string]*fakePeer // by name
}

func newFleetWorld(t testing.TB, n int) *fleetWorld {
	t.Helper()
	f := &fleetWorld{peers: make(map[string]*fakePeer)}
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		w := newWorld(t, func(o *httpapi.Options) {
			f.share(o, i)
			o.Node.Name = name
			o.Fleet = func() (peers []httpapi.Peer) {
				for j := range f.nodes {
					if other := fmt.Sprintf("n%d", j+1); other != name {
						p := httpapi.Peer{Name: other}
						if !f.peers[other].gone {
							p.Calls = f.peers[other]
						}
						peers = append(peers, p)
					}
				}
				return peers
			}
		})
		if i > 0 {
			w.store = f.nodes[0].store
		}
		f.nodes = append(f.nodes, w)
		f.peers[name] = &fakePeer{w: w, name: name}
	}
	f.lone = newWorld(t, func(o *httpapi.Options) { f.share(o, n) })
	f.lone.store = f.nodes[0].store
	return f
}

// share gives a node the state of the first one.
func (f *fleetWorld) share(o *httpapi.Options, i int) {
	if i == 0 {
		return
	}
	s := f.nodes[0].store
	o.State = httpapi.State{Users: s, Tokens: s, Keys: s, Config: s, Tags: s, Agents: s, Tasks: s, TaskControl: s, Status: s}
}

// connect gives the agent a stream to node i.
func (f *fleetWorld) connect(i int, s fleet.Session) {
	s.Node = fmt.Sprintf("n%d", i+1)
	f.nodes[i].live.sessions[s.AgentID] = s
}

// settle lets the lone node know the newest session of every agent, of the
// nodes that answer.
func (f *fleetWorld) settle() {
	clear(f.lone.live.sessions)
	for i, w := range f.nodes {
		if i > 0 && f.peers[fmt.Sprintf("n%d", i+1)].fails() {
			continue
		}
		for id, s := range w.live.sessions {
			old, ok := f.lone.live.sessions[id]
			if !ok || s.Epoch > old.Epoch || s.Epoch == old.Epoch && s.Node > old.Node {
				f.lone.live.sessions[id] = s
			}
		}
	}
}

// clear forgets all agents.
func (f *fleetWorld) clear() {
	clear(f.nodes[0].store.agents)
	for _, w := range f.nodes {
		clear(w.live.sessions)
	}
	for _, p := range f.peers {
		*p = fakePeer{w: p.w, name: p.name}
	}
}

// fakePeer is a node as the others reach it. What it says goes through JSON, as
// between nodes.
type fakePeer struct {
	w      *world
	name   string
	older  bool // of a release that does not know the calls
	silent bool // never answers
	gone   bool // counts as dead, so that nobody asks
	// awaitFails: it answers, but not to Await.
	awaitFails bool

	searches, sessions, looked int // calls, and agents named in them
	awaits                     int
}

func (p *fakePeer) fails() bool { return p.older || p.silent }

func (p *fakePeer) heard(ctx context.Context) error {
	switch {
	case p.silent:
		<-ctx.Done()
		return fmt.Errorf("node %s: %w", p.name, fleet.ErrTimeout)
	case p.older:
		return fmt.Errorf("node %s: %w", p.name, fleet.ErrUnavailable)
	}
	return nil
}

func throughJSON[T any](v T) (out T, err error) {
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	return out, err
}

func (p *fakePeer) Search(ctx context.Context, s fleet.AgentSearch) (fleet.AgentHits, error) {
	p.searches++
	if err := p.heard(ctx); err != nil {
		return fleet.AgentHits{}, err
	}
	s, err := throughJSON(s)
	if err != nil {
		return fleet.AgentHits{}, err
	}
	hits, err := p.w.api.SearchAgents(ctx, s)
	if err != nil {
		return hits, err
	}
	out, err := throughJSON(hits)
	out.Held, out.Matching = hits.Held, hits.Matching
	return out, err
}

func (p *fakePeer) Sessions(ctx context.Context, ids []string) ([]fleet.Session, error) {
	p.sessions++
	p.looked += len(ids)
	if err := p.heard(ctx); err != nil {
		return nil, err
	}
	var found []fleet.Session
	for _, id := range ids {
		if s, ok := p.w.live.sessions[id]; ok {
			found = append(found, s)
		}
	}
	return throughJSON(found)
}

func (p *fakePeer) Reset(ctx context.Context, ids []string) (closed []string, err error) {
	if err := p.heard(ctx); err != nil {
		return nil, err
	}
	for id, err := range maps.All(p.w.live.Reset(ids)) {
		if err == nil {
			closed = append(closed, id)
		}
	}
	return closed, nil
}

func (p *fakePeer) Await(ctx context.Context, taskID string) (wait func(context.Context) error, cancel func() bool, err error) {
	p.awaits++
	if err := p.heard(ctx); err != nil {
		return nil, nil, err
	}
	if p.awaitFails {
		return nil, nil, fleet.ErrTimeout
	}
	wait, cancel = p.w.live.AwaitWritten(taskID)
	return wait, cancel, nil
}
