// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"muster/fleet"
)

// newRaftLogger hands the lines of raft and raft-wal to logger, for debugging:
// what operators must know of elections and of servers that are away, story tells
// in words. What is left are the errors of the disk.
func newRaftLogger(logger *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Debug, Output: io.Discard})
	l.RegisterSink(&logSink{logger: logger.With("source", "raft"), last: make(map[string]time.Time)})
	return l
}

// errorEvery is how often one error of raft's is told; in between it is for debugging.
const errorEvery = 10 * time.Second

// aboutPeers are raft's errors that say only that a server is away, or behind.
var aboutPeers = []string{
	"failed to heartbeat to", "failed to appendEntries to", "failed to pipeline appendEntries", "failed to start pipeline replication to",
	"failed to make requestVote RPC", "failed to send snapshot to", "failed to install snapshot", "failed to copy snapshot",
	"failed to receive whole snapshot", "failed to get log", "peer has newer term, stopping replication",
}

type logSink struct {
	logger *slog.Logger

	mu   sync.Mutex
	last map[string]time.Time // by message, which are raft's constants
}

// Accept implements hclog.SinkAdapter.
func (s *logSink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	if level >= hclog.Error && !slices.Contains(aboutPeers, msg) && !isRefusal(args) && s.due(msg) {
		to = slog.LevelError
	}
	if !s.logger.Enabled(context.Background(), to) {
		return
	}
	for i, arg := range args {
		if f, ok := arg.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	s.logger.LogAttrs(context.Background(), to, msg, slog.Group("", args...)) //nolint:sloglint // raft made the message
}

// isRefusal tells whether the error is this node's own word, of which story tells.
func isRefusal(args []any) bool {
	return slices.ContainsFunc(args, func(arg any) bool {
		err, ok := arg.(error)
		return ok && errors.Is(err, fleet.ErrUnavailable)
	})
}

func (s *logSink) due(msg string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.last[msg]) < errorEvery {
		return false
	}
	s.last[msg] = now
	return true
}
