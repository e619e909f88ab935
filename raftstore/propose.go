// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"muster/fleet"
)

// propose carries out one command and decodes its answer into out, which may be
// nil. It returns when this node has applied the command.
func (s *Store) propose(ctx context.Context, cmd command, out any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, writeWait, fleet.ErrTimeout)
	defer cancel()
	body, err := encodeJSON(cmd)
	if err != nil {
		return fmt.Errorf("encoding command %s: %w", cmd.kind(), err)
	}
	e := envelope{Kind: cmd.kind(), Body: body}
	if needsRequestID(cmd) {
		if e.Request, err = newRequestID(); err != nil {
			return err
		}
	}
	ans, err := s.submit(ctx, e)
	if err != nil {
		return fmt.Errorf("writing %s: %w", cmd.kind(), err)
	}
	if ans.Refusal != nil {
		return ans.Refusal
	}
	if out == nil {
		return nil
	}
	if err := decodeJSON(ans.Body, out); err != nil {
		return fmt.Errorf("reading the answer to %s: %w", cmd.kind(), err)
	}
	return nil
}

// needsRequestID tells whether applying cmd a second time, after other commands,
// would do harm or give another answer.
func needsRequestID(cmd command) bool {
	switch cmd.(type) {
	case *tick, *reportAgents, *setResults, *touchToken, *removeNode, *raiseFormat:
		return false
	}
	return true
}

func newRequestID() (string, error) {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return "", fmt.Errorf("making a request ID: %w", err)
	}
	return hex.EncodeToString(id[:]), nil
}

// proposeHere is the one way into the log: it stamps the entry, proposes it and
// waits until it is applied.
func (s *Store) proposeHere(ctx context.Context, r *raft.Raft, e envelope) (answer, uint64, error) {
	if err := s.gate.enter(ctx); err != nil {
		s.metrics.proposals.WithLabelValues(outcomeNoLeader).Inc()
		if errors.Is(err, fleet.ErrTimeout) {
			err = fmt.Errorf("no turn within %s: %w", writeWait, fleet.ErrUnavailable)
		}
		return answer{}, 0, fmt.Errorf("waiting to write: %w", err)
	}
	defer s.gate.leave()
	e.At = max(s.now(), s.fsm.last.Load().logTime)
	data, err := encodeEntry(e)
	if err != nil {
		return answer{}, 0, err
	}
	f, done, err := s.enqueue(ctx, r, data)
	if err != nil {
		return answer{}, 0, err
	}
	if err := awaitDone(ctx, done); err != nil {
		return answer{}, 0, s.writeError(ctx, r, err)
	}
	o, ok := f.Response().(outcome)
	if !ok {
		return answer{}, 0, fmt.Errorf("unexpected response %T", f.Response())
	}
	if o.err != nil {
		return answer{}, 0, o.err
	}
	s.metrics.proposals.WithLabelValues(outcomeAnswered).Inc()
	return o.answer, f.Index(), nil
}

// encodeEntry makes the bytes of an entry, unless they are too many.
func encodeEntry(e envelope) ([]byte, error) {
	data, err := encodeEnvelope(e)
	if err != nil {
		return nil, err
	}
	if len(data) > maxEntryBytes {
		return nil, tooLong(len(data))
	}
	return data, nil
}

func tooLong(n int) error {
	return fleet.Refuse(fleet.CodeTooLarge, "the change is %d bytes long, at most %d are accepted", n, maxEntryBytes)
}

func (s *Store) closed() bool {
	s.stopMu.RLock()
	defer s.stopMu.RUnlock()
	return s.stopped || s.fsm.broken.Load()
}

// enqueue hands data to raft unless the store is stopping; done holds raft's
// word on it.
func (s *Store) enqueue(ctx context.Context, r *raft.Raft, data []byte) (f raft.ApplyFuture, done <-chan error, err error) {
	s.stopMu.RLock()
	defer s.stopMu.RUnlock()
	if s.stopped || s.fsm.broken.Load() {
		return nil, nil, fleet.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, context.Cause(ctx)
	}
	deadline, _ := ctx.Deadline()
	f = r.Apply(data, time.Until(deadline))
	answer := make(chan error, 1)
	s.waits.Go(func() { answer <- f.Error() })
	return f, answer, nil
}

// writeError translates raft's errors. Only ErrNotLeader and a full queue are
// certain to have written nothing.
func (s *Store) writeError(ctx context.Context, r *raft.Raft, err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		s.metrics.proposals.WithLabelValues(outcomeNoLeader).Inc()
		return notLeader(r)
	case errors.Is(err, raft.ErrEnqueueTimeout):
		s.metrics.proposals.WithLabelValues(outcomeNoLeader).Inc()
		return fmt.Errorf("the leader is overloaded: %w", fleet.ErrUnavailable)
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), fleet.ErrTimeout):
		s.metrics.proposals.WithLabelValues(outcomeUnknown).Inc()
		return fmt.Errorf("no answer within %s, the write may still happen: %w", writeWait, fleet.ErrUnavailable)
	case ctx.Err() != nil:
		s.metrics.proposals.WithLabelValues(outcomeUnknown).Inc()
		return ctx.Err()
	}
	s.metrics.proposals.WithLabelValues(outcomeUnknown).Inc()
	return fmt.Errorf("%w, the write may still happen: %w", err, fleet.ErrUnavailable)
}

func (s *Store) now() int64 { return time.Now().Unix() }

// inParts calls propose for parts of items that fit into one entry each.
// encoded returns the length of an item's JSON.
func inParts[T any](items []T, encoded func(T) int, propose func(part []T) error) error {
	for len(items) > 0 {
		n, size := 0, 0
		for n < len(items) && n < maxEntryItems {
			size += encoded(items[n]) + 1
			if n > 0 && size > maxItemBytes {
				break
			}
			n++
		}
		if err := propose(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

func jsonSize[T any](item T) int { return len(mustEncode(item)) }
