// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"log/slog"
	"sync"
	"time"
)

const (
	// complainEvery is how often the same complaint is logged.
	complainEvery = 30 * time.Second
	// maxComplaints bounds how many are told apart.
	maxComplaints = 256
)

// complaints logs what others do wrong: each kind of complaint about each peer
// at once, and then rarely, with the number of times that were left out.
type complaints struct {
	logger *slog.Logger

	mu   sync.Mutex
	seen map[string]*complaint
}

type complaint struct {
	last    time.Time
	omitted int
}

func (c *complaints) warn(msg, key string, args ...any) {
	log, omitted := c.take(key, time.Now())
	if !log {
		return
	}
	if omitted > 0 {
		args = append(args, "lines_omitted", omitted)
	}
	c.logger.Warn(msg, args...) //nolint:sloglint // constant at each call
}

func (c *complaints) take(key string, now time.Time) (log bool, omitted int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, ok := c.seen[key]
	if ok && now.Sub(old.last) < complainEvery {
		old.omitted++
		return false, 0
	}
	if ok {
		omitted = old.omitted
	}
	if len(c.seen) >= maxComplaints {
		c.forget(now)
	}
	if len(c.seen) >= maxComplaints && !ok {
		return false, 0 // the metric still counts it
	}
	c.seen[key] = &complaint{last: now}
	return true, omitted
}

func (c *complaints) forget(now time.Time) {
	for key, old := range c.seen {
		if now.Sub(old.last) >= complainEvery {
			delete(c.seen, key)
		}
	}
}
