// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"fmt"
	"sync"
	"time"

	"muster/fleet"
)

const (
	// leaderWait bounds how long one request waits to hear how far the log is and
	// to be as far.
	leaderWait = time.Second
	// leaderPause lies between two questions, so that unknown tokens, however
	// many, cost the leader little.
	leaderPause = 20 * time.Millisecond
)

// leaderQuestion asks the leader how far the log is, for many requests at once:
// one question is under way at a time, and those who come meanwhile share the
// next one. They may not share the one under way: it was asked before they came.
type leaderQuestion struct {
	cluster Cluster
	// turn is held by whoever asks; last, when that was, is only touched then.
	turn chan struct{}
	last time.Time

	mu   sync.Mutex
	next *leaderRound // nil until somebody waits
}

type leaderRound struct {
	done  chan struct{}
	index uint64
	err   error
}

func newLeaderQuestion(c Cluster) *leaderQuestion {
	return &leaderQuestion{cluster: c, turn: make(chan struct{}, 1)}
}

// index returns one that covers every write acknowledged before the call,
// within leaderWait.
func (q *leaderQuestion) index(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, leaderWait, fleet.ErrTimeout)
	defer cancel()
	q.mu.Lock()
	if q.next == nil {
		q.next = &leaderRound{done: make(chan struct{})}
	}
	round := q.next
	q.mu.Unlock()
	select {
	case q.turn <- struct{}{}:
		q.ask(ctx, round)
	case <-round.done:
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for the leader's answer: %w", context.Cause(ctx))
	}
	select {
	case <-round.done:
		return round.index, round.err
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for the leader's answer: %w", context.Cause(ctx))
	}
}

// ask asks for all who share the round, unless it was asked already, and gives
// the turn back.
func (q *leaderQuestion) ask(ctx context.Context, round *leaderRound) {
	defer func() { <-q.turn }()
	q.mu.Lock()
	mine := q.next == round
	if mine {
		q.next = nil
	}
	q.mu.Unlock()
	if !mine {
		return
	}
	defer close(round.done)
	pause := time.NewTimer(time.Until(q.last.Add(leaderPause)))
	<-pause.C
	q.last = time.Now()
	// The others must not lose the answer when this client goes away.
	deadline, _ := ctx.Deadline()
	asking, cancel := context.WithDeadlineCause(context.WithoutCancel(ctx), deadline, fleet.ErrTimeout)
	defer cancel()
	round.err = fleet.ErrUnavailable // stands if the call panics
	round.index, round.err = q.cluster.ReadIndex(asking)
}

// catchUp returns when this node has applied all that was acknowledged before
// the call, within leaderWait.
func (a *API) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, leaderWait, fleet.ErrTimeout)
	defer cancel()
	index, err := a.leader.index(ctx)
	if err != nil {
		return err
	}
	return a.opts.Cluster.WaitApplied(ctx, index)
}
