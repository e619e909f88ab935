// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"bytes"
	"context"
	"log/slog"
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

// trap is a slog.Handler that stops the node at one line of its story: who
// logs it waits there until the node is dead. Below Info nothing is counted.
type trap struct {
	slog.Handler
	life *life
}

// Handle implements slog.Handler.
func (t trap) Handle(ctx context.Context, r slog.Record) error {
	err := t.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelInfo {
		t.life.told(r.Message)
	}
	return err
}

// WithAttrs implements slog.Handler.
func (t trap) WithAttrs(attrs []slog.Attr) slog.Handler {
	return trap{t.Handler.WithAttrs(attrs), t.life}
}

// WithGroup implements slog.Handler.
func (t trap) WithGroup(name string) slog.Handler {
	return trap{t.Handler.WithGroup(name), t.life}
}
