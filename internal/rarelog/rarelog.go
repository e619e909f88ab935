// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package rarelog

import (
	"log/slog"
	"sync"
	"time"
)

// maxKinds bounds how many kinds of lines are told apart.
const maxKinds = 256

// Logger writes warnings: of each kind one at once, then at most one in a while,
// which says how many it left out ("lines_omitted"). Other levels are not limited.
type Logger struct {
	*slog.Logger
	every time.Duration

	mu   sync.Mutex
	seen map[string]*line
}

type line struct {
	last    time.Time
	omitted int
}

// New returns a Logger that writes a kind of line at most once in every.
func New(logger *slog.Logger, every time.Duration) *Logger {
	return &Logger{Logger: logger, every: every, seen: make(map[string]*line)}
}

// Warn logs a line of the one kind that has no name.
func (l *Logger) Warn(msg string, args ...any) { l.WarnOf(msg, "", args...) }

// WarnOf logs a line of a kind. Of too many kinds at a time it leaves new ones out.
func (l *Logger) WarnOf(msg, kind string, args ...any) {
	log, omitted := l.take(kind, time.Now())
	if !log {
		return
	}
	if omitted > 0 {
		args = append(args, "lines_omitted", omitted)
	}
	l.Logger.Warn(msg, args...) //nolint:sloglint // constant at each call
}

func (l *Logger) take(kind string, now time.Time) (log bool, omitted int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, ok := l.seen[kind]
	if ok && now.Sub(old.last) < l.every {
		old.omitted++
		return false, 0
	}
	if ok {
		omitted = old.omitted
	}
	if len(l.seen) >= maxKinds {
		l.forget(now)
	}
	if len(l.seen) >= maxKinds && !ok {
		return false, 0 // a metric still counts it
	}
	l.seen[kind] = &line{last: now}
	return true, omitted
}

func (l *Logger) forget(now time.Time) {
	for kind, old := range l.seen {
		if now.Sub(old.last) >= l.every {
			delete(l.seen, kind)
		}
	}
}
