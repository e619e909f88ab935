// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"muster/fleet"
	"muster/internal/lifecycle"
)

// Log takes records and delivers them to Kafka. It is safe for concurrent use.
type Log struct {
	opts    Options
	logger  *slog.Logger
	client  *client
	metrics *metrics
	book    *book
	health  *health
	tooBig  *throttle // of log lines about refused records, by key

	room  *semaphore.Weighted // MaxPendingBytes; waiting Appends queue here
	spare sync.Pool           // of emptied batches
	// ending is done when Append no longer takes records. It is a context
	// because waiting Appends need one.
	ending context.Context
	end    context.CancelFunc

	cluster atomic.Pointer[cluster] // last metadata, nil until the first
	kick    chan struct{}           // of one: asks for metadata at once

	lanes
}

// lanes are the partitions, and whether records may still be put there.
type lanes struct {
	mu      sync.RWMutex // guards what follows; held for reading while records are put
	parts   []*partition // by number; empty until the partition count is learnt
	held    *partition   // keeps records until then
	all     []*partition // held, and every partition there ever was
	stopped bool
	started bool
}

// New checks the options. Nothing is sent until Run.
func New(opts Options) (*Log, error) {
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	client, err := newClient(opts)
	if err != nil {
		return nil, fmt.Errorf("recordlog: SASL: %w", err)
	}
	l := &Log{
		opts:   opts,
		logger: opts.Logger,
		client: client,
		book:   newBook(),
		health: newHealth(opts.Logger, opts.Brokers, time.Now()),
		tooBig: newThrottle(1024, time.Hour),
		room:   semaphore.NewWeighted(opts.MaxPendingBytes),
		kick:   make(chan struct{}, 1),
	}
	l.ending, l.end = context.WithCancel(context.Background())
	l.held = newPartition(l, -1)
	l.all = []*partition{l.held}
	if l.metrics, err = newMetrics(opts.Registerer, l); err != nil {
		return nil, err
	}
	return l, nil
}

// Ledger returns where all records are, at one moment.
func (l *Log) Ledger() Ledger { return l.book.snapshot() }

// Run delivers records until ctx ends; then it takes no more, delivers what is
// pending within Options.FlushTimeout and returns. It is called once. It
// returns nil even if records had to be dropped: they are counted and logged.
func (l *Log) Run(ctx context.Context) error {
	l.mu.Lock()
	again := l.started
	l.started = true
	l.mu.Unlock()
	if again {
		return errors.New("recordlog: Run was called twice")
	}

	group := lifecycle.NewGroup(context.WithoutCancel(ctx)) // outlives ctx by the flush
	group.Go("metadata", func(ctx context.Context) error {
		l.watchCluster(ctx, group)
		return nil
	})
	<-ctx.Done()
	l.stop()
	patience := time.NewTimer(l.opts.FlushTimeout)
	defer patience.Stop()
	select {
	case <-l.book.drained():
	case <-patience.C:
	}
	group.Stop()
	err := group.Wait()
	l.dropRest()
	return err
}

// stop makes Append refuse from now on and senders hurry.
func (l *Log) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	l.end()
}

// dropRest counts and reports what could not be delivered. No sender runs any more.
func (l *Log) dropRest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	var records int
	for _, p := range l.all {
		for _, b := range p.drain() {
			records += b.count
			l.room.Release(b.charge)
			l.book.dropped(b, DropShutdown)
		}
	}
	if records > 0 {
		l.logger.Error("records lost at shutdown: kafka did not take them in time",
			"records", records, "flush_timeout", l.opts.FlushTimeout, "last_error", l.health.status().LastError)
	}
}

// Append hands over the records of one message: the value of each is the record
// followed by suffix. The slices are the caller's again when it returns. It
// waits while MaxPendingBytes are held, until there is room or ctx ends.
//
// Nil means that every record was handed over or refused as too large. An error
// (fleet.ErrClosed after the end, or ctx's) means that the others are counted
// as dropped; they must not be appended again.
func (l *Log) Append(ctx context.Context, key string, records [][]byte, suffix []byte) error {
	if n := l.refuseLarge(key, records, len(suffix)); n == len(records) {
		return nil
	}
	// A message is taken as a whole unless it is a large part of all the room.
	for len(records) > 0 {
		n, taken, charge := l.piece(key, records, len(suffix))
		if err := l.take(ctx, key, records[:n], suffix, taken, charge); err != nil {
			why := DropCanceled
			if errors.Is(err, fleet.ErrClosed) {
				why = DropStopped
			}
			_, rest, _ := l.measure(key, records, len(suffix), 0)
			l.book.receivedAndDropped(rest, why)
			return err
		}
		records = records[n:]
	}
	return nil
}

// piece measures how many records of a message are taken at once.
func (l *Log) piece(key string, records [][]byte, suffixLen int) (n, taken int, charge int64) {
	return l.measure(key, records, suffixLen, l.opts.MaxPendingBytes/4)
}

// measure counts the leading records that fit into limit (at least one; 0 means
// no limit), how many of them are not too large, and what these charge.
func (l *Log) measure(key string, records [][]byte, suffixLen int, limit int64) (n, taken int, charge int64) {
	for _, r := range records {
		c := recordCharge(len(key), len(r)+suffixLen)
		if !l.tooLarge(c) {
			if limit > 0 && taken > 0 && charge+c > limit {
				break
			}
			taken++
			charge += c
		}
		n++
	}
	return n, taken, charge
}

func (l *Log) tooLarge(charge int64) bool { return charge > int64(l.opts.MaxRecordBytes) }

// take waits for room and puts the records.
func (l *Log) take(ctx context.Context, key string, records [][]byte, suffix []byte, taken int, charge int64) error {
	if taken == 0 {
		return nil
	}
	if err := l.waitForRoom(ctx, charge); err != nil {
		return err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.stopped {
		l.room.Release(charge)
		return fmt.Errorf("appending records: %w", fleet.ErrClosed)
	}
	l.book.received(taken, charge)
	l.route(key).put(time.Now(), key, records, suffix)
	return nil
}

// waitForRoom takes charge bytes of the room.
func (l *Log) waitForRoom(ctx context.Context, charge int64) error {
	if l.room.TryAcquire(charge) {
		return nil
	}
	l.metrics.waits.Inc()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.ending, func() { cancel(fleet.ErrClosed) })()
	if err := l.room.Acquire(ctx, charge); err != nil {
		return fmt.Errorf("waiting for room in the record log: %w", context.Cause(ctx))
	}
	return nil
}

// route returns where a key's records belong now. It needs the lock for reading.
func (l *Log) route(key string) *partition {
	if len(l.parts) == 0 {
		return l.held
	}
	return l.parts[partitionOf(key, len(l.parts))]
}

// refuseLarge counts the records that are too large and returns their number.
func (l *Log) refuseLarge(key string, records [][]byte, suffixLen int) int {
	refused, largest := 0, int64(0)
	for _, r := range records {
		if c := recordCharge(len(key), len(r)+suffixLen); l.tooLarge(c) {
			refused++
			largest = max(largest, c)
		}
	}
	if refused > 0 {
		l.book.receivedAndRefused(refused)
		l.reportLarge(key, refused, largest)
	}
	return refused
}

// reportLarge logs refused records, once an hour for each key.
func (l *Log) reportLarge(key string, records int, bytes int64) {
	if l.tooBig.allow(key, time.Now()) {
		l.logger.Warn("record refused: larger than kafka takes; raise message.max.bytes if such records are wanted",
			"agent_id", key, "records", records, "bytes", bytes, "max_record_bytes", l.opts.MaxRecordBytes)
	}
}
