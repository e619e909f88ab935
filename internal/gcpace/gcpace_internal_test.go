// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gcpace

import (
	"context"
	"errors"
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
		"a quiet node":               {usage{base: 20 * mib}, mib / 10, 10, 20, false},
		"few busy agents":            {usage{base: 20 * mib}, 100 * mib, 241, 320, false},
		"nothing known yet":          {usage{}, 0, 10, 13, false},
		"after a storm":              {usage{base: 400 * mib, unused: 200 * mib}, mib / 2, 10, 13, true},
		"in a storm":                 {usage{base: 400 * mib, unused: 200 * mib}, 100 * mib, 38, 50, false},
		"little unused":              {usage{base: 400 * mib, unused: 70 * mib}, mib / 2, 10, 13, false},
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
