// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"sync/atomic"
	"time"
)

// epochClock makes the numbers that order the sessions of an agent: a hybrid
// logical clock of microseconds, which never stands still nor goes back, even
// when the wall clock does.
type epochClock struct {
	last atomic.Uint64
}

// next returns a number above all that were returned before.
func (c *epochClock) next() uint64 {
	for {
		last := c.last.Load()
		now := max(uint64(time.Now().UnixMicro()), last+1) //nolint:gosec // not before 1970
		if c.last.CompareAndSwap(last, now) {
			return now
		}
	}
}
