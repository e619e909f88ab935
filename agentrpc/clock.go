// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"sync/atomic"
	"time"
)

// maxAhead bounds how far another node's epoch moves this node's clock ahead of
// its wall clock. Wall clocks go wrong by decades (1970, when a battery is
// empty), and this one may be the wrong one: so the bound is generous. It keeps
// out what is no time at all; 64 bits of microseconds last for 584,000 years.
const maxAhead = 100 * 365 * 24 * time.Hour

// epochClock makes the numbers that order the sessions of an agent: a hybrid
// logical clock of microseconds, which never stands still nor goes back, even
// when the wall clock does, and runs ahead of all epochs that were heard from
// other nodes.
type epochClock struct {
	wall func() time.Time
	last atomic.Uint64
}

// next returns a number above all that were returned or observed before.
func (c *epochClock) next() uint64 {
	for {
		last := c.last.Load()
		now := max(micros(c.wall()), last+1)
		if c.last.CompareAndSwap(last, now) {
			return now
		}
	}
}

// observe moves the clock on to an epoch of another node, within maxAhead.
func (c *epochClock) observe(epoch uint64) {
	epoch = min(epoch, micros(c.wall().Add(maxAhead)))
	for {
		last := c.last.Load()
		if epoch <= last || c.last.CompareAndSwap(last, epoch) {
			return
		}
	}
}

// micros is 0 before 1970.
func micros(t time.Time) uint64 { return uint64(max(t.UnixMicro(), 0)) } //nolint:gosec // not negative

// wallClock tells what time it is at half the cost: the system's two clocks are
// read for it only now and then, the monotonic one between. So it follows a wall
// clock that is set after wallTrust at most.
type wallClock struct {
	read func() time.Time
	last atomic.Pointer[reading]
}

// reading is what the wall clock said, and when that was by the monotonic one.
type reading struct{ wall, at time.Time }

const wallTrust = 50 * time.Millisecond

func (c *wallClock) now() time.Time {
	if last := c.last.Load(); last != nil {
		if passed := time.Since(last.at); passed < wallTrust {
			return last.wall.Add(passed)
		}
	}
	r := &reading{at: time.Now(), wall: c.read()}
	c.last.Store(r)
	return r.wall
}
