// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// Log collects what a node logs. It is safe for concurrent use.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write appends.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// Tail returns at most the last n bytes.
func (l *Log) Tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buf.Bytes()
	return string(b[max(0, len(b)-n):])
}

// Count returns how many lines hold the text.
func (l *Log) Count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := 0
	for line := range strings.Lines(l.buf.String()) {
		if strings.Contains(line, text) {
			count++
		}
	}
	return count
}

// trap is a slog.Handler that may stop the node at a step: a line of its log not
// below Info. Those of gossip, of raft and of the state are none: they come under locks.
type trap struct {
	slog.Handler
	life   *life
	locked bool
}

func underLock(a slog.Attr) bool {
	return a.Key == "part" && (a.Value.String() == "gossip" || a.Value.String() == "state") || a.Key == "source" && a.Value.String() == "raft"
}

// Handle implements slog.Handler.
func (t trap) Handle(ctx context.Context, r slog.Record) error {
	err := t.Handler.Handle(ctx, r)
	locked := t.locked || r.Level < slog.LevelInfo
	r.Attrs(func(a slog.Attr) bool {
		locked = locked || underLock(a)
		return !locked
	})
	if !locked {
		t.life.step(r.Message)
	}
	return err
}

// WithAttrs implements slog.Handler.
func (t trap) WithAttrs(attrs []slog.Attr) slog.Handler {
	return trap{t.Handler.WithAttrs(attrs), t.life, t.locked || slices.ContainsFunc(attrs, underLock)}
}

// WithGroup implements slog.Handler.
func (t trap) WithGroup(name string) slog.Handler {
	return trap{t.Handler.WithGroup(name), t.life, t.locked}
}
