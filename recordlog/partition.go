// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"context"
	"sync"
	"time"
)

// partition holds the records of one partition of the topic in the order in
// which they came, and sends them from one goroutine, a batch at a time.
type partition struct {
	log *Log
	id  int
	// wake is told that there is a first record, a full batch, or a retirement.
	wake chan struct{}

	mu      sync.Mutex
	sealed  []*batch // full, oldest first
	open    *batch   // being filled; nil if empty
	retired bool     // the topic no longer has this partition

	// The sender's own.
	conn       *conn
	producer   producer
	compressor compressor
	scratch    []byte
}

func newPartition(l *Log, id int) *partition {
	c, _ := newCompressor(l.opts.Compression) // validated by New
	return &partition{log: l, id: id, wake: make(chan struct{}, 1), compressor: c}
}

// put encodes records, all but those that are too large.
func (p *partition) put(now time.Time, key string, records [][]byte, suffix []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range records {
		charge := recordCharge(len(key), len(r)+len(suffix))
		if !p.log.tooLarge(charge) {
			p.fillable(charge).add(now, key, r, suffix)
		}
	}
}

// putAgain takes over the records of a batch of another partition that belong here.
func (p *partition) putAgain(from *batch, ms int64, key, value []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.fillable(recordCharge(len(key), len(value)))
	if b.count == 0 {
		b.opened = from.opened
	}
	appendRecord(b, ms, key, value, nil)
}

// fillable returns the open batch, a new one if the old has no room for a
// record of that charge. It needs the lock.
func (p *partition) fillable(charge int64) *batch {
	if p.open != nil && int64(len(p.open.buf))+charge > batchBytes {
		p.sealed = append(p.sealed, p.open)
		p.open = nil
		p.signal()
	}
	if p.open == nil {
		p.open = p.fresh()
		p.signal()
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
	b.reset()
	p.log.spare.Put(b)
}

func (p *partition) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// next returns the batch to send now: the oldest full one, or the open one once
// it is as old as patience. With nil it returns how long to wait for that, 0 if
// there is nothing at all.
func (p *partition) next(now time.Time, patience time.Duration) (b *batch, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.sealed) > 0 {
		b = p.sealed[0]
		p.sealed[0] = nil
		p.sealed = p.sealed[1:]
		return b, 0
	}
	if p.open == nil {
		return nil, 0
	}
	if age := now.Sub(p.open.opened); age < patience {
		return nil, patience - max(age, 0)
	}
	b, p.open = p.open, nil
	return b, 0
}

// giveBack puts batches before all others.
func (p *partition) giveBack(bs ...*batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sealed = append(append([]*batch(nil), bs...), p.sealed...)
}

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
	p.signal()
}

func (p *partition) isRetired() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.retired
}

// run sends batches until ctx ends or the partition is gone. Towards the
// Log's end it no longer waits for batches to fill.
func (p *partition) run(ctx context.Context) {
	defer func() {
		p.conn.close()
		p.log.health.partitionOK(p.id)
		if p.isRetired() {
			p.log.reroute(p.drain())
		}
	}()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	ending, patience := p.log.ending.Done(), linger
	for ctx.Err() == nil && !p.isRetired() {
		b, wait := p.next(time.Now(), patience)
		if b != nil {
			p.deliver(ctx, b)
			continue
		}
		var full <-chan time.Time
		if wait > 0 {
			timer.Reset(wait)
			full = timer.C
		}
		select {
		case <-p.wake:
		case <-full:
		case <-ending:
			ending, patience = nil, 0
		case <-ctx.Done():
		}
	}
}

// deliver sends b until it is settled, ctx ends or the partition is gone; then
// it gives b back.
func (p *partition) deliver(ctx context.Context, b *batch) {
	var wire []byte
	wire, p.scratch = p.compressor.wireOf(b, p.scratch)
	for failures := 0; ; {
		err := p.send(ctx, b, wire)
		if ctx.Err() != nil && err != nil {
			p.giveBack(b)
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
			p.log.failed(p.id, failures, err, o)
		}
		if !p.pause(ctx, failures) {
			p.giveBack(b)
			return
		}
	}
}

// settle enters b as delivered.
func (p *partition) settle(b *batch) {
	l := p.log
	p.producer.advance(b.count)
	l.book.delivered(b)
	l.room.Release(b.charge)
	l.health.partitionOK(p.id)
	p.recycle(b)
}

// tooLarge halves a batch that the broker finds too large; a single record is refused.
func (p *partition) tooLarge(b *batch) {
	l := p.log
	l.metrics.retries.WithLabelValues(reasonTooLarge).Inc()
	if b.count > 1 {
		first, second := b.split()
		p.giveBack(first, second)
		return
	}
	b.each(func(_ int64, key, _ []byte) { l.reportLarge(string(key), 1, b.charge) })
	l.book.refused(b)
	l.room.Release(b.charge)
	p.recycle(b)
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

// pause waits before the next attempt. It returns false if there is none.
func (p *partition) pause(ctx context.Context, failures int) bool {
	timer := time.NewTimer(backoff(failures))
	defer timer.Stop()
	for !p.isRetired() {
		select {
		case <-timer.C:
			return true
		case <-p.wake: // perhaps of a retirement; records can wait
		case <-ctx.Done():
			return false
		}
	}
	return false
}
