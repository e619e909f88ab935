// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gcpace

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	checkEvery = 2 * time.Second
	// shortest is the time over which a rate is taken at least: what comes in less is a burst.
	shortest = checkEvery / 4
	// collectEvery is how often garbage is to be collected, roughly.
	collectEvery = 30 * time.Second
	// A process with less live memory and stacks than quietHeap may fill that with
	// garbage, and up to busyHeap when it makes much. Most agents come at once, to
	// a node that has just started: it would else collect all the time.
	quietHeap = 96 << 20
	busyHeap  = 192 << 20
	// minUnused bytes that are held and not used are not given back.
	minUnused = 32 << 20
	// leastPercent of live memory and stacks is left for garbage, however little
	// is made: what collecting costs grows with them.
	leastPercent = 10
	// mostPercent bounds what a percentage of little live memory comes to when
	// there is suddenly more.
	mostPercent = 500
	// rateKept of a higher rate is left after each checkEvery.
	rateKept = 0.8
)

// usage is what the runtime tells of the process, in bytes.
type usage struct {
	base   uint64 // live memory and stacks, at the last collection
	made   uint64 // ever allocated
	unused uint64 // held, but free
}

// Run paces the garbage collector of this process until ctx ends, and then puts
// it back as it was. It is for a process whose operator has set neither GOGC nor
// GOMEMLIMIT, and must not run twice in one.
func Run(ctx context.Context) error {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	collected := make(chan struct{}, 1)
	notifyCollected(collected)
	p := pacer{percent: 100}
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/scan/stack:bytes"},
		{Name: "/gc/scan/globals:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	last := time.Now().Add(-checkEvery)
	for {
		metrics.Read(samples)
		now := time.Now()
		v := func(i int) uint64 { return samples[i].Value.Uint64() }
		percent, release := p.step(usage{base: v(0) + v(1) + v(2), made: v(3), unused: v(4)}, now.Sub(last))
		last = now
		if percent != p.percent {
			p.percent = percent
			debug.SetGCPercent(percent)
		}
		if release {
			debug.FreeOSMemory()
		}
		select {
		case <-tick.C:
		case <-collected:
			notifyCollected(collected)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// notifyCollected sends to c, which holds one, after the next collection.
func notifyCollected(c chan struct{}) {
	runtime.AddCleanup(new([64]byte), func(c chan struct{}) { c <- struct{}{} }, c)
}

// pacer remembers what the next step needs.
type pacer struct {
	percent int
	made    uint64
	rate    float64 // bytes a second, falling slowly
}

// step returns how much garbage there may be, in percent of the base, and
// whether memory that is held and not used is to be given back now. A small
// change of the percentage is none: it stops the process for a moment.
func (p *pacer) step(u usage, passed time.Duration) (percent int, release bool) {
	if p.made > 0 {
		kept := math.Pow(rateKept, float64(passed)/float64(checkEvery))
		p.rate = max(float64(u.made-p.made)/max(passed, shortest).Seconds(), p.rate*kept)
	}
	p.made = u.made
	base := float64(max(u.base, 1<<20))
	wanted := p.rate * collectEvery.Seconds()
	least := max(base*leastPercent/100, quietHeap-base)
	most := max(base/2, busyHeap-base)
	garbage := min(max(wanted, least), most)
	percent = min(int(100*garbage/base), mostPercent)
	if 4*percent > 3*p.percent && 3*percent < 4*p.percent {
		percent = p.percent
	}
	// After a storm the heap is larger than what is needed: what is unused after a
	// collection is as much as the garbage was, which is used again.
	unused := float64(u.unused)
	return percent, unused > minUnused && unused > 1.25*garbage && wanted < unused/2
}
