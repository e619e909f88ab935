// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"muster/fleet"
)

const (
	// groupWrites is how many writes go to raft together; raft applies as many at once.
	groupWrites = 64
	// maxWaiting bounds the writes that wait for their turn; more are refused.
	maxWaiting = 4096
)

// gate lets writes through in groups: while one group is being synced, the next
// one gathers. Without it raft would sync concurrent writes one by one, because
// each comes back to it alone. The zero value is ready to use.
type gate struct {
	mu       sync.Mutex
	inside   int
	gathered []chan struct{}
}

// enter waits for the caller's turn. Unless it fails, leave must follow.
func (g *gate) enter(ctx context.Context) error {
	g.mu.Lock()
	if g.inside == 0 {
		g.inside = 1
		g.mu.Unlock()
		return nil
	}
	if len(g.gathered) >= maxWaiting {
		g.mu.Unlock()
		return &busyError{maxWaiting}
	}
	turn := make(chan struct{})
	g.gathered = append(g.gathered, turn)
	g.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	i := slices.Index(g.gathered, turn)
	if i >= 0 {
		g.gathered = slices.Delete(g.gathered, i, i+1)
	}
	g.mu.Unlock()
	if i < 0 { // the turn came at the same moment
		g.leave()
	}
	return context.Cause(ctx)
}

// leave lets the next group in when the last of this one has left.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.inside > 0 {
		return
	}
	g.inside = min(groupWrites, len(g.gathered))
	for _, turn := range g.gathered[:g.inside] {
		close(turn)
	}
	g.gathered = slices.Delete(g.gathered, 0, g.inside)
}

// busyError says that the caller should slow down; it is not tried again.
type busyError struct{ waiting int }

func (e *busyError) Error() string {
	return fmt.Sprintf("%d writes are waiting already: %v", e.waiting, fleet.ErrUnavailable)
}

// Unwrap returns fleet.ErrUnavailable.
func (*busyError) Unwrap() error { return fleet.ErrUnavailable }
