// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"muster/fleet"
)

const (
	// tickEvery is how often the leader looks whether time has something to do.
	tickEvery = time.Second
	// readyEvery is how often a starting node looks whether it has caught up.
	readyEvery = 50 * time.Millisecond
	// contactLimit is the age of the leader's last word at which a node's
	// state no longer counts as current.
	contactLimit = 5 * time.Second
)

// watchLeadership notes the terms in which this node leads with everything of
// earlier terms applied.
func (s *Store) watchLeadership(ctx context.Context, r *raft.Raft) error {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.LeaderCh():
		case <-t.C: // a barrier that failed is tried again
		}
		if r.State() != raft.Leader || s.leads(r) {
			continue
		}
		term := r.CurrentTerm()
		if err := s.await(ctx, r.Barrier(writeWait)); err != nil {
			if ctx.Err() == nil {
				s.logger.Warn("a new leader could not pass its barrier", "error", err)
			}
			continue
		}
		s.leadTerm.Store(term)
		s.logger.Info("this node leads", "term", term)
	}
}

// becomeReady waits until this node has applied what the leader had committed.
func (s *Store) becomeReady(ctx context.Context, r *raft.Raft) error {
	t := time.NewTicker(readyEvery)
	defer t.Stop()
	for !s.caughtUp(r) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
	if err := s.noteCluster(); err != nil {
		return err
	}
	close(s.ready)
	return nil
}

func (s *Store) caughtUp(r *raft.Raft) bool {
	if r.State() == raft.Leader {
		return s.leads(r)
	}
	if r.State() != raft.Follower || time.Since(r.LastContact()) > contactLimit {
		return false
	}
	commit := r.CommitIndex()
	return commit > 0 && s.appliedUpTo(commit)
}

// leads tells whether this node leads and has applied all that was before.
func (s *Store) leads(r *raft.Raft) bool {
	return r.State() == raft.Leader && s.leadTerm.Load() == r.CurrentTerm()
}

// appliedUpTo tells whether the last entry at or below index that concerns the
// state is applied; raft's own entries never reach it.
func (s *Store) appliedUpTo(index uint64) bool {
	applied := s.fsm.last.Load().Index
	for ; index > applied; index-- {
		var l raft.Log
		if err := s.files.log.GetLog(index, &l); err != nil {
			return false
		}
		if l.Type == raft.LogCommand || l.Type == raft.LogConfiguration {
			return false
		}
	}
	return true
}

// WaitReady blocks until there is a leader and this node was current once.
func (s *Store) WaitReady(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the replicated state: %w: %w", ctx.Err(), fleet.ErrUnavailable)
	}
}

// Current tells whether this node may push config and tasks now: it was current
// once, had contact with the leader in the last 5 s, and has applied what the
// other members had applied two seconds ago.
func (s *Store) Current() bool {
	select {
	case <-s.ready:
	default:
		return false
	}
	r := s.raft.Load()
	if s.fsm.broken.Load() || s.fsm.last.Load().Index < s.opts.PeersApplied() {
		return false
	}
	if r.State() == raft.Leader {
		return s.leads(r)
	}
	return r.State() == raft.Follower && time.Since(r.LastContact()) < contactLimit
}

// keepTime lets deadlines, expiry and retention pass on the leader, and cuts
// the log when its bytes ask for it.
func (s *Store) keepTime(ctx context.Context, r *raft.Raft) error {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		if s.fsm.logBytes.Load() > s.opts.Tuning.SnapshotBytes {
			if err := s.await(ctx, r.Snapshot()); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) && ctx.Err() == nil {
				s.logger.Warn("cutting the log did not work, trying again", "error", err)
			}
		}
		if !s.leads(r) {
			continue
		}
		due := false
		if err := s.read(func(v view) error {
			due = tickDue(v, s.now())
			return nil
		}); err != nil {
			return err
		}
		if !due {
			continue
		}
		if err := s.propose(ctx, &tick{}, nil); err != nil && ctx.Err() == nil {
			s.logger.Warn("letting time pass did not work, trying again", "error", err)
		}
	}
}
