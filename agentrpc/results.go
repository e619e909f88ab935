// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"muster/fleet"
	"muster/internal/rarelog"
)

const (
	// maxResults bounds the queue of results. A full queue blocks the streams
	// whose agents answer.
	maxResults = 8192
	// resultWait is how long a result waits for others to share its proposal.
	resultWait = 100 * time.Millisecond
	// maxStatusBytes is the longest status text that is kept.
	maxStatusBytes = 64
	// resultOverhead is about what a result costs in a proposal besides its texts.
	resultOverhead = 128
	// What an agent that did its task, or could not, writes.
	statusSucceed = "succeed"
	statusFailed  = "failed"
)

// results takes the outcomes of tasks to the store, in batches.
type results struct {
	store   TaskStore
	metrics *metrics
	logs    *rarelog.Logger
	queue   chan fleet.TaskResult
	// held is the batch of a run that was stopped, for flush.
	held []fleet.TaskResult
	// next did not fit into the batch before.
	next *fleet.TaskResult
}

func newResults(store TaskStore, m *metrics, logs *rarelog.Logger) *results {
	return &results{store: store, metrics: m, logs: logs, queue: make(chan fleet.TaskResult, maxResults)}
}

// add waits for room in the queue; false means that ctx has ended.
func (q *results) add(ctx context.Context, r fleet.TaskResult) bool {
	select {
	case q.queue <- r:
		return true
	default:
	}
	select {
	case q.queue <- r:
		return true
	case <-ctx.Done():
		return false
	}
}

func (q *results) run(ctx context.Context) error {
	for {
		if q.next == nil {
			select {
			case r := <-q.queue:
				q.next = &r
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		timer := time.NewTimer(resultWait)
		q.held = q.collect(timer.C, ctx.Done())
		timer.Stop()
		if !q.settle(ctx) {
			return ctx.Err() // flush tries once more
		}
	}
}

// collect fills a batch, beginning with q.next, until it is full or stop fires;
// a nil stop means until the queue is empty.
func (q *results) collect(stop <-chan time.Time, done <-chan struct{}) []fleet.TaskResult {
	var batch []fleet.TaskResult
	size := 0
	for {
		if q.next != nil {
			cost := resultOverhead + len(q.next.Token) + len(q.next.AgentID) + len(q.next.Status) + 2*len(q.next.Message)
			if len(batch) == maxBatch || (len(batch) > 0 && size+cost > maxBatchBytes) {
				return batch
			}
			batch, size, q.next = append(batch, *q.next), size+cost, nil
		}
		if stop == nil {
			select {
			case r := <-q.queue:
				q.next = &r
				continue
			default:
				return batch
			}
		}
		select {
		case r := <-q.queue:
			q.next = &r
		case <-stop:
			return batch
		case <-done:
			return batch
		}
	}
}

// settle proposes the held batch until the store has taken or refused it; false
// means that ctx has ended before.
func (q *results) settle(ctx context.Context) bool {
	for len(q.held) > 0 {
		outcome, err := propose(ctx, func(ctx context.Context) error { return q.store.SetResults(ctx, q.held) })
		switch outcome {
		case proposalTaken:
			q.metrics.results.WithLabelValues("stored").Add(float64(len(q.held)))
		case proposalRefused:
			q.logs.Warn("results refused", "count", len(q.held), "error", err)
			q.metrics.results.WithLabelValues("refused").Add(float64(len(q.held)))
		case proposalLater:
			if ctx.Err() == nil { // else flush tries again, and tells what it loses
				q.logs.Warn("results cannot be stored: they wait", "count", len(q.held), "error", err)
			}
			if !pause(ctx, retryPause) {
				return false
			}
			continue
		}
		q.held = nil
	}
	return true
}

// flush gives the store what run has left, until ctx ends.
func (q *results) flush(ctx context.Context) {
	for q.settle(ctx) {
		if q.held = q.collect(nil, nil); len(q.held) == 0 {
			return
		}
	}
	lost := len(q.held) + len(q.queue)
	if q.next != nil {
		lost++
	}
	q.metrics.results.WithLabelValues("lost").Add(float64(lost))
	q.logs.Error("results lost at the end: their tasks will end as unknown", "count", lost)
}

// reply deals with a reply record. It blocks while the queue is full.
func (s *Server) reply(sess *session, n notable, now int64) error {
	r, err := resultOf(n)
	if err != nil {
		s.metrics.undecodableBodies.Inc()
		if r.Token == "" {
			return nil
		}
		s.agentLogs.Warn("reply cannot be read as a whole", "agent_id", sess.id, "data_type", int32(n.dataType), "error", err)
		if r.Status == "" && r.Message == "" {
			r.Message = "the agent's reply could not be read"
		}
	}
	r.AgentID, r.At = sess.id, now
	if skip := s.needless(r); skip != "" {
		s.metrics.results.WithLabelValues(skip).Inc()
		return nil
	}
	if !s.parts.results.add(sess.line.appendCtx, r) {
		s.metrics.results.WithLabelValues("lost").Inc()
		return status.Error(codes.Unavailable, "results cannot be taken now")
	}
	return nil
}

// resultOf reads a reply record. With an error the result holds what could be
// read: an agent that answered should not leave its task open.
func resultOf(n notable) (r fleet.TaskResult, err error) {
	r.DataType = n.dataType
	err = eachField(n.body, func(k, v []byte) {
		switch string(k) {
		case "token":
			r.Token = string(clip(v, fleet.MaxTaskTokenBytes+1))
		case "status":
			r.Status = string(clip(v, maxStatusBytes))
		case "msg":
			r.Message = string(clip(v, fleet.MaxResultBytes))
		}
	})
	switch {
	case n.dataType == fleet.DataTypeVerification: // only its text is kept
	case r.Status == statusSucceed:
		r.State = fleet.SubTaskSucceeded
	default:
		r.State = fleet.SubTaskFailed
	}
	return r, err
}

// needless names why a result need not be proposed, "" if it must be: agents
// should not be able to fill the replicated log with what changes nothing.
func (s *Server) needless(r fleet.TaskResult) string {
	if r.Token == "" || len(r.Token) > fleet.MaxTaskTokenBytes {
		return "unknown_token"
	}
	sub, err := s.opts.Lookup.SubTaskByToken(r.Token)
	switch {
	case errors.Is(err, fleet.ErrNotFound) && s.opts.Desired.Current():
		return "unknown_token"
	case err != nil: // this node may not know it yet: the store judges
		return ""
	case sub.AgentID != r.AgentID:
		return "unknown_token"
	case r.State != "" && sub.State.Ended() && sub.State != fleet.SubTaskUnknown:
		return "repeated"
	}
	return ""
}
