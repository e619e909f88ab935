// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// A host may be wrong about the secret throttleBurst times, and once more
	// each throttleRefill. Those who are right are not counted.
	throttleBurst  = 20
	throttleRefill = 3 * time.Second
	// maxThrottled bounds the hosts that are remembered.
	maxThrottled = 4096
)

// throttle bounds guesses at the secret per source address.
type throttle struct {
	mu    sync.Mutex
	hosts map[netip.Addr]*allowance
}

type allowance struct {
	left float64
	at   time.Time
}

func newThrottle() *throttle { return &throttle{hosts: map[netip.Addr]*allowance{}} }

// take counts an attempt before it is made; giveBack undoes it when it was right.
func (t *throttle) take(host netip.Addr, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, ok := t.hosts[host]
	if !ok {
		if len(t.hosts) >= maxThrottled {
			t.forget(now)
		}
		a = &allowance{left: throttleBurst, at: now}
		t.hosts[host] = a
	}
	a.refill(now)
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

func (t *throttle) giveBack(host netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a, ok := t.hosts[host]; ok {
		a.left = min(a.left+1, throttleBurst)
	}
}

func (a *allowance) refill(now time.Time) {
	a.left = min(a.left+now.Sub(a.at).Seconds()/throttleRefill.Seconds(), throttleBurst)
	a.at = now
}

// forget drops the hosts with a full allowance and, if that is not enough, any
// others: it is better to forget a guesser than to take all memory. It makes
// room for many, so that it is seldom called.
func (t *throttle) forget(now time.Time) {
	for host, a := range t.hosts {
		if a.refill(now); a.left >= throttleBurst {
			delete(t.hosts, host)
		}
	}
	for host := range t.hosts {
		if len(t.hosts) <= maxThrottled*3/4 {
			return
		}
		delete(t.hosts, host)
	}
}
