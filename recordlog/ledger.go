// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"maps"
	"sync"
)

// DropReason says why records were dropped. The set is fixed.
type DropReason string

// The reasons for which records are dropped.
const (
	// DropShutdown: not delivered within FlushTimeout at the end.
	DropShutdown DropReason = "shutdown"
	// DropStopped: appended after the end.
	DropStopped DropReason = "stopped"
	// DropCanceled: the caller stopped waiting for room.
	DropCanceled DropReason = "canceled"
)

var dropReasons = []DropReason{DropShutdown, DropStopped, DropCanceled}

// Ledger counts records since the start of the process. At every moment
// Received = Delivered + Pending + Spooled + Refused + the sum of Dropped.
type Ledger struct {
	Received  uint64                `json:"received"`
	Delivered uint64                `json:"delivered"` // acknowledged by Kafka
	Pending   uint64                `json:"pending"`   // held in memory
	Spooled   uint64                `json:"spooled"`   // held on disk
	Refused   uint64                `json:"refused"`   // larger than Kafka takes
	Dropped   map[DropReason]uint64 `json:"dropped"`

	PendingBytes int64 `json:"pending_bytes"`
	// PossibleDuplicates were sent again under another producer ID after an
	// attempt without an answer. They are counted elsewhere too.
	PossibleDuplicates uint64 `json:"possible_duplicates"`
}

// Balanced reports whether the law holds.
func (l Ledger) Balanced() bool {
	sum := l.Delivered + l.Pending + l.Spooled + l.Refused
	for _, n := range l.Dropped {
		sum += n
	}
	return l.Received == sum
}

// book keeps the ledger. Every entry moves records between terms under one
// lock, so that any snapshot balances.
type book struct {
	mu     sync.Mutex
	now    Ledger
	closed bool          // set by drained: nothing is received any more
	empty  chan struct{} // closed when nothing is pending after drained
}

func newBook() *book {
	return &book{now: Ledger{Dropped: make(map[DropReason]uint64)}, empty: make(chan struct{})}
}

// snapshot returns a copy.
func (k *book) snapshot() Ledger {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.now
	l.Dropped = maps.Clone(l.Dropped)
	return l
}

func (k *book) received(records int, charge int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now.Received += uint64(records)
	k.now.Pending += uint64(records)
	k.now.PendingBytes += charge
}

// receivedAndDropped counts records that were never held.
func (k *book) receivedAndDropped(records int, why DropReason) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now.Received += uint64(records)
	k.now.Dropped[why] += uint64(records)
}

func (k *book) receivedAndRefused(records int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now.Received += uint64(records)
	k.now.Refused += uint64(records)
}

func (k *book) delivered(b *batch) {
	k.settle(b, func(n uint64) { k.now.Delivered += n })
}

func (k *book) refused(b *batch) {
	k.settle(b, func(n uint64) { k.now.Refused += n })
}

func (k *book) dropped(b *batch, why DropReason) {
	k.settle(b, func(n uint64) { k.now.Dropped[why] += n })
}

func (k *book) possiblyDoubled(records int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now.PossibleDuplicates += uint64(records)
}

// settle takes b out of pending and enters it elsewhere.
func (k *book) settle(b *batch, enter func(records uint64)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now.Pending -= uint64(b.count)
	k.now.PendingBytes -= b.charge
	enter(uint64(b.count))
	if k.closed && k.now.Pending == 0 {
		k.closeEmpty()
	}
}

// drained returns a channel that closes when nothing is pending. The caller
// sees to it that nothing is received any more.
func (k *book) drained() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	if k.now.Pending == 0 {
		k.closeEmpty()
	}
	return k.empty
}

// closeEmpty needs the lock.
func (k *book) closeEmpty() {
	select {
	case <-k.empty:
	default:
		close(k.empty)
	}
}
