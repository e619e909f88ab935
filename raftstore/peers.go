// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"muster/fleet"
)

// Peers reaches the stores of other members by their server IDs. Its methods
// must return soon after ctx ends and be safe for concurrent use. An error that
// wraps a *NotLeaderError says that nothing was done; a *fleet.Refusal is final;
// after any other error the thing may have been done.
type Peers interface {
	// Propose has HandleProposal called on that member. entry must not be changed.
	Propose(ctx context.Context, serverID string, entry []byte) (answer []byte, index uint64, err error)
	// ReadIndex has HandleReadIndex called on that member.
	ReadIndex(ctx context.Context, serverID string) (uint64, error)
	// State has HandleState called on that member.
	State(ctx context.Context, serverID string) (PeerState, error)
}

// HashAt is the logical hash of the state with all entries up to Index applied.
type HashAt struct {
	Index uint64
	Hash  string
}

// PeerState is how far a member's store is.
type PeerState struct {
	// Applied is the present state, without a hash on a quarantined member; Mark is one that every member can still
	// name when it is asked a little later, zero if there is none yet.
	Applied, Mark HashAt
	// Format is the highest replicated format that the member knows; 0: it did not say.
	Format int
}

// NotLeaderError is returned by a node that does not lead: nothing was written.
// It matches fleet.ErrUnavailable.
type NotLeaderError struct {
	Leader string // server ID of the leader; empty: none is known
}

// Error names the leader.
func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return "there is no leader now: " + fleet.ErrUnavailable.Error()
	}
	return fmt.Sprintf("this node does not lead, %s does: %v", e.Leader, fleet.ErrUnavailable)
}

// Unwrap returns fleet.ErrUnavailable.
func (*NotLeaderError) Unwrap() error { return fleet.ErrUnavailable }

const (
	// attemptWait bounds one try at the leader, so that a silent one leaves time
	// to ask its successor.
	attemptWait = 4 * time.Second
	// retryEvery is the pause between tries.
	retryEvery = 50 * time.Millisecond
)

func notLeader(r *raft.Raft) error {
	_, id := r.LeaderWithID()
	return &NotLeaderError{Leader: string(id)}
}

// askLeader calls ask with the leader's ID and a context that ends when the
// leader changes, so that nobody waits for a dead one.
func (s *Store) askLeader(ctx context.Context, r *raft.Raft, ask func(ctx context.Context, leader string) error) error {
	_, id := r.LeaderWithID()
	leader := string(id)
	if leader == "" || leader == s.serverID() {
		return &NotLeaderError{}
	}
	ctx, cancel := context.WithTimeout(ctx, attemptWait)
	defer cancel()
	watching := s.spawn(func() {
		for {
			changed := s.leaderChange.next()
			if _, now := r.LeaderWithID(); now != id {
				cancel()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	if !watching {
		return fleet.ErrClosed
	}
	return ask(ctx, leader)
}

// spawn runs fn in a goroutine that the end of Run waits for, unless the store
// is stopping.
func (s *Store) spawn(fn func()) bool {
	s.stopMu.RLock()
	defer s.stopMu.RUnlock()
	if s.stopped {
		return false
	}
	s.waits.Go(fn)
	return true
}
