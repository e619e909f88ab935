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

// submit has whoever leads carry e out, and returns when this node has applied
// it. While there are peers it tries again until ctx ends, also when it does
// not know whether the last try was carried out: the request ID, or the kind of
// the command, makes that harmless.
func (s *Store) submit(ctx context.Context, e envelope) (answer, error) {
	maybe := false // whether a try may have been carried out
	for {
		ans, err := s.attempt(ctx, e)
		if err == nil {
			return ans, nil
		}
		maybe = maybe || !nothingDone(err)
		if s.opts.Peers == nil || !passing(err) {
			return answer{}, err
		}
		if err := s.pause(ctx); err != nil {
			return answer{}, s.gaveUp(ctx, maybe, err)
		}
	}
}

// attempt tries once.
func (s *Store) attempt(ctx context.Context, e envelope) (answer, error) {
	r := s.raft.Load()
	if r == nil {
		return answer{}, fmt.Errorf("the store is not running: %w", &NotLeaderError{})
	}
	if s.closed() {
		return answer{}, fleet.ErrClosed
	}
	if r.State() != raft.Leader && s.opts.Peers != nil {
		return s.forward(ctx, r, e)
	}
	ans, _, err := s.carryOut(ctx, r, e)
	return ans, err
}

// forward hands e to the leader and waits until this node has applied it too.
func (s *Store) forward(ctx context.Context, r *raft.Raft, e envelope) (ans answer, err error) {
	if s.forwards.Add(1) > maxWaiting {
		s.forwards.Add(-1)
		return answer{}, &busyError{maxWaiting}
	}
	defer s.forwards.Add(-1)
	data, err := encodeEntry(e)
	if err != nil {
		return answer{}, err
	}
	var index uint64
	err = s.askLeader(ctx, r, func(ctx context.Context, leader string) error {
		var out []byte
		if out, index, err = s.opts.Peers.Propose(ctx, leader, data); err != nil {
			return fmt.Errorf("asking the leader %s: %w", leader, err)
		}
		return decodeJSON(out, &ans)
	})
	if err != nil {
		s.metrics.proposals.WithLabelValues(outcomeOf(err)).Inc()
		return answer{}, err
	}
	s.metrics.proposals.WithLabelValues(outcomeForwarded).Inc()
	if e.Kind == kindMembers {
		// Nice to have here too, but a node that was removed never gets it.
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_ = s.waitApplied(ctx, index)
		return ans, nil
	}
	return ans, s.waitApplied(ctx, index)
}

// HandleProposal carries out, on the leader, an entry that another member's
// store made for Peers.Propose. It returns a *NotLeaderError when nothing was
// done because this node does not lead.
func (s *Store) HandleProposal(ctx context.Context, entry []byte) (out []byte, index uint64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, writeWait, fleet.ErrTimeout)
	defer cancel()
	e, err := decodeProposal(entry)
	if err != nil {
		return nil, 0, err
	}
	r := s.raft.Load()
	if r == nil || s.closed() {
		return nil, 0, &NotLeaderError{}
	}
	ans, index, err := s.carryOut(ctx, r, e)
	if err != nil {
		return nil, 0, err
	}
	return mustEncode(ans), index, nil
}

// decodeProposal refuses what must not enter this node's log.
func decodeProposal(entry []byte) (envelope, error) {
	if len(entry) > maxEntryBytes {
		return envelope{}, tooLong(len(entry))
	}
	content, err := checkEnvelope(entry)
	if err != nil {
		return envelope{}, fleet.Refuse(fleet.CodeInvalid, "a forwarded change is damaged: %v", err)
	}
	var e envelope
	if err := decodeJSON(content, &e); err == nil && e.Kind == kindMembers {
		return e, nil
	}
	if e, _, err = decodeCommand(entry); err != nil {
		return envelope{}, fleet.Refuse(fleet.CodeConflict, "the leader cannot read this change, finish the upgrade of all nodes first: %v", err)
	}
	return e, nil
}

// carryOut does what e asks for on the leader.
func (s *Store) carryOut(ctx context.Context, r *raft.Raft, e envelope) (answer, uint64, error) {
	if r.State() != raft.Leader || s.quarantined() != "" {
		s.metrics.proposals.WithLabelValues(outcomeNoLeader).Inc()
		return answer{}, 0, notLeader(r)
	}
	if e.Kind == kindMembers {
		return s.changeMembers(ctx, r, e.Body)
	}
	return s.proposeHere(ctx, r, e)
}

// pause waits before the next try, but not longer than ctx.
func (*Store) pause(ctx context.Context) error {
	t := time.NewTimer(retryEvery)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Store) gaveUp(ctx context.Context, maybe bool, err error) error {
	switch {
	case !errors.Is(err, fleet.ErrTimeout):
		return ctx.Err()
	case maybe:
		return fmt.Errorf("no answer within %s, the write may still happen: %w", writeWait, fleet.ErrUnavailable)
	}
	return fmt.Errorf("no leader within %s: %w", writeWait, fleet.ErrUnavailable)
}

// nothingDone tells whether the error proves that nothing was written.
func nothingDone(err error) bool {
	_, ok := errors.AsType[*NotLeaderError](err)
	return ok
}

// passing tells whether another try can end otherwise.
func passing(err error) bool {
	if _, refused := errors.AsType[*fleet.Refusal](err); refused {
		return false
	}
	if _, busy := errors.AsType[*busyError](err); busy {
		return false
	}
	return !errors.Is(err, fleet.ErrClosed) && !errors.Is(err, fleet.ErrNotVisible)
}

func outcomeOf(err error) string {
	if nothingDone(err) {
		return outcomeNoLeader
	}
	return outcomeUnknown
}
