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

	room   *room
	spools *spools   // nil without a spool
	spare  sync.Pool // of emptied batches
	// ending is done when Append no longer takes records. It is a context
	// because waiting Appends need one.
	ending context.Context
	end    context.CancelFunc

	cluster atomic.Pointer[cluster] // last metadata, nil until the first
	limits  limits
	kick    chan struct{} // of one: asks for metadata at once

	lanes
}

// lanes are the partitions, and whether records may still be put there.
type lanes struct {
	mu      sync.RWMutex      // guards what follows; held for reading while records are put
	parts   []*partition      // by number; empty until the partition count is learnt
	held    *partition        // keeps records until then
	all     []*partition      // held, and every partition there ever was
	found   map[int]*spoolLog // of an earlier process, until their partitions are there
	senders sync.WaitGroup
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
		room:   newRoom(opts.MaxPendingBytes),
		kick:   make(chan struct{}, 1),
	}
	l.limits.reported = newThrottle(1024, time.Hour)
	l.follow(0)
	l.ending, l.end = context.WithCancel(context.Background())
	l.held = newPartition(l, -1)
	l.all = []*partition{l.held}
	if l.metrics, err = newMetrics(opts.Registerer, l); err != nil {
		return nil, err
	}
	if l.spools, l.found, err = openSpools(&opts, &l.metrics.spool); err != nil {
		return nil, err
	}
	for _, s := range l.found {
		records, doubtful := s.left()
		l.book.recovered(records, doubtful)
	}
	if now := l.book.snapshot(); now.Recovered > 0 {
		l.logger.Info("found records of an earlier run in the spool: they are delivered first",
			"records", now.Recovered, "possible_duplicates", now.PossibleDuplicates, "bytes", l.spools.usage())
	}
	return l, nil
}

// Close gives up the spool's directory if Run was never called; Run does so itself.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.started {
		l.started = true
		l.closeSpools()
	}
	return nil
}

// closeSpools needs the lock; no goroutine uses a spool any more.
func (l *Log) closeSpools() {
	for _, s := range l.found {
		s.close()
	}
	for _, p := range l.all {
		if p.spool != nil {
			p.spool.close()
		}
	}
	l.spools.close()
}

// Ledger returns where all records are, at one moment.
func (l *Log) Ledger() Ledger {
	now := l.book.snapshot()
	now.SpooledBytes, now.SpoolOldest = l.spools.usage(), l.spoolOldest()
	return now
}

// Run delivers records until ctx ends; then it takes no more, delivers or spools
// what is pending within Options.FlushTimeout and returns. It is called once. It
// returns nil even if records had to be dropped: they are counted and logged.
func (l *Log) Run(ctx context.Context) error {
	l.mu.Lock()
	again := l.started
	l.started = true
	l.mu.Unlock()
	if again {
		return errors.New("recordlog: Run was called twice, or after Close")
	}

	group := lifecycle.NewGroup(context.WithoutCancel(ctx)) // outlives ctx by the flush
	l.repartition(group.Context(), group, l.spools.known())
	group.Go("metadata", func(ctx context.Context) error {
		l.watchCluster(ctx, group)
		return nil
	})
	group.Go("spool", func(ctx context.Context) error {
		l.watchSpools(ctx, group)
		return nil
	})
	<-ctx.Done()
	l.stop()
	l.flush(group)
	group.Stop()
	return l.awaitEnd(group)
}

// awaitEnd waits until no goroutine runs any more and drops what is left. For a disk
// that hangs it waits no longer than spoolGrace.
func (l *Log) awaitEnd(group *lifecycle.Group) error {
	ended := make(chan error, 1)
	var waits sync.WaitGroup
	waits.Go(func() { ended <- group.Wait() })
	began := time.Now()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			l.dropRest()
			l.mu.Lock()
			defer l.mu.Unlock()
			l.closeSpools()
			return err
		case now := <-ticker.C:
			hang := l.spools.watch(now)
			if hang == "" {
				continue
			}
			l.mu.RLock()
			for _, p := range l.all {
				p.giveUpDisk()
			}
			l.mu.RUnlock()
			if now.Sub(began) > spoolGrace {
				l.logger.Error("the disk of the spool does not answer: stopping without it", "hangs", hang)
				l.dropRest()
				return nil
			}
		}
	}
}

// spoolGrace is what the disk gets to take what Kafka did not within FlushTimeout.
const spoolGrace = 5 * time.Second

// flush waits until nothing is pending, FlushTimeout at most; then what is left
// goes to the disk. Batches from the spool that are being sent get a moment for
// their answer, so that they are not sent again after the next start.
func (l *Log) flush(group *lifecycle.Group) {
	drained := l.book.drained()
	if !closedWithin(drained, l.opts.FlushTimeout) && l.spools != nil && l.spoolAll(group) {
		closedWithin(drained, spoolGrace)
	}
	if l.spools == nil {
		return
	}
	idle := make(chan struct{})
	group.Go("senders' end", func(context.Context) error {
		l.senders.Wait()
		close(idle)
		return nil
	})
	closedWithin(idle, min(l.opts.RequestTimeout, hangingAfter))
}

// closedWithin waits for c to be closed, for at most d.
func closedWithin(c <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c:
		return true
	case <-timer.C:
		return false
	}
}

// stop makes Append refuse from now on and senders hurry.
func (l *Log) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	l.end()
}

// dropRest counts and reports what could not be delivered. No goroutine runs any
// more, but those that wait for a disk that hangs.
func (l *Log) dropRest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	var records int
	for _, p := range l.all {
		for _, b := range p.drain() {
			records += b.count - b.kept
			l.room.give(b)
			l.book.droppedAtEnd(b)
		}
	}
	if records > 0 {
		l.logger.Error("records lost at shutdown: neither kafka nor the spool took them in time",
			"records", records, "flush_timeout", l.opts.FlushTimeout, "last_error", l.health.status().LastError)
	}
	if left := l.book.snapshot().Spooled; left > 0 {
		l.logger.Info("records stay in the spool for the next start", "records", left, "bytes", l.spools.usage())
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
	fits := l.limits.record.Load() // the same for all of the message: it may change meanwhile
	if n := l.refuseLarge(key, records, len(suffix), fits); n == len(records) {
		return nil
	}
	// A message is taken as a whole unless it is more than one agent's share.
	for len(records) > 0 {
		n, taken, charge := measure(key, records, len(suffix), fits, l.room.piece())
		if err := l.take(ctx, message{key, records[:n], suffix, fits}, taken, charge); err != nil {
			why := DropCanceled
			if errors.Is(err, fleet.ErrClosed) {
				why = DropStopped
			}
			_, rest, _ := measure(key, records, len(suffix), fits, 0)
			l.book.receivedAndDropped(rest, why)
			return err
		}
		records = records[n:]
	}
	return nil
}

// TryAppend is Append for most messages: those that need not wait and have
// nothing to be refused. Of others it takes nothing and returns false. came is
// the present time.
func (l *Log) TryAppend(came time.Time, key string, records [][]byte, suffix []byte) bool {
	fits := l.limits.record.Load()
	var charge int64
	for _, r := range records {
		c := recordCharge(len(key), len(r)+len(suffix))
		if c > fits {
			return false
		}
		charge += c
	}
	if len(records) == 0 {
		return true
	}
	if len(records) > 1 && charge > l.room.piece() {
		return false
	}
	hash := hashOf(key)
	slot := slotOf(hash)
	fair := l.limits.learnt.Load()
	shared, all := l.tryRoom(slot, fair, charge)
	if !all {
		if shared && fair {
			l.room.giveShare(slot, charge)
		}
		return false
	}
	return l.put(came, message{key, records, suffix, fits}, hash, fair, len(records), charge)
}

// message is what is appended at once.
type message struct {
	key     string
	records [][]byte
	suffix  []byte
	fits    int64 // charge of the largest record that is taken; larger ones are passed over
}

// measure counts the leading records that fit into limit (at least one; 0 means
// no limit), how many of them charge no more than fits, and what these charge.
func measure(key string, records [][]byte, suffixLen int, fits, limit int64) (n, taken int, charge int64) {
	for _, r := range records {
		c := recordCharge(len(key), len(r)+suffixLen)
		if c <= fits {
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

// take waits for room and puts the records.
func (l *Log) take(ctx context.Context, m message, taken int, charge int64) error {
	if taken == 0 {
		return nil
	}
	hash := hashOf(m.key)
	slot := slotOf(hash)
	fair := l.limits.learnt.Load() // until then all of it is held, and nothing moves
	if err := l.waitForRoom(ctx, slot, fair, charge); err != nil {
		return err
	}
	if !l.put(time.Now(), m, hash, fair, taken, charge) {
		return fmt.Errorf("appending records: %w", fleet.ErrClosed)
	}
	return nil
}

// put enters records for which there is room; false, and the room is given back,
// if none are taken any more.
func (l *Log) put(now time.Time, m message, hash uint32, fair bool, taken int, charge int64) bool {
	s := share{slot: slotOf(hash)}
	if fair {
		s.bytes = int32(charge)
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.stopped {
		l.room.all.Release(charge)
		if fair {
			l.room.giveShare(s.slot, charge)
		}
		return false
	}
	l.book.received(taken, charge)
	l.route(hash).put(now, m, s)
	return true
}

// route returns where the records of a key with that hash belong now. It needs
// the lock for reading.
func (l *Log) route(hash uint32) *partition {
	if len(l.parts) == 0 {
		return l.held
	}
	return l.parts[partitionOfHash(hash, len(l.parts))]
}

// refuseLarge counts the records that are too large and returns their number.
func (l *Log) refuseLarge(key string, records [][]byte, suffixLen int, fits int64) int {
	refused, largest := 0, int64(0)
	for _, r := range records {
		if c := recordCharge(len(key), len(r)+suffixLen); c > fits {
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
	if l.limits.reported.allow(key, time.Now()) {
		l.logger.Warn("record refused: larger than kafka takes; raise message.max.bytes if such records are wanted",
			"agent_id", key, "records", records, "bytes", bytes, "max_record_bytes", l.limits.record.Load())
	}
}
