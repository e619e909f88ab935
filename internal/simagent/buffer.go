// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent

import "time"

// bufferRecords is how many records a stock agent holds for sending.
const bufferRecords = 2048

// entry is one record that waits to be sent. Data records have no body yet: it
// is made, and numbered, when they are sent, so a full buffer costs little.
type entry struct {
	dataType  int32
	timestamp int64 // seconds
	body      []byte
}

// buffer is what an agent holds for sending. It is not safe for concurrent use.
type buffer struct {
	entries []entry
}

func (b *buffer) free() int { return max(0, bufferRecords-len(b.entries)) }

// addPlugin takes a plugin's record, or reports false when there is no room.
func (b *buffer) addPlugin(e entry) bool {
	if b.free() == 0 {
		return false
	}
	b.entries = append(b.entries, e)
	return true
}

// addOwn takes a record of the agent itself, which replaces the oldest one when
// there is no room. It reports false when that happened.
func (b *buffer) addOwn(e entry) bool {
	if b.free() == 0 {
		b.entries[0] = e
		return false
	}
	b.entries = append(b.entries, e)
	return true
}

// take empties the buffer, into dst.
func (b *buffer) take(dst []entry) []entry {
	dst = append(dst, b.entries...)
	clear(b.entries)
	b.entries = b.entries[:0]
	if cap(b.entries) > 64 {
		b.entries = nil // thousands of agents must not each keep a full buffer
	}
	return dst
}

// source works out which data records a plugin has made by a given time. It is
// not safe for concurrent use.
type source struct {
	rate  float64 // records a second
	limit uint64  // in all; zero means none
	until time.Time

	made      uint64 // over the agent's whole life, dropped ones included
	epoch     time.Time
	epochMade uint64 // made when the present process started
}

// start begins production, again after a restart.
func (s *source) start(now time.Time) { s.epoch, s.epochMade = now, s.made }

// due is how many records came up, at the source's rate, since the last ones
// were made.
func (s *source) due(now time.Time) uint64 {
	if s.rate == 0 {
		return 0
	}
	if !s.until.IsZero() && now.After(s.until) {
		now = s.until
	}
	total := s.epochMade + uint64(max(0, now.Sub(s.epoch).Seconds())*s.rate)
	return s.capped(max(total, s.made) - s.made)
}

// fill is how many records a source without a rate makes for so much room. It is
// asked when the buffer is about to be emptied, so that nothing is dropped.
func (s *source) fill(now time.Time, free int) uint64 {
	if s.rate > 0 || s.limit == 0 || s.over(now) {
		return 0
	}
	return s.capped(uint64(free))
}

func (s *source) capped(n uint64) uint64 {
	if s.limit > 0 {
		n = min(n, s.limit-min(s.limit, s.made))
	}
	return n
}

// at is when the record number n (from 0) was made.
func (s *source) at(n uint64, now time.Time) time.Time {
	if s.rate == 0 {
		return now
	}
	return s.epoch.Add(time.Duration(float64(n+1-s.epochMade) / s.rate * float64(time.Second)))
}

// over reports whether nothing more will be made.
func (s *source) over(now time.Time) bool {
	return (s.limit > 0 && s.made >= s.limit) || (!s.until.IsZero() && !now.Before(s.until))
}

// next is when something more is made, or the end is reached.
func (s *source) next(now time.Time) (time.Time, bool) {
	var next time.Time
	switch {
	case s.over(now):
		return now, true
	case s.rate > 0:
		next = s.at(s.made, now)
	case s.limit > 0:
		return now, true
	}
	if !s.until.IsZero() && (next.IsZero() || s.until.Before(next)) {
		next = s.until
	}
	return next, !next.IsZero()
}
