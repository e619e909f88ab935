// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

// How batches go from one place to another while a spool begins or a partition
// goes away, seen from inside: from outside the moments are too short.

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestHalvedBatchStaysInFront has a spool begin at the very moment at which a batch in
// flight lands because it is too large: its records go to disk before younger ones.
func TestHalvedBatchStaysInFront(t *testing.T) {
	p := spoolingPartition(t, 0)
	s := p.spool
	p.spool = nil
	for range 20 {
		old, young := &batch{}, &batch{}
		old.reset()
		for i := range 5000 { // it takes a while to split
			old.add(noon, "key", fmt.Appendf(nil, "old %d", i), nil)
		}
		young.reset()
		young.add(noon, "key", []byte("young"), nil)
		p.flight, p.sealed, p.spooling = flight{batch: old}, []*batch{young}, spooling{}
		var first *batch
		var looks atomic.Bool
		var writer sync.WaitGroup
		writer.Go(func() {
			for first == nil {
				p.mu.Lock()
				if p.flight.batch == nil { // it may begin to spool
					p.spool = s
				}
				p.mu.Unlock()
				looks.Store(true)
				if bs, _, _ := p.toWrite(s, time.Now(), 0); len(bs) > 0 {
					first = bs[0]
				}
			}
		})
		for !looks.Load() {
			<-time.After(time.Microsecond)
		}
		p.tooLarge(old)
		writer.Wait()
		if first == young {
			t.Fatal("a younger batch goes to disk before the halves of an older one")
		}
	}
}

// movingLog is a Log that does not run, of so many partitions.
func movingLog(t *testing.T, partitions int) *Log {
	t.Helper()
	l := spoolingPartition(t, 0).log
	for i := range partitions {
		l.parts = append(l.parts, newPartition(l, i))
	}
	l.all = append(l.all, l.parts...)
	return l
}

// kept is a batch of an entry that is on disk as well, and who waits for it.
func (l *Log) kept(records int) (*batch, *ticket) {
	waits := &ticket{done: make(chan struct{})}
	waits.left.Store(1)
	b := &batch{}
	b.reset()
	for i := range records {
		b.add(noon, fmt.Sprint("key", i), []byte("record"), nil)
	}
	b.moves, b.kept = []*ticket{waits}, records
	l.book.received(records, b.charge)
	_ = l.room.all.Acquire(l.ending, b.charge)
	return b, waits
}

// TestTicketOfAnEntryThatMovesTwice: an entry is settled when its records are, also
// if they move on before they are sent.
func TestTicketOfAnEntryThatMovesTwice(t *testing.T) {
	l := movingLog(t, 3)
	b, waits := l.kept(20)
	l.moveAll([]*batch{b})
	gone := l.parts[2]
	l.parts = l.parts[:2]
	gone.retire()
	moved := gone.drain()
	if len(moved) != 1 || moved[0].count == 0 {
		t.Fatal("no record was moved to the partition that goes away")
	}
	l.reroute(moved)
	for _, p := range l.parts {
		select {
		case <-waits.done:
			t.Fatal("the entry counts as settled while a part of it is in memory only")
		default:
		}
		for b, _ := p.next(noon, true); b != nil; b, _ = p.next(noon, true) {
			p.settle(b)
		}
	}
	select {
	case <-waits.done:
	default:
		t.Error("the entry is not settled when all of its records are")
	}
}

// TestLedgerOfMovedRecordsAtTheEnd: what is given up in memory and is on disk still
// counts as spooled, and only that.
func TestLedgerOfMovedRecordsAtTheEnd(t *testing.T) {
	l := movingLog(t, 2)
	b, _ := l.kept(20)
	l.moveAll([]*batch{b})
	for i := range 10 {
		if err := l.Append(t.Context(), fmt.Sprint("key", i), [][]byte{[]byte("new")}, nil); err != nil {
			t.Fatal(err)
		}
	}
	first, second := l.parts[0].open.split() // in part new: which half has what is not known
	l.parts[0].open = nil
	l.parts[0].giveBack(first, second)
	exact := uint64(l.parts[1].open.kept)
	l.dropRest()
	s := l.Ledger()
	if !s.Balanced() || s.Pending != 0 || s.Received != 30 || s.Spooled < exact || s.Spooled > 20 || s.Dropped[DropShutdown] < 10 {
		t.Errorf("ledger = %+v, want 10 dropped at least, %d spooled", s, exact)
	}
}
