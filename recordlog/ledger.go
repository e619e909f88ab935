// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"maps"
	"sync"
	"time"
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
	// DropSpoolDamaged: the disk gave back other bytes than were written.
	DropSpoolDamaged DropReason = "spool_damaged"
)

var dropReasons = []DropReason{DropShutdown, DropStopped, DropCanceled, DropSpoolDamaged}

// Ledger counts records since the start of the process. At every moment
// Received = Delivered + Pending + Spooled + Refused + the sum of Dropped.
type Ledger struct {
	// Received counts what was appended, and what was found in the spool at the
	// start; Recovered tells how many of them the latter are.
	Received  uint64                `json:"received"`
	Recovered uint64                `json:"recovered"`
	Delivered uint64                `json:"delivered"` // acknowledged by Kafka
	Pending   uint64                `json:"pending"`   // held in memory
	Spooled   uint64                `json:"spooled"`   // held on disk
	Refused   uint64                `json:"refused"`   // larger than Kafka takes
	Dropped   map[DropReason]uint64 `json:"dropped"`

	PendingBytes int64 `json:"pending_bytes"`
	SpooledBytes int64 `json:"spooled_bytes"` // on disk, of all files of the spool
	// SpoolOldest is when the oldest spooled record came, or a little earlier;
	// zero if none is spooled.
	SpoolOldest time.Time `json:"spool_oldest,omitzero"`
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

func (k *book) pendingBytes() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now.PendingBytes
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

// droppedAtEnd gives up a batch in memory; what of it is on disk too stays there.
func (k *book) droppedAtEnd(b *batch) {
	k.settle(b, func(n uint64) {
		k.now.Spooled += uint64(b.kept)
		k.now.Dropped[DropShutdown] += n - uint64(b.kept)
	})
}

func (k *book) possiblyDoubled(records int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now.PossibleDuplicates += uint64(records)
}

// spooled moves batches from memory to disk.
func (k *book) spooled(bs []*batch) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, b := range bs {
		k.now.Spooled += uint64(b.count)
		k.leavePending(b)
	}
}

// unspooled moves a batch from disk to memory.
func (k *book) unspooled(b *batch) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now.Spooled -= uint64(b.count)
	k.now.Pending += uint64(b.count)
	k.now.PendingBytes += b.charge
}

// recovered counts records that were found on disk at the start; doubtful ones
// may be in Kafka already.
func (k *book) recovered(records, doubtful uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now.Received += records
	k.now.Recovered += records
	k.now.Spooled += records
	k.now.PossibleDuplicates += doubtful
}

// spoolLost counts records that the disk did not keep.
func (k *book) spoolLost(records uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now.Spooled -= records
	k.now.Dropped[DropSpoolDamaged] += records
}

// settle takes b out of pending, or of spooled, and enters it elsewhere.
func (k *book) settle(b *batch, enter func(records uint64)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	enter(uint64(b.count))
	if b.spooled {
		k.now.Spooled -= uint64(b.count)
		return
	}
	k.leavePending(b)
}

// leavePending needs the lock.
func (k *book) leavePending(b *batch) {
	k.now.Pending -= uint64(b.count)
	k.now.PendingBytes -= b.charge
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
