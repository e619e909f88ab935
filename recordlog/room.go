// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"muster/fleet"
)

const (
	// agentShare is what one agent may have in memory at once: half a batch, so
	// that an agent that sends much more than the others never makes them wait
	// for a batch of its own.
	agentShare = batchBytes / 2
	// agentSlots is how many agents are told apart; those that share a slot by
	// chance share its bound.
	agentSlots = 4096
)

// room is the memory for records. Whoever wants some waits first for its own
// agent's share, then in the order of arrival for the common room, so that an
// agent that has too much waits alone.
type room struct {
	all   *semaphore.Weighted // MaxPendingBytes
	size  int64               // the same
	share atomic.Int64        // what a slot may have
	held  [agentSlots]atomic.Int64

	waits   atomic.Int32 // length of all queues
	mu      sync.Mutex
	waiting map[uint16][]chan struct{} // by slot
}

func newRoom(bytes int64) *room {
	r := &room{all: semaphore.NewWeighted(bytes), size: bytes, waiting: make(map[uint16][]chan struct{})}
	r.share.Store(r.piece())
	return r
}

// piece is the most that is taken at once, if records are not larger.
func (r *room) piece() int64 { return min(agentShare, r.size/4) }

// stuck says whether nothing leaves memory, neither to Kafka nor to disk. Then
// shares serve nobody, and agents may fill all of it.
func (r *room) stuck(is bool) {
	want := r.piece()
	if is {
		want = r.size
	}
	if r.share.Swap(want) >= want {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for slot := range r.waiting {
		r.wake(slot)
	}
}

// slotOf is the slot of a key with that hash.
func slotOf(hash uint32) uint16 { return uint16(hash * 2654435769 >> 20) }

// tryShare takes n bytes of a slot; a slot that is empty gives any number.
func (r *room) tryShare(slot uint16, n int64) bool {
	for held := &r.held[slot]; ; {
		has := held.Load()
		if has != 0 && has+n > r.share.Load() {
			return false
		}
		if held.CompareAndSwap(has, has+n) {
			return true
		}
	}
}

// waitShare waits until a slot has n bytes.
func (r *room) waitShare(ctx context.Context, slot uint16, n int64) error {
	for {
		ready := make(chan struct{}, 1)
		r.mu.Lock()
		r.waiting[slot] = append(r.waiting[slot], ready)
		r.waits.Add(1)
		r.mu.Unlock()
		if r.tryShare(slot, n) { // what was given back meanwhile told nobody
			r.forget(slot, ready)
			return nil
		}
		select {
		case <-ready:
		case <-ctx.Done():
			r.forget(slot, ready)
			return context.Cause(ctx)
		}
		if r.tryShare(slot, n) {
			return nil
		}
	}
}

// forget takes a waiter out of its queue, if it is still there.
func (r *room) forget(slot uint16, ready chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	queue := r.waiting[slot]
	if i := slices.Index(queue, ready); i >= 0 {
		r.waits.Add(-1)
		r.waiting[slot] = slices.Delete(queue, i, i+1)
		if len(queue) == 1 {
			delete(r.waiting, slot)
		}
	}
}

// giveShare gives n bytes of a slot back.
func (r *room) giveShare(slot uint16, n int64) {
	r.held[slot].Add(-n)
	if r.waits.Load() == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wake(slot)
}

// wake has all who wait for a slot try again. It needs the lock.
func (r *room) wake(slot uint16) {
	for _, ready := range r.waiting[slot] {
		ready <- struct{}{}
		r.waits.Add(-1)
	}
	delete(r.waiting, slot)
}

// give gives back all that b has.
func (r *room) give(b *batch) {
	r.all.Release(b.charge)
	r.giveShares(b)
}

func (r *room) giveShares(b *batch) {
	for _, s := range b.shares {
		r.giveShare(s.slot, int64(s.bytes))
	}
	b.shares = b.shares[:0]
}

// tryRoom takes charge bytes of the slot if fair is set, and then of the room. It
// tells whether it has the first, and whether it has both.
func (l *Log) tryRoom(slot uint16, fair bool, charge int64) (shared, all bool) {
	shared = !fair || l.room.tryShare(slot, charge)
	return shared, shared && l.room.all.TryAcquire(charge)
}

// waitForRoom takes charge bytes of the room, and of the slot if fair is set.
func (l *Log) waitForRoom(ctx context.Context, slot uint16, fair bool, charge int64) error {
	shared, all := l.tryRoom(slot, fair, charge)
	if all {
		return nil
	}
	l.metrics.waits.Inc()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.ending, func() { cancel(fleet.ErrClosed) })()
	if !shared {
		if err := l.room.waitShare(ctx, slot, charge); err != nil {
			return fmt.Errorf("waiting for an agent's share of the record log: %w", err)
		}
	}
	if err := l.room.all.Acquire(ctx, charge); err != nil {
		if fair {
			l.room.giveShare(slot, charge)
		}
		return fmt.Errorf("waiting for room in the record log: %w", context.Cause(ctx))
	}
	return nil
}
