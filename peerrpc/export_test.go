// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"net/netip"
	"time"
)

// For the tests of the wire.
var (
	ReadFrame  = readFrame
	WriteFrame = writeFrame
	HostOf     = hostOf
)

// MaxThrottled is how many hosts the throttle remembers.
const MaxThrottled = maxThrottled

// Proofs returns both proofs of a conversation.
func Proofs(key, exported, asking, answered []byte) (ask, answer []byte) {
	p := &proofs{key: key, exported: exported, asking: asking, answered: answered}
	return p.of(roleAsking), p.of(roleAnswering)
}

// OnStep has a function called before each step of writing a promise.
func (p *Promises) OnStep(step func(string)) { p.step = step }

// Throttled makes attempts and returns how many hosts are remembered.
func Throttled(attempts int, host func(int) netip.Addr, now time.Time) int {
	t := newThrottle()
	for i := range attempts {
		t.take(host(i), now)
	}
	return len(t.hosts)
}
