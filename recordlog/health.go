// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"container/list"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// failuresBeforeAway is how many attempts in a row fail before a partition
// counts as away: one is usual when a leader changes.
const failuresBeforeAway = 2

const (
	// warnEvery is how often the log says that Kafka is still away.
	warnEvery = time.Minute
	// awayPatience is how long that is not said: a leader that moves, or a broker that
	// is restarted behind others, is no absence.
	awayPatience = time.Second
	// startPatience is that after the start: the first attempt may well come before
	// Kafka, or this node, is there.
	startPatience = 5 * time.Second
)

// Status is Kafka's state as this node sees it.
type Status struct {
	// Up is true while metadata comes and no partition's batch fails again and again.
	Up         bool      `json:"up"`
	AwaySince  time.Time `json:"away_since"` // zero while up
	Brokers    []string  `json:"brokers"`    // host:port; the configured ones until others are learnt
	Partitions int       `json:"partitions"` // of the topic; 0 until learnt
	Failing    int       `json:"failing"`    // those whose records wait: all while no broker answers
	LastError  string    `json:"last_error"` // in words, with what to do; empty while up

	Spooling   int    `json:"spooling"`    // partitions whose records go to the disk first
	SpoolError string `json:"spool_error"` // why the spool takes no more, in words; empty while it does
	DiskHangs  bool   `json:"disk_hangs"`  // the disk of the spool does not answer: what is on it waits, also while up
}

// Status returns Kafka's state, and the spool's.
func (l *Log) Status() Status {
	s := l.health.status()
	s.Spooling, s.SpoolError, s.DiskHangs = l.spools.state()
	return s
}

// failed notes an attempt that will be made again.
func (l *Log) failed(partition, failures int, err error, o outcome) {
	l.metrics.retries.WithLabelValues(o.reason).Inc()
	l.refreshSoon()
	if failures >= failuresBeforeAway {
		l.health.partitionFailed(partition, explain(err, l.opts.Topic))
	}
}

// health knows what fails now, and logs when Kafka goes away and comes back.
type health struct {
	logger *slog.Logger

	mu       sync.Mutex
	now      Status
	metadata bool         // the last metadata request succeeded
	failing  map[int]bool // partitions whose batch fails
	warned   time.Time    // last log line about being away; before the first, warnEvery before that is due
	seen     bool         // it was up once
}

// newHealth starts as away: nothing is known yet.
func newHealth(logger *slog.Logger, brokers []string, now time.Time) *health {
	return &health{
		logger:  logger,
		now:     Status{AwaySince: now, Brokers: brokers, LastError: "not connected yet"},
		failing: make(map[int]bool),
		warned:  now.Add(startPatience - warnEvery),
	}
}

func (h *health) status() Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.now
	s.Brokers = slices.Clone(s.Brokers)
	return s
}

func (h *health) learnt(brokers []string, partitions int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now.Brokers, h.now.Partitions = brokers, partitions
}

func (h *health) metadataOK() {
	h.change(func() string { h.metadata = true; return "" })
}

func (h *health) metadataFailed(why string) {
	h.change(func() string { h.metadata = false; return why })
}

func (h *health) partitionOK(partition int) {
	h.change(func() string { delete(h.failing, partition); return "" })
}

// partitionFailed tells why only while metadata comes: without it a partition
// knows no leader, and what hinders metadata is what has to be read.
func (h *health) partitionFailed(partition int, why string) {
	h.change(func() string {
		h.failing[partition] = true
		if !h.metadata {
			return ""
		}
		return why
	})
}

// change applies what happened, which returns why Kafka is away, if it knows,
// and logs what follows from it.
func (h *health) change(apply func() (why string)) {
	was, now, say := h.derive(apply)
	switch say {
	case sayNothing:
	case sayThere:
		h.logger.Info("kafka is there", "brokers", now.Brokers, "partitions", now.Partitions, "away_for", time.Since(was.AwaySince))
	case sayMoment:
		h.logger.Info("kafka took no records for a moment, as when a leader moves", "away_for", time.Since(was.AwaySince), "error", was.LastError)
	case sayAway:
		h.logger.Warn("kafka is away; records are held until it is back",
			"away_since", now.AwaySince, "error", now.LastError)
	}
}

// saying is what the log says of a change.
type saying int

const (
	sayNothing saying = iota
	sayAway           // after awayPatience, and each minute
	sayThere          // for the first time, or again after sayAway
	sayMoment         // again before that
)

// derive applies what happened and returns the status before and after.
func (h *health) derive(apply func() (why string)) (was, now Status, say saying) {
	h.mu.Lock()
	defer h.mu.Unlock()
	why := apply()
	was = h.now
	if h.metadata && len(h.failing) == 0 {
		h.now.Up, h.now.AwaySince, h.now.LastError, h.now.Failing = true, time.Time{}, "", 0
		switch {
		case !was.Up && h.seen && h.warned.Before(was.AwaySince):
			say = sayMoment
		case !was.Up:
			say = sayThere
		}
		h.seen = true
		return was, h.now, say
	}
	h.now.Up, h.now.Failing = false, len(h.failing)
	if !h.metadata {
		h.now.Failing = h.now.Partitions
	}
	if was.Up {
		h.now.AwaySince = time.Now()
		h.warned = h.now.AwaySince.Add(awayPatience - warnEvery)
	}
	if why != "" {
		h.now.LastError = why
	}
	if why != "" && time.Since(h.warned) >= warnEvery {
		h.warned, say = time.Now(), sayAway
	}
	return was, h.now, say
}

// throttledBurst is how many events a throttle lets through in a minute.
const throttledBurst = 20

// throttle lets one event of a key through in each period, and no more than
// throttledBurst of all keys in a minute. Of more than max keys, the one let
// through longest ago is forgotten.
type throttle struct {
	max    int
	period time.Duration

	mu    sync.Mutex
	began time.Time                // of the present minute
	burst int                      // events let through in it
	keys  map[string]*list.Element // of throttled
	order *list.List               // oldest first
}

type throttled struct {
	key  string
	last time.Time
}

func newThrottle(maxKeys int, period time.Duration) *throttle {
	return &throttle{max: maxKeys, period: period, keys: make(map[string]*list.Element), order: list.New()}
}

func (t *throttle) allow(key string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.began) >= time.Minute {
		t.began, t.burst = now, 0
	}
	if t.burst >= throttledBurst {
		return false
	}
	if e, ok := t.keys[key]; ok {
		if now.Sub(e.Value.(throttled).last) < t.period {
			return false
		}
		t.order.Remove(e)
	} else if len(t.keys) >= t.max {
		oldest := t.order.Front()
		delete(t.keys, t.order.Remove(oldest).(throttled).key)
	}
	t.keys[key] = t.order.PushBack(throttled{key, now})
	t.burst++
	return true
}
