// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

func TestEpochsOnlyGrow(t *testing.T) {
	c := epochClock{wall: time.Now}
	c.last.Store(1 << 62) // a wall clock that was far ahead once
	last := c.next()
	for range 1000 {
		if n := c.next(); n <= last {
			t.Fatalf("%d follows %d", n, last)
		} else {
			last = n
		}
	}
}

func TestEpochsFollowWhatIsHeard(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) uint64 { return uint64(now.Add(d).UnixMicro()) }
	year := 365 * 24 * time.Hour
	for name, tc := range map[string]struct {
		wall        time.Time
		heard, want uint64
	}{
		"of the past":          {now, at(-time.Hour), at(0)},
		"ahead by 10 s":        {now, at(10 * time.Second), at(10*time.Second) + 1},
		"ahead by years":       {now, at(30 * year), at(30*year) + 1},
		"our clock is at 1970": {time.Unix(60, 0), at(0), at(0) + 1},
		"no time at all":       {now, math.MaxUint64, at(maxAhead) + 1},
		"before 1970":          {time.Unix(-5, 0), 17, 18},
	} {
		t.Run(name, func(t *testing.T) {
			c := epochClock{wall: func() time.Time { return tc.wall }}
			c.observe(tc.heard)
			if got := c.next(); got != tc.want {
				t.Errorf("next = %d, want %d", got, tc.want)
			}
			// Hearing it again and again pushes it no further.
			for range 10 {
				c.observe(tc.heard)
			}
			if got := c.next(); got != tc.want+1 {
				t.Errorf("the one after is %d, want %d", got, tc.want+1)
			}
		})
	}
}

func TestWallClockIsSetAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var set time.Duration
		c := wallClock{read: func() time.Time { return time.Now().Add(set) }}
		expect := func(want time.Time) {
			t.Helper()
			if got := c.now(); !got.Equal(want) {
				t.Errorf("now = %v, want %v", got, want)
			}
		}
		expect(time.Now())
		time.Sleep(wallTrust - 1)
		expect(time.Now()) // by the other clock
		for _, set = range []time.Duration{time.Hour, -time.Hour, -time.Millisecond} {
			time.Sleep(wallTrust)
			expect(time.Now().Add(set))
			time.Sleep(wallTrust / 2)
			expect(time.Now().Add(set))
		}
	})
}
