// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gcpace

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

const mib = 1 << 20

// settle steps with the same usage and rate until the rate is known.
func settle(p *pacer, u usage, perSecond uint64) (percent int, release bool) {
	for range 200 {
		u.made += 2 * perSecond
		percent, release = p.step(u, 2*time.Second)
		p.percent = percent
	}
	return percent, release
}

func TestStep(t *testing.T) {
	for name, c := range map[string]struct {
		u         usage
		perSecond uint64
		from, to  int // percent
		release   bool
	}{
		"many idle agents":           {usage{base: 400 * mib}, mib / 2, 10, 13, false},
		"many agents with some work": {usage{base: 400 * mib}, 3 * mib, 17, 30, false},
		"many busy agents":           {usage{base: 400 * mib}, 100 * mib, 38, 50, false},
		"a quiet node":               {usage{base: 20 * mib}, mib / 10, 290, 500, false},
		"few busy agents":            {usage{base: 50 * mib}, 100 * mib, 220, 284, false},
		"few quiet agents":           {usage{base: 60 * mib}, mib / 10, 46, 77, false},
		"nothing known yet":          {usage{}, 0, 500, 500, false},
		"after a storm":              {usage{base: 400 * mib, unused: 200 * mib}, mib / 2, 10, 13, true},
		"in a storm":                 {usage{base: 400 * mib, unused: 200 * mib}, 100 * mib, 38, 50, false},
		"little unused":              {usage{base: 400 * mib, unused: 45 * mib}, mib / 2, 10, 13, false},
	} {
		percent, release := settle(&pacer{percent: 100}, c.u, c.perSecond)
		if percent < c.from || percent > c.to || release != c.release {
			t.Errorf("%s: %d %%, release %v; want %d to %d %%, %v", name, percent, release, c.from, c.to, c.release)
		}
	}
}

// Bursts a few seconds apart count as a steady rate.
func TestStepKeepsTheRateOfBursts(t *testing.T) {
	p := &pacer{percent: 100}
	u := usage{base: 400 * mib, made: 1}
	for i := range 100 {
		if i%5 == 0 {
			u.made += 20 * mib
		}
		p.percent, _ = p.step(u, 2*time.Second)
	}
	if p.percent < 25 {
		t.Errorf("%d %% between bursts of 10 MiB/s", p.percent)
	}
}

// The collection that a storm on a quiet node begins with is enough to make room
// for the rest; and the room is in proportion to what lives, not to what did.
func TestStepAtTheStartOfAStorm(t *testing.T) {
	p := &pacer{percent: 100}
	u := usage{base: 4 * mib}
	if percent, _ := settle(p, u, mib/10); percent != mostPercent {
		t.Fatalf("%d %% of almost nothing, want %d", percent, mostPercent)
	}
	u = usage{base: 40 * mib, made: p.made + 60*mib}
	p.percent, _ = p.step(u, 100*time.Millisecond)
	if garbage := u.base * uint64(p.percent) / 100; garbage < 140*mib || garbage > busyHeap*4/3-u.base {
		t.Errorf("%d MiB of garbage", garbage/mib)
	}
	u.base, u.made = 100*mib, u.made+100*mib
	p.percent, _ = p.step(u, time.Second)
	if garbage := u.base * uint64(p.percent) / 100; garbage < 70*mib || garbage > busyHeap*4/3-u.base {
		t.Errorf("%d MiB of garbage later", garbage/mib)
	}
}

// A burst within a moment is not taken for a rate.
func TestStepOfABurst(t *testing.T) {
	p := &pacer{percent: 100}
	u := usage{base: 400 * mib, made: 1}
	p.percent, _ = p.step(u, checkEvery)
	u.made += mib
	if p.percent, _ = p.step(u, time.Millisecond); p.rate > 2*mib {
		t.Errorf("%.0f MiB/s", p.rate/mib)
	}
}

func TestCollectionsAreNoticed(t *testing.T) {
	c := make(chan struct{}, 1)
	for range 3 {
		notifyCollected(c)
		runtime.GC()
		<-c
	}
}

func TestRunPutsThePercentageBack(t *testing.T) {
	before := debug.SetGCPercent(77)
	defer debug.SetGCPercent(before)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if left := debug.SetGCPercent(before); left != 77 {
		t.Errorf("%d %% left, want 77", left)
	}
}
