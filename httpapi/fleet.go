// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"golang.org/x/sync/errgroup"

	"muster/fleet"
)

const (
	// peerTimeout is how long a request waits for the other nodes.
	peerTimeout = 2 * time.Second
	// peersAtOnce bounds the nodes that one request asks at the same time.
	peersAtOnce = 64
	// sessionsAtOnce bounds the agents of one question for sessions: a node that is
	// asked for many is not silent because it has much to say.
	sessionsAtOnce = 1000
	// newerGrace is how long a search for one agent goes on after a node was found
	// that holds its stream, in case another one holds a newer.
	newerGrace = 100 * time.Millisecond
)

// Peer is another node of the cluster.
type Peer struct {
	Name string // as in fleet.Session.Node
	// Calls is nil for a member that is not there: it counts as one that did not
	// answer.
	Calls PeerCalls
}

// PeerCalls asks a node about the agents whose streams it holds. A call returns
// soon after its ctx ends.
type PeerCalls interface {
	Search(ctx context.Context, s fleet.AgentSearch) (fleet.AgentHits, error)
	// Sessions returns those of the agents' sessions that the node holds.
	Sessions(ctx context.Context, agentIDs []string) ([]fleet.Session, error)
	// Reset closes those of the agents' streams that the node holds, and names them.
	Reset(ctx context.Context, agentIDs []string) (closed []string, err error)
	// Await is Streams.AwaitWritten on the node, which has registered once it returns.
	Await(ctx context.Context, taskID string) (wait func(ctx context.Context) error, cancel func() (written bool), err error)
}

// asking is one request's view of the fleet: this node's sessions and those of
// the other nodes, as long as they answer.
type asking struct {
	a     *API
	peers []Peer

	silent map[string]bool // nodes that did not answer
}

// ask begins to look at the fleet.
func (a *API) ask() *asking {
	k := &asking{a: a, silent: make(map[string]bool)}
	if a.opts.Fleet == nil {
		return k
	}
	for _, p := range a.opts.Fleet() {
		if p.Calls == nil {
			k.silent[p.Name] = true
			continue
		}
		k.peers = append(k.peers, p)
	}
	return k
}

// missing are the nodes that did not answer.
func (k *asking) missing() []string { return slices.Collect(maps.Keys(k.silent)) }

// note sets HeaderMissing and returns the nodes that it names.
func (k *asking) note(w http.ResponseWriter) []string { return noteMissing(w, k.missing()) }

// each calls every other node that has answered so far, at once. One whose call
// fails is missing. The end of ctx is the only error.
func (k *asking) each(ctx context.Context, call func(ctx context.Context, p Peer) error) error {
	callCtx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	errs := make([]error, len(k.peers))
	var calls errgroup.Group
	calls.SetLimit(peersAtOnce)
	for i, p := range k.peers {
		calls.Go(func() error {
			errs[i] = call(callCtx, p)
			return nil
		})
	}
	_ = calls.Wait()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("ask the other nodes: %w", err)
	}
	var answered []Peer
	for i, p := range k.peers {
		if errs[i] == nil {
			answered = append(answered, p)
			continue
		}
		k.silent[p.Name] = true
		k.a.log.Debug("node did not answer about its agents", "node", p.Name, "error", errs[i])
	}
	k.peers = answered
	return nil
}

// newest keeps the newest session of each agent.
type newest map[string]fleet.Session

func (n newest) add(s fleet.Session) {
	old, ok := n[s.AgentID]
	if !ok || cmp.Or(cmp.Compare(s.Epoch, old.Epoch), strings.Compare(s.Node, old.Node)) > 0 {
		n[s.AgentID] = s
	}
}

// sessions returns the newest session of each of the agents that has one on any
// node.
func (k *asking) sessions(ctx context.Context, ids []string) (newest, error) {
	all := make(newest, len(ids))
	for _, id := range ids {
		if s, ok := k.a.opts.Live.Sessions.Session(id); ok {
			all.add(s)
		}
	}
	var mu sync.Mutex
	for part := range slices.Chunk(ids, sessionsAtOnce) {
		err := k.each(ctx, func(ctx context.Context, p Peer) error {
			found, err := p.Calls.Sessions(ctx, part)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, s := range found {
				all.add(s)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// holder finds the agent's session, on this node first. peer is nil if it is
// this node's.
func (k *asking) holder(ctx context.Context, id string) (s *fleet.Session, peer *Peer, err error) {
	if own, ok := k.a.opts.Live.Sessions.Session(id); ok {
		return &own, nil, nil
	}
	if len(k.peers) == 0 {
		return nil, nil, nil
	}
	var mu sync.Mutex
	all := make(newest, 1)
	findCtx, enough := context.WithCancel(ctx)
	defer enough()
	err = k.each(findCtx, func(callCtx context.Context, p Peer) error {
		sessions, err := p.Calls.Sessions(callCtx, []string{id})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, session := range sessions {
			if len(all) == 0 {
				time.AfterFunc(newerGrace, enough)
			}
			if all.add(session); all[id].Node == session.Node {
				peer = &p
			}
		}
		return nil
	})
	if best, ok := all[id]; ok {
		return &best, peer, nil
	}
	return nil, nil, err
}

// isLive tells whether the agent has a stream to any node.
func (k *asking) isLive(ctx context.Context, id string) bool {
	s, _, _ := k.holder(ctx, id)
	return s != nil
}

// agent is the document of an agent of the inventory, or of one that has a
// stream and is not in it yet.
func (k *asking) agent(ctx context.Context, id string) (*agentDoc, error) {
	s, _, err := k.holder(ctx, id)
	if err != nil {
		return nil, err
	}
	return k.a.docOf(id, s)
}

// reset closes the agent's stream wherever it is; fleet.ErrOffline: nobody who
// answered holds it.
func (k *asking) reset(ctx context.Context, id string) error {
	err := k.a.opts.Live.Streams.Reset([]string{id})[id]
	if !errors.Is(err, fleet.ErrOffline) || len(k.peers) == 0 {
		return err
	}
	var closed atomic.Bool
	if err := k.each(ctx, func(ctx context.Context, p Peer) error {
		ids, err := p.Calls.Reset(ctx, []string{id})
		if len(ids) > 0 {
			closed.Store(true)
		}
		return err
	}); err != nil {
		return err
	}
	if closed.Load() {
		return nil
	}
	return err
}

// docs are the documents of the agents with their sessions, without those of
// whom nothing is known any more.
func (k *asking) docs(ctx context.Context, ids []string) ([]*agentDoc, error) {
	sessions, err := k.sessions(ctx, ids)
	if err != nil {
		return nil, err
	}
	nodes, docs := k.a.nodeAddrs(), make([]*agentDoc, 0, len(ids))
	for _, id := range ids {
		var session *fleet.Session
		if s, ok := sessions[id]; ok {
			session = &s
		}
		doc, err := k.a.docOf(id, session)
		if isNotFound(err) {
			continue // it was deleted since
		}
		if err != nil {
			return nil, fmt.Errorf("look up agent: %w", err)
		}
		doc.nodes = nodes
		docs = append(docs, doc)
	}
	return docs, nil
}

// holdings are the agents that the other nodes hold, as they answered.
type holdings struct {
	held, twice, matching *roaring.Bitmap
	hits                  map[string]fleet.AgentHit // of all nodes
	upto                  string                    // the first node to stop stopped here; empty: none did
}

// search asks the other nodes which of their agents match.
func (k *asking) search(ctx context.Context, s fleet.AgentSearch) (holdings, error) {
	all := holdings{held: roaring.New(), twice: roaring.New(), matching: roaring.New(), hits: make(map[string]fleet.AgentHit)}
	if len(k.peers) == 0 {
		return all, nil
	}
	var mu sync.Mutex
	err := k.each(ctx, func(ctx context.Context, p Peer) error {
		answer, err := p.Calls.Search(ctx, s)
		if err != nil {
			return err
		}
		held, err := readSet(answer.Held)
		if err != nil {
			return err
		}
		matching, err := readSet(answer.Matching)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all.twice.Or(roaring.And(all.held, held))
		all.held.Or(held)
		all.matching.Or(matching)
		for _, h := range answer.Hits {
			if old, ok := all.hits[h.AgentID]; !ok || h.Epoch > old.Epoch {
				all.hits[h.AgentID] = h
			}
		}
		if answer.Upto != "" && (all.upto == "" || answer.Upto < all.upto) {
			all.upto = answer.Upto
		}
		return nil
	})
	return all, err
}

// readSet reads a set of dense numbers; no bytes are the empty one.
func readSet(b []byte) (*roaring.Bitmap, error) {
	set := roaring.New()
	if len(b) == 0 {
		return set, nil
	}
	n, err := set.ReadFrom(bytes.NewReader(b))
	if err == nil {
		err = set.Validate()
	}
	if err != nil || n != int64(len(b)) {
		return nil, fmt.Errorf("a set of agents of %d bytes cannot be read: %w", len(b), cmp.Or(err, fleet.ErrInvalid))
	}
	return set, nil
}

// writeSet is the opposite of readSet.
func writeSet(set *roaring.Bitmap) ([]byte, error) {
	if set.IsEmpty() {
		return nil, nil
	}
	set.RunOptimize()
	b, err := set.ToBytes()
	if err != nil {
		return nil, fmt.Errorf("encode a set of agents: %w", err)
	}
	return b, nil
}
