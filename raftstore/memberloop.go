// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// pollEvery is how often the leader asks the others how far they are.
	pollEvery = 500 * time.Millisecond
	// pollWait bounds the wait for one answer.
	pollWait = time.Second
	// promoteLag is how far behind a server may be that gets a vote.
	promoteLag = 256
	// promoteAnswers is how many answers in a row must be that close.
	promoteAnswers = 3
)

// keepMembers lets the leader see to what the configuration should become: a
// new server that has caught up votes, a removed one is gone, and the format is
// what every server knows.
func (s *Store) keepMembers(ctx context.Context, r *raft.Raft) error {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		switch wrong := s.quarantined() != ""; {
		case wrong && s.opts.Peers != nil:
			s.stepAside(ctx, r)
			continue
		case wrong || s.opts.Peers == nil || !s.leads(r):
			s.members.forget(nil)
			continue
		}
		servers, err := configured(r)
		if err != nil {
			continue // raft is stopping
		}
		s.poll(ctx, servers)
		s.doubt(servers)
		if err := s.settleMembers(ctx, r, servers); err != nil && ctx.Err() == nil && s.leads(r) {
			s.story.warn("changing the members did not work, trying again", "error", err)
		}
	}
}

// forget drops what is known of all servers but those.
func (m *members) forget(but []raft.Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := make(map[string]sighting, len(but))
	for _, c := range but {
		if seen, ok := m.seen[string(c.ID)]; ok {
			kept[string(c.ID)] = seen
		}
	}
	m.seen = kept
}

// poll asks every other server how far it is.
func (s *Store) poll(ctx context.Context, servers []raft.Server) {
	s.members.forget(servers)
	ctx, cancel := context.WithTimeout(ctx, pollWait)
	defer cancel()
	var wg sync.WaitGroup
	for _, c := range servers {
		id := string(c.ID)
		if id == s.serverID() {
			continue
		}
		wg.Go(func() {
			state, err := s.opts.Peers.State(ctx, id)
			s.members.note(id, state, err, s.fsm.last.Load().Index, min(promoteLag, s.opts.Tuning.TrailingLogs))
		})
	}
	wg.Wait()
}

// note takes a server's answer, or its silence, into account.
func (m *members) note(id string, state PeerState, err error, own, limit uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := m.seen[id]
	switch {
	case err != nil || state.Applied.Hash == "" || lag(own, state.Applied.Index) > limit:
		seen.ripe = 0
	default:
		seen.ripe++
	}
	if err == nil {
		seen.PeerState, seen.at = state, time.Now()
	}
	if !seen.at.IsZero() {
		m.seen[id] = seen
	}
}

// settleMembers takes the next step, if there is one.
func (s *Store) settleMembers(ctx context.Context, r *raft.Raft, servers []raft.Server) error {
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	select {
	case s.members.changing <- struct{}{}:
		defer func() { <-s.members.changing }()
	default:
		return nil // a request changes them just now
	}
	for _, c := range servers {
		id := string(c.ID)
		switch {
		case id == s.serverID():
		case s.Removed(id):
			if err := s.removeServer(ctx, r, id); err != nil {
				return err
			}
		case c.Suffrage != raft.Voter && s.members.isRipe(id):
			if err := s.configure(ctx, r, r.AddVoter(c.ID, c.Address, 0, untilDeadline(ctx))); err != nil {
				return err
			}
			s.logger.Info("a server has caught up and votes now", "server", id)
		}
	}
	return s.raiseFormat(ctx, r, servers)
}

func (m *members) isRipe(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen[id].ripe >= promoteAnswers
}

// raiseFormat proposes the highest format that every configured server has
// said to know.
func (s *Store) raiseFormat(ctx context.Context, r *raft.Raft, servers []raft.Server) error {
	format := int(s.fsm.format.Load())
	s.members.mu.Lock()
	for _, c := range servers {
		if id := string(c.ID); id != s.serverID() {
			format = min(format, s.members.seen[id].Format)
		}
	}
	s.members.mu.Unlock()
	now := s.fsm.last.Load().cluster
	if now.ID == "" || format <= now.Format {
		return nil
	}
	cmd := &raiseFormat{Format: format}
	if _, _, err := s.proposeHere(ctx, r, envelope{Kind: cmd.kind(), Body: mustEncode(cmd)}); err != nil {
		return err
	}
	s.logger.Info("the replicated format was raised", "format", format)
	return nil
}
