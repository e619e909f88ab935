// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"context"
	"slices"
	"sync"
	"time"
)

// partition holds the records of one partition of the topic in the order in
// which they came, and sends them from one goroutine, a batch at a time. While
// it spools, see spooling.go, another goroutine brings them to disk instead, and
// the sender reads them there.
type partition struct {
	log *Log
	id  int
	// wake is told that there is a full batch, something on disk, or a retirement;
	// spill tells the spool's writer that there is work.
	wake, spill chan struct{}
	// due fires when the open batch is to be sent. Whoever opens it sets it, so
	// that the sender is woken once a batch and not for its first record as well.
	due *time.Timer

	mu      sync.Mutex
	sealed  []*batch // full, oldest first
	open    *batch   // being filled; nil if empty
	retired bool     // the topic no longer has this partition
	flight  flight
	fault   fault
	spooling

	sender
}

// sender is what only a partition's sender touches.
type sender struct {
	conn       *conn
	producer   producer
	compressor compressor
	scratch    []byte
	replay     []*batch // of the spool, read and not settled, in order
}

// flight is the batch that the sender tries to deliver.
type flight struct {
	batch *batch
	wire  []byte          // what is sent; nil until it is made. Only the header changes.
	head  [recordsAt]byte // the header, unstamped
	// sent says that the broker may have the batch.
	sent bool
	// copied is there while the spool's writer copies the batch, and closed when
	// it has; until then the sender leaves the batch as it is.
	copied  chan struct{}
	awaited bool // the sender waits for that
}

// fault tells since when deliveries fail.
type fault struct {
	since  time.Time // of the first failure in a row; zero if the last attempt was good
	trying time.Time // when the attempt in progress began; zero between attempts
}

func newPartition(l *Log, id int) *partition {
	c, _ := newCompressor(l.opts.Compression) // validated by New
	return &partition{
		log: l, id: id, wake: make(chan struct{}, 1), spill: make(chan struct{}, 1),
		due: time.NewTimer(time.Hour), sender: sender{compressor: c},
	}
}

// put encodes records, all but those that are too large, and notes whose share
// of the room they are.
func (p *partition) put(now time.Time, m message, of share) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range m.records {
		if charge := recordCharge(len(m.key), len(r)+len(m.suffix)); charge <= m.fits {
			p.fillable(charge).add(now, m.key, r, m.suffix)
		}
	}
	if of.bytes > 0 {
		p.open.shares = append(p.open.shares, of)
	}
}

// putAgain takes over a record of a batch of another partition that belongs here,
// and with it those who wait for that batch to be settled.
func (p *partition) putAgain(from *batch, ms int64, key, value []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.fillable(recordCharge(len(key), len(value)))
	if b.count == 0 {
		b.opened = from.opened
	}
	appendRecord(b, ms, key, value, nil)
	if from.kept == from.count {
		b.kept++
	}
	for _, t := range from.moves {
		if !slices.Contains(b.moves, t) {
			t.left.Add(1)
			b.moves = append(b.moves, t)
		}
	}
}

// fillable returns the open batch, a new one if the old has no room for a
// record of that charge. It needs the lock.
func (p *partition) fillable(charge int64) *batch {
	if p.open != nil && int64(len(p.open.buf))+charge > p.log.limits.batch.Load() {
		p.sealed = append(p.sealed, p.open)
		p.open = nil
		p.signal()
	}
	if p.open == nil {
		p.open = p.fresh()
		if p.spool == nil {
			p.due.Reset(untilFlush(time.Now()))
		} else {
			notify(p.spill)
		}
	}
	return p.open
}

// fresh returns an empty batch. It needs the lock.
func (p *partition) fresh() *batch {
	if b, ok := p.log.spare.Get().(*batch); ok {
		return b
	}
	b := &batch{}
	if len(p.sealed) > 0 { // a backlog: it will be filled
		b.buf = make([]byte, 0, batchBytes)
	}
	b.reset()
	return b
}

// recycle keeps a settled batch's memory for others.
func (p *partition) recycle(b *batch) {
	if cap(b.buf) > 2*batchBytes {
		return // of a record that is rarely so large
	}
	b.reset()
	p.log.spare.Put(b)
}

// signal tells whoever takes batches now. It needs the lock.
func (p *partition) signal() {
	if p.spool != nil {
		notify(p.spill)
		return
	}
	notify(p.wake)
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// next returns the batch to send now: the oldest full one, or the open one if
// its time has come, or at once in a hurry. With nil it returns how long to wait
// for that, 0 if there is nothing at all.
func (p *partition) next(now time.Time, hurry bool) (b *batch, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spool != nil { // since a moment: what is in memory goes behind what is there
		notify(p.wake)
		return nil, 0
	}
	if len(p.sealed) > 0 {
		b = p.sealed[0]
		p.sealed[0] = nil
		p.sealed = p.sealed[1:]
		p.flight = flight{batch: b}
		return b, 0
	}
	if p.open == nil {
		return nil, 0
	}
	if opened := p.open.opened; !hurry {
		// More than that says that the clock was set back since a record, moved from
		// a spool, was written there.
		if wait = untilFlush(opened) - now.Sub(opened); wait > 0 && wait <= flushEvery {
			return nil, wait
		}
	}
	b, p.open = p.open, nil
	p.flight = flight{batch: b}
	return b, 0
}

// untilFlush is how long after now batches are sent next. It follows the wall
// clock only to be the same for all: waits are measured by the monotonic one.
func untilFlush(now time.Time) time.Duration {
	return flushEvery - time.Duration(now.UnixNano()%int64(flushEvery))
}

// giveBack puts batches before all others. It needs the lock.
func (p *partition) giveBack(bs ...*batch) { p.sealed = slices.Concat(bs, p.sealed) }

// drain takes everything.
func (p *partition) drain() []*batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.sealed
	if p.open != nil {
		all = append(all, p.open)
	}
	p.sealed, p.open = nil, nil
	return all
}

func (p *partition) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired = true
	notify(p.wake)
	notify(p.spill)
}

func (p *partition) isRetired() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.retired
}

// run sends batches until ctx ends or the partition is gone. Towards the
// Log's end it no longer waits for batches to fill, and ends when there are none.
func (p *partition) run(ctx context.Context) {
	defer func() {
		p.conn.close()
		p.log.health.partitionOK(p.id)
	}()
	defer p.due.Stop()
	ending, hurry := p.log.ending.Done(), false
	for ctx.Err() == nil && !p.isRetired() {
		b, wait := p.toSend(hurry)
		if b != nil {
			p.deliver(ctx, b)
			continue
		}
		if wait > 0 {
			p.due.Reset(wait)
		} else if ending == nil && p.finished() {
			return
		}
		select {
		case <-p.wake:
		case <-p.due.C:
		case <-ending:
			ending, hurry = nil, true
		case <-ctx.Done():
		}
	}
}

// deliver sends b until it is settled, ctx ends or the partition is gone; then
// it gives b back.
func (p *partition) deliver(ctx context.Context, b *batch) {
	wire := p.takeOff(b)
	for failures := 0; ; {
		p.tries(true)
		err := p.send(ctx, b, wire)
		p.tries(false)
		if ctx.Err() != nil && err != nil {
			p.giveUp(b)
			return
		}
		switch o := judge(err); {
		case o.done:
			p.settle(b)
			return
		case o.tooLarge:
			p.tooLarge(b)
			return
		default:
			p.recover(b, o)
			failures++
			p.fails(b)
			p.log.failed(p.id, failures, err, o)
		}
		if !p.pause(ctx, failures) {
			p.giveUp(b)
			return
		}
	}
}

// takeOff makes b's wire form and lets the spool's writer see it.
func (p *partition) takeOff(b *batch) []byte {
	if b.wire != nil {
		return b.wire // of the spool
	}
	var wire []byte
	wire, p.scratch = p.compressor.wireOf(b, p.scratch)
	if b.spooled {
		return wire
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flight.wire = wire
	copy(p.flight.head[:], wire)
	if p.spool != nil {
		notify(p.spill)
	}
	return wire
}

// tries notes that an attempt begins or ends.
func (p *partition) tries(begins bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault.trying = time.Time{}
	if begins {
		p.fault.trying = time.Now()
	}
}

// sends notes, before b is sent, that the broker may have it from now on: a
// crash later it counts as a possible duplicate.
func (p *partition) sends(b *batch) {
	p.mu.Lock()
	p.awaitCopy()
	s := p.spool
	if !b.spooled {
		s = nil
		p.flight.sent = true
	}
	p.mu.Unlock()
	if s != nil {
		s.sending()
	}
}

// awaitCopy waits until the spool's writer does not read the batch in flight. It
// needs the lock, and gives it up meanwhile.
func (p *partition) awaitCopy() {
	for p.flight.copied != nil {
		copied := p.flight.copied
		p.flight.awaited = true
		p.mu.Unlock()
		<-copied
		p.mu.Lock()
		p.flight.awaited = false
	}
}

// fails notes a failed attempt to send b.
func (p *partition) fails(b *batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flight.sent = b.uncertain
	if p.fault.since.IsZero() {
		p.fault.since = time.Now()
	}
	if p.hold { // what cannot be delivered goes to disk
		p.hold = false
		notify(p.spill)
	}
}

// land ends the flight of a batch, which is the sender's alone from then on. It
// needs the lock, and gives it up while the batch is copied. What goes back to
// memory has to do so before the lock is given up again: a spool that begins just
// then would take younger records first.
func (p *partition) land(delivered bool) {
	p.awaitCopy()
	p.flight = flight{}
	if delivered {
		p.fault.since = time.Time{}
	}
}

// giveUp ends the attempts to send b, which goes back to where it was: before
// all others that were read from disk, or into memory.
func (p *partition) giveUp(b *batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.land(false)
	if !b.spooled {
		p.giveBack(b)
		return
	}
	p.replay = slices.Insert(p.replay, 0, b)
	if b.uncertain && p.retired {
		p.log.book.possiblyDoubled(b.count)
	}
}

// lands is land for a batch that was answered for and does not go back.
func (p *partition) lands() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.land(true)
}

// settle enters b as delivered.
func (p *partition) settle(b *batch) {
	l := p.log
	p.lands()
	p.producer.advance(b.count)
	l.metrics.delivery.Observe(time.Since(b.opened).Seconds())
	l.book.delivered(b)
	l.health.partitionOK(p.id)
	p.settled(b)
}

// settled gives back what b took, once it is entered elsewhere.
func (p *partition) settled(b *batch) {
	for _, t := range b.moves {
		t.leave()
	}
	if b.spooled {
		if len(p.replay) == 0 {
			p.spool.settle() // the sender's own while there is one
		}
		return
	}
	p.log.room.give(b)
	p.recycle(b)
}

// tooLarge halves a batch that the broker finds too large; a single record is refused.
func (p *partition) tooLarge(b *batch) {
	l := p.log
	l.metrics.retries.WithLabelValues(reasonTooLarge).Inc()
	if err := b.unpack(); err != nil {
		p.lands()
		p.unreadable(b, err)
		return
	}
	if b.count > 1 {
		p.halve(b)
		return
	}
	p.lands()
	b.each(func(_ int64, key, _ []byte) { l.reportLarge(string(key), 1, b.charge) })
	l.book.refused(b)
	p.settled(b)
}

// halve lands a batch in two, to be sent before all others.
func (p *partition) halve(b *batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.land(true)
	first, second := b.split()
	if b.spooled {
		p.replay = slices.Insert(p.replay, 0, first, second)
	} else {
		p.giveBack(first, second)
	}
}

// recover prepares the next attempt after an error.
func (p *partition) recover(b *batch, o outcome) {
	b.uncertain = b.uncertain || o.uncertain
	if o.newProducer && p.producer.known {
		p.producer = producer{}
		if b.uncertain {
			p.log.book.possiblyDoubled(b.count)
			b.uncertain = false // counted
		}
	}
	if o.reconnect {
		p.conn.close()
		p.conn = nil
	}
}

// pause waits before the next attempt, or until another broker leads. It returns
// false if there is none.
func (p *partition) pause(ctx context.Context, failures int) bool {
	timer := time.NewTimer(backoff(failures))
	defer timer.Stop()
	leader := p.log.cluster.Load().leader(p.id)
	for !p.isRetired() && !p.finished() {
		select {
		case <-timer.C:
			return true
		case <-p.wake: // perhaps of a retirement; records can wait
			if now := p.log.cluster.Load().leader(p.id); now != "" && now != leader {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
	return false
}
