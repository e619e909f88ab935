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

// ReadIndex returns an index that covers every write that was acknowledged, by
// any node, before the call: a read on any node that has applied it (see
// WaitApplied) is linearizable. It waits for a leader, at most 10 s.
func (s *Store) ReadIndex(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, writeWait, fleet.ErrTimeout)
	defer cancel()
	for {
		index, err := s.readIndexOnce(ctx)
		if err == nil {
			return index, nil
		}
		if s.opts.Peers == nil || !passing(err) {
			return 0, fmt.Errorf("asking for the index to read at: %w", err)
		}
		if err := s.pause(ctx); err != nil {
			return 0, fmt.Errorf("asking for the index to read at: %w", s.gaveUp(ctx, false, err))
		}
	}
}

func (s *Store) readIndexOnce(ctx context.Context) (index uint64, err error) {
	if s.closed() {
		return 0, fleet.ErrClosed
	}
	r := s.raft.Load()
	if r == nil || r.State() == raft.Leader || s.opts.Peers == nil {
		return s.HandleReadIndex(ctx)
	}
	err = s.askLeader(ctx, r, func(ctx context.Context, leader string) error {
		index, err = s.opts.Peers.ReadIndex(ctx, leader)
		return err
	})
	return index, err
}

// HandleReadIndex answers Peers.ReadIndex on the leader; on another node it
// returns a *NotLeaderError. The index is noted first, then the leader makes
// sure that it still leads: no lease is trusted, because a stopped process
// does not see its lease end.
func (s *Store) HandleReadIndex(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, writeWait, fleet.ErrTimeout)
	defer cancel()
	r := s.raft.Load()
	if r == nil || s.closed() {
		return 0, &NotLeaderError{}
	}
	term := r.CurrentTerm()
	if err := s.untilLeads(ctx, r); err != nil {
		return 0, err
	}
	index := s.fsm.last.Load().Index
	if err := s.await(ctx, r.VerifyLeader()); err != nil {
		return 0, s.verifyError(ctx, r, err)
	}
	if r.CurrentTerm() != term || !s.leads(r) {
		return 0, notLeader(r)
	}
	return index, nil
}

func (*Store) verifyError(ctx context.Context, r *raft.Raft, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("making sure that this node leads: %w", context.Cause(ctx))
	}
	if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) {
		return notLeader(r)
	}
	return fmt.Errorf("making sure that this node leads: %w: %w", err, fleet.ErrUnavailable)
}

// untilLeads waits until a new leader has applied everything of earlier terms.
func (s *Store) untilLeads(ctx context.Context, r *raft.Raft) error {
	for !s.leads(r) {
		if r.State() != raft.Leader {
			return notLeader(r)
		}
		if err := s.pause(ctx); err != nil {
			return fmt.Errorf("waiting for a new leader to be ready: %w", err)
		}
	}
	return nil
}

// WaitApplied waits until this node has applied everything up to index, at most
// 10 s; then it returns a *fleet.NotVisible.
func (s *Store) WaitApplied(ctx context.Context, index uint64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, writeWait, fleet.ErrTimeout)
	defer cancel()
	return s.waitApplied(ctx, index)
}

func (s *Store) waitApplied(ctx context.Context, index uint64) error {
	// An index of one of raft's own entries is reached without an apply.
	t := time.NewTicker(readyEvery)
	defer t.Stop()
	for {
		applied := s.fsm.applied.next()
		if s.appliedUpTo(index) {
			return nil
		}
		if s.closed() {
			return errors.Join(&fleet.NotVisible{Index: index}, fleet.ErrClosed)
		}
		select {
		case <-applied:
		case <-t.C:
		case <-ctx.Done():
			return &fleet.NotVisible{Index: index}
		}
	}
}
