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
	// vouchEvery is how often a follower makes sure that it has what the leader
	// has, and vouchLimit how long that counts. The design allows contactLimit; less
	// leaves less time in which a node that was just cut off pushes what is old.
	vouchEvery = 500 * time.Millisecond
	vouchLimit = 3 * time.Second
	// vouchPause is between two times, should more be wanted.
	vouchPause = 50 * time.Millisecond
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
		if s.quarantined() != "" {
			continue // stepAside sees to it
		}
		term := r.CurrentTerm()
		if err := s.await(ctx, r.Barrier(writeWait)); err != nil {
			if ctx.Err() == nil {
				s.story.warn("a new leader could not pass its barrier", "error", err)
			}
			continue
		}
		s.leadTerm.Store(term)
		if servers, err := configured(r); err == nil {
			s.story.leads(term, len(servers), s.transport.heardLately(servers, freshAnswer))
		}
	}
}

// becomeReady waits until this node has applied what the leader had committed.
func (s *Store) becomeReady(ctx context.Context, r *raft.Raft) error {
	t := time.NewTicker(readyEvery)
	defer t.Stop()
	for !s.caughtUp(ctx, r) {
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
	s.logger.Info("ready: this node has all that the leader vouched for", "applied", s.fsm.last.Load().Index, "after", ms(time.Since(s.begun)))
	return nil
}

func (s *Store) caughtUp(ctx context.Context, r *raft.Raft) bool {
	if r.State() == raft.Leader {
		return s.leads(r) && s.vouched(ctx)
	}
	if r.State() != raft.Follower || time.Since(r.LastContact()) > contactLimit {
		return false
	}
	if commit := r.CommitIndex(); commit == 0 || !s.appliedUpTo(commit) {
		return false
	}
	if s.opts.Peers == nil {
		return true
	}
	return s.vouched(ctx) // what is committed as far as this node knows may be long ago
}

// vouched has the leader name the index up to which it must have applied
// everything, and waits for that. What this node has then is as new as anything
// that was acknowledged before the call. A leader asks itself, which makes sure of
// a majority: one that was stopped does not know that there is another.
func (s *Store) vouched(ctx context.Context) bool {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, tickEvery)
	defer cancel()
	index, err := s.readIndexOnce(ctx)
	if err != nil || s.waitApplied(ctx, index) != nil {
		return false
	}
	s.vouchedAt.Store(&began)
	return true
}

// freshlyVouched tells whether vouched was asked within vouchLimit, by both of
// the machine's clocks: one may be set back, the other one stands still while the
// machine sleeps.
func (s *Store) freshlyVouched() bool {
	at := s.vouchedAt.Load()
	if at == nil {
		return false
	}
	now := time.Now()
	passed, wall := now.Sub(*at), now.Round(0).Sub(at.Round(0))
	return passed < vouchLimit && wall.Abs() < vouchLimit
}

// keepVouched makes sure, again and again, that this node's state is not old. A
// heartbeat does not: after a partition it comes long before the entries.
func (s *Store) keepVouched(ctx context.Context, r *raft.Raft) error {
	t := time.NewTicker(vouchEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		case <-s.vouchWanted:
		}
		if s.Ready() && (r.State() == raft.Leader || s.opts.Peers != nil && r.State() == raft.Follower) {
			s.vouched(ctx)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(vouchPause):
		}
	}
}

// leads tells whether this node leads, has applied all that was before, and can
// be trusted.
func (s *Store) leads(r *raft.Raft) bool {
	return r.State() == raft.Leader && s.leadTerm.Load() == r.CurrentTerm() && s.quarantined() == ""
}

// appliedUpTo tells whether the last entry at or below index that concerns the
// state is applied; raft's own entries never reach it.
func (s *Store) appliedUpTo(index uint64) bool {
	applied := s.fsm.last.Load().Index
	if index <= applied {
		return true
	}
	// What is not known to be committed may yet be replaced.
	if r := s.raft.Load(); r == nil || r.CommitIndex() < index {
		return false
	}
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

// Ready tells whether this node was current once: until then its state may be
// older than anything that was read elsewhere, and must not be shown.
func (s *Store) Ready() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// Current tells whether this node may push config and tasks now: it was current
// once, is not quarantined, has what the leader vouched for in the last 3 s, and has
// applied what the other members had applied two seconds ago.
func (s *Store) Current() bool {
	if !s.Ready() || s.fsm.broken.Load() || s.quarantined() != "" || !s.appliedUpTo(s.opts.PeersApplied()) {
		return false
	}
	r := s.raft.Load()
	switch {
	case r.State() == raft.Leader:
		return s.leads(r) && s.freshlyVouched()
	case s.opts.Peers == nil:
		return r.State() == raft.Follower && time.Since(r.LastContact()) < contactLimit
	}
	return r.State() == raft.Follower && s.freshlyVouched()
}

// CurrentSince tells whether this node is current and has all that was known
// anywhere at a moment: the leader was asked since. If only that is missing, it is
// asked within some 50 ms. The zero time asks no more than Current.
func (s *Store) CurrentSince(at time.Time) bool {
	if !s.Current() {
		return false
	}
	if vouched := s.vouchedAt.Load(); vouched != nil && vouched.After(at) {
		return true
	}
	if s.opts.Peers == nil && s.raft.Load().State() != raft.Leader {
		return true // nobody can be asked
	}
	select {
	case s.vouchWanted <- struct{}{}:
	default:
	}
	return false
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
				s.story.warn("cutting the log did not work, trying again", "error", err)
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
			s.story.warn("letting time pass did not work, trying again", "error", err)
		}
	}
}
