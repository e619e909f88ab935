// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"runtime"
	"sync"
	"time"
)

// meter turns a counter into a rate. It is safe for concurrent use.
type meter struct {
	mu    sync.Mutex
	at    time.Time
	count uint64
	rate  float64
}

// sample notes the counter and returns the rate since the last sample, in
// units a second. Samples closer than half a second return the last rate.
func (m *meter) sample(now time.Time, count uint64) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	passed := now.Sub(m.at)
	switch {
	case m.at.IsZero():
		m.at, m.count = now, count
	case passed >= 500*time.Millisecond:
		m.rate = float64(count-m.count) / passed.Seconds()
		m.at, m.count = now, count
	}
	return m.rate
}

// value returns the last rate.
func (m *meter) value() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rate
}

// usage reads what the process takes of the machine, per mille.
type usage struct {
	cpu meter // of CPU microseconds
}

// short tells whether the process has taken nearly all that its processors give,
// by the last reading.
func (u *usage) short() bool { return u.cpu.value() > 0.9*1e6*float64(runtime.GOMAXPROCS(0)) }

func permille(share float64) uint16 { return uint16(min(max(share, 0), 1) * 1000) }
