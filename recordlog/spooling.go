// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"muster/internal/lifecycle"
)

const (
	// failingAfter is how long deliveries fail before a partition spools.
	failingAfter = time.Second
	// hangingAfter is how long an attempt may be without an answer before that.
	hangingAfter = 2 * time.Second
	// lookEvery is how often that is looked at.
	lookEvery = 250 * time.Millisecond
	// spoolLinger is how long a record waits in memory for others before it is
	// written to disk, unless a batch is full.
	spoolLinger = 50 * time.Millisecond
	// spoolRetry is the pause after the disk took nothing.
	spoolRetry = time.Second
	// writeBytes is about how much is written with one sync.
	writeBytes = 2 * batchBytes
	// mergeBelow is the size under which entries are put together when they are
	// sent: slow brokers take many records at once as fast as a few.
	mergeBelow = batchBytes / 4
)

// spooling is the state of a partition whose records go to disk. The partition's
// lock guards it, but only the sender sets spool to nil again.
type spooling struct {
	spool  *spoolLog // nil: records go to Kafka directly
	inHand []*batch  // what the writer brings to disk just now
	hold   bool      // the writer is to take no more: the disk is about to be empty
	// written is closed when the writer has ended.
	written chan struct{}
}

// watchSpools looks which partitions hang or have to spool, and whether anything
// moves.
func (l *Log) watchSpools(ctx context.Context, group *lifecycle.Group) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	ending := l.ending.Done()
	for {
		select {
		case <-ticker.C:
		case <-ending: // what fails is spooled at once
			ending = nil
		case <-ctx.Done():
			return
		}
		l.spools.watch(time.Now())
		s := l.Status()
		l.room.stuck(!s.Up && (l.spools == nil || s.SpoolError != ""))
		half := l.book.pendingBytes() > l.opts.MaxPendingBytes/2
		l.mu.RLock()
		for _, p := range l.all {
			if l.spools != nil && p.mustSpool(time.Now(), half, ending == nil) {
				p.beginSpool(group)
			}
			p.tellHang()
			p.leaveHangingDisk(time.Now())
		}
		l.mu.RUnlock()
	}
}

// spoolAll has every partition spool that has something in memory; it returns
// false if there is none.
func (l *Log) spoolAll(group *lifecycle.Group) (found bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, p := range l.all {
		if p.id >= 0 && p.holds() {
			p.beginSpool(group)
			found = true
		}
	}
	return found
}

// mustSpool judges whether records have to go to disk: deliveries fail, and not
// only for a moment. A broker that answers slowly is no reason.
func (p *partition) mustSpool(now time.Time, halfFull, ending bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	fails := !p.fault.since.IsZero()
	hangs := p.hangs(now)
	if p.hold && hangs {
		p.hold = false
		notify(p.spill)
	}
	if p.spool != nil || p.retired || p.id < 0 || p.flight.batch == nil {
		return false
	}
	return hangs || fails && (halfFull || ending || now.Sub(p.fault.since) > failingAfter)
}

// hangs tells whether an attempt is without an answer for long. It needs the lock.
func (p *partition) hangs(now time.Time) bool {
	return !p.fault.trying.IsZero() && now.Sub(p.fault.trying) > hangingAfter
}

// tellHang has the status say that an attempt hangs, long before it times out.
func (p *partition) tellHang() {
	hangs := func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.hangs(time.Now())
	}
	if !hangs() {
		return
	}
	p.log.health.partitionFailed(p.id, fmt.Sprintf("no answer from %s for over %s; it is stopped, overloaded or cut off",
		cmp.Or(p.log.cluster.Load().leader(p.id), "a broker"), hangingAfter))
	if !hangs() { // it came meanwhile, and may have been noted before that
		p.log.health.partitionOK(p.id)
	}
}

// holds tells whether records are in memory.
func (p *partition) holds() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flight.batch != nil && !p.flight.batch.spooled || len(p.sealed) > 0 || p.open != nil
}

// beginSpool starts the writer, unless there is one.
func (p *partition) beginSpool(group *lifecycle.Group) {
	p.mu.Lock()
	defer p.mu.Unlock()
	dir := p.log.spools.partitionDir(p.id)
	if p.spool == nil && !p.retired && p.log.spools.claim(dir) {
		p.startWriter(newSpoolLog(p.log.spools, dir), false, group)
	}
}

// startWriter has the partition spool to s, which an earlier process may have
// left. It needs the lock, or a partition that nobody else knows yet.
func (p *partition) startWriter(s *spoolLog, found bool, group *lifecycle.Group) {
	p.spooling = spooling{spool: s, written: make(chan struct{})}
	done := p.written
	group.Go("spool of partition "+strconv.Itoa(p.id), func(ctx context.Context) error {
		defer close(done)
		p.log.spools.begins(found)
		if p.writeSpool(ctx, s) {
			p.log.spools.ends()
		}
		return nil
	})
	notify(p.spill)
	notify(p.wake)
}

// writeSpool brings the partition's records to disk until it no longer spools;
// then it returns true. It also ends when ctx does or the partition is gone.
func (p *partition) writeSpool(ctx context.Context, s *spoolLog) (drained bool) {
	c, _ := newCompressor(p.log.opts.Compression)
	timer := time.NewTimer(0)
	defer timer.Stop()
	ending, patience := p.log.ending.Done(), spoolLinger
	for {
		bs, wait, on := p.toWrite(s, time.Now(), patience)
		if !on {
			return !p.spoolsTo(s)
		}
		if len(bs) > 0 {
			err := s.append(p.writesOf(bs, c))
			if !p.wroteSpool(s, bs, err) { // taken back meanwhile
				if p.spoolsTo(s) {
					return false
				}
				s.remove()
				return true
			}
			p.log.spools.wrote(err)
			if err == nil {
				continue
			}
			wait = spoolRetry
		}
		var due <-chan time.Time
		if wait > 0 {
			timer.Reset(wait)
			due = timer.C
		}
		spill := p.spill
		if wait == spoolRetry {
			spill = nil
		}
		select {
		case <-spill:
		case <-due:
		case <-ending:
			ending, patience = nil, 0
		case <-ctx.Done():
			return false
		}
	}
}

// spoolsTo tells whether s is still the partition's spool.
func (p *partition) spoolsTo(s *spoolLog) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spool == s
}

// toWrite takes what is to be brought to disk now: the batch in flight, full
// ones, and the open one if it is as old as patience. Without any it returns how
// long to wait for that, 0 if there is nothing. On is false once the partition no
// longer spools to s.
func (p *partition) toWrite(s *spoolLog, now time.Time, patience time.Duration) (bs []*batch, wait time.Duration, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spool != s || p.retired {
		return nil, 0, false
	}
	f := &p.flight
	inMemory := f.batch != nil && !f.batch.spooled
	if p.hold || inMemory && f.wire == nil { // it will tell
		return nil, 0, true
	}
	size := 0
	if inMemory {
		f.copied = make(chan struct{})
		bs, size = append(bs, f.batch), len(f.wire)
	}
	for len(p.sealed) > 0 && size < writeBytes {
		b := p.sealed[0]
		p.sealed[0] = nil
		p.sealed = p.sealed[1:]
		bs, size = append(bs, b), size+len(b.buf)
	}
	if p.open != nil && len(p.sealed) == 0 {
		wait = patience - max(now.Sub(p.open.opened), 0)
		if wait <= 0 || len(bs) > 0 {
			bs = append(bs, p.open)
			p.open = nil
		}
	}
	p.inHand = bs
	return bs, max(wait, 0), true
}

// writesOf is what the spool keeps of batches that toWrite returned.
func (p *partition) writesOf(bs []*batch, c compressor) []write {
	p.mu.Lock()
	f := p.flight
	p.mu.Unlock()
	writes := make([]write, len(bs))
	for i, b := range bs {
		var head [recordsAt]byte
		wire := f.wire
		if b == f.batch {
			head = f.head // the sender stamps its own
		} else {
			wire, _ = c.wireOf(b, nil)
			copy(head[:], wire)
		}
		clear(head[offCRC:offAttributes])
		clear(head[offProducerID:offCount])
		writes[i] = write{
			records: uint32(b.count), oldest: b.opened, flying: b == f.batch, sent: b == f.batch && f.sent,
			head: head[offBaseOffset:], rest: wire[recordsAt:],
		}
	}
	return writes
}

// wroteSpool gives back the memory of batches that are on disk, or puts them
// back in front of the others if err says that they are not. It returns false if
// they are not the writer's any more, see spoolhang.go.
func (p *partition) wroteSpool(s *spoolLog, bs []*batch, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spool != s || len(p.inHand) == 0 {
		return false
	}
	l := p.log
	if err == nil {
		l.book.spooled(bs)
		for _, b := range bs {
			l.room.give(b)
			for _, t := range b.moves {
				t.leave()
			}
			b.moves = nil
		}
	}
	rest := p.handBack(err == nil)
	if err != nil {
		p.giveBack(rest...)
	} else {
		for _, b := range rest {
			p.recycle(b)
		}
	}
	notify(p.wake)
	return true
}

// handBack takes from the writer what it has in hand: the batch in flight is the
// sender's again, the others are returned. It needs the lock.
func (p *partition) handBack(spooled bool) (rest []*batch) {
	rest, p.inHand = p.inHand, nil
	if f := &p.flight; f.copied != nil {
		f.batch.spooled = spooled
		close(f.copied)
		f.copied = nil
		rest = rest[1:]
	}
	return rest
}

// toSend returns the batch to send now, from disk while the partition spools,
// else as next does.
func (p *partition) toSend(hurry bool) (b *batch, wait time.Duration) {
	for {
		p.mu.Lock()
		s := p.spool
		p.mu.Unlock()
		if s == nil {
			return p.next(time.Now(), hurry)
		}
		if p.finished() {
			return nil, 0
		}
		if len(p.replay) == 0 {
			p.readSpool(s)
		}
		if len(p.replay) > 0 {
			b = p.replay[0]
			p.replay = p.replay[1:]
			return b, 0
		}
		if s.unread() {
			continue
		}
		if !p.endSpool(s) {
			return nil, 0
		}
	}
}

// endSpool goes back to sending directly if nothing is on disk nor on its way
// there; else the writer is asked to take no more, and wakes the sender.
func (p *partition) endSpool(s *spoolLog) bool {
	p.mu.Lock()
	p.hold = true
	writing, busy := len(p.inHand) > 0, s.unread()
	p.mu.Unlock()
	if writing {
		return false
	}
	if busy {
		return true // look again
	}
	s.remove()
	p.mu.Lock()
	p.spooling = spooling{}
	notify(p.spill)
	p.mu.Unlock()
	return true
}

// readSpool reads what is sent next into p.replay: one entry, or several small
// ones put together.
func (p *partition) readSpool(s *spoolLog) {
	b := p.readEntry(s)
	if b == nil {
		return
	}
	p.replay = append(p.replay[:0], b)
	if len(b.wire) >= mergeBelow || !s.unread() || b.unpack() != nil {
		return
	}
	for limit := p.log.limits.batch.Load(); s.unread(); {
		more := p.readEntry(s)
		if more == nil {
			return
		}
		if len(more.wire) >= mergeBelow || more.unpack() != nil || b.charge+more.charge > limit {
			p.replay = append(p.replay, more)
			return
		}
		more.each(func(ms int64, key, value []byte) { appendRecord(b, ms, key, value, nil) })
	}
}

// readEntry reads the next entry and counts those that are lost before it. Nil
// means that there is none.
func (p *partition) readEntry(s *spoolLog) *batch {
	f := s.readNext()
	if f.lost > 0 {
		p.log.book.spoolLost(f.lost)
	}
	if f.batch == nil && f.lost > 0 && len(p.replay) == 0 {
		s.settle()
	}
	return f.batch
}

// unreadable gives up a batch of the spool whose records cannot be told apart.
func (p *partition) unreadable(b *batch, err error) {
	p.log.spools.damaged(p.log.spools.partitionDir(p.id), 0, err)
	p.log.book.spoolLost(uint64(b.count))
	p.settled(b)
}

// finished tells whether the sender has nothing to do any more: the Log ends, and
// what is not delivered is on disk.
func (p *partition) finished() bool {
	if p.log.ending.Err() == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flight.batch != nil && !p.flight.batch.spooled {
		return false
	}
	return len(p.sealed) == 0 && p.open == nil && len(p.inHand) == 0
}

// moveAway puts all that a partition which is gone holds where its keys belong
// now: first what is on disk, an entry at a time, each removed once it is
// delivered or on disk there, then what is in memory.
func (p *partition) moveAway(ctx context.Context) {
	p.mu.Lock()
	s, written := p.spool, p.written
	p.mu.Unlock()
	if s != nil {
		<-written
		for ctx.Err() == nil && p.log.ending.Err() == nil && (len(p.replay) > 0 || s.unread()) {
			p.moveEntry(ctx, s)
		}
		if len(p.replay) == 0 && !s.unread() {
			s.remove()
			p.mu.Lock()
			p.spooling = spooling{}
			p.mu.Unlock()
			p.log.spools.ends()
		}
	}
	p.log.reroute(p.drain())
}

// moveEntry moves one entry of the spool, what was read already first, and waits
// until that is settled. When the Log ends it moves none, and waits on: what is
// settled before the end of ctx is not sent again after the next start.
func (p *partition) moveEntry(ctx context.Context, s *spoolLog) {
	l := p.log
	acquiring, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ending, cancel)()
	if len(p.replay) == 0 {
		b := p.readEntry(s)
		if b == nil {
			return
		}
		p.replay = append(p.replay, b)
	}
	b := p.replay[0]
	p.replay = p.replay[1:]
	if err := b.unpack(); err != nil {
		p.unreadable(b, err)
		return
	}
	if l.room.all.Acquire(acquiring, b.charge) != nil {
		s.rewind()
		return
	}
	s.sending()
	t := &ticket{done: make(chan struct{})}
	t.left.Store(1)
	b.moves, b.kept = []*ticket{t}, b.count
	l.mu.RLock()
	if l.stopped {
		l.mu.RUnlock()
		l.room.all.Release(b.charge)
		s.rewind()
		return
	}
	l.book.unspooled(b)
	l.moveAll([]*batch{b})
	l.mu.RUnlock()
	select {
	case <-t.done:
		if len(p.replay) == 0 {
			s.settle()
		}
	case <-ctx.Done():
		s.rewind()
	}
}
