// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"slices"
	"time"

	"muster/fleet"
)

const (
	// maxBatch and maxBatchBytes bound one proposal to the store.
	maxBatch      = 1000
	maxBatchBytes = 192 << 10
	// proposeTimeout bounds one proposal; the store answers earlier when it has
	// no leader.
	proposeTimeout = 15 * time.Second
	// retryPause is the wait after a proposal that the store could not take.
	retryPause = time.Second
	// markWait is how long a sent mark waits for others to share its proposal.
	markWait = 20 * time.Millisecond
	// reportWait is how long a sender waits for room in the queue of results.
	reportWait = 5 * time.Second
	// maxTasksAtOnce is how many tasks one step of a session sends.
	maxTasksAtOnce = 64
)

// sendTasks writes the tasks that are due for the session's agent. The sent mark
// of each is committed before it is written.
func (s *Server) sendTasks(sess *session) error {
	pending := s.opts.Tasks.PendingDispatch(sess.id)
	if len(pending) == 0 {
		sess.out.sentAt = nil
		return nil
	}
	now := s.now()
	due := s.dueTasks(sess, pending, now)
	due = slices.DeleteFunc(due, func(d fleet.Dispatch) bool {
		if d.Kind != fleet.TaskKindConfig {
			return false
		}
		// The desired config has carried it already: nothing is sent.
		sess.out.sentAt[d.TaskID] = now
		s.reportDone(sess, d)
		return true
	})
	if len(due) == 0 {
		return nil
	}
	if len(due) > maxTasksAtOnce {
		due = due[:maxTasksAtOnce]
		s.nudge(sess)
	}
	marks := make([]fleet.TaskMark, len(due))
	for i, d := range due {
		marks[i] = fleet.TaskMark{TaskID: d.TaskID, Number: d.Number}
	}
	granted, err := s.parts.marker.mark(sess, s.drain, marks)
	if err != nil {
		// A session that ends is no trouble: the agent's next one has its tasks.
		if !s.draining() && !sess.isEnded() && sess.stream.Context().Err() == nil {
			s.logs.Warn("sent marks cannot be stored: tasks wait", "error", err)
			s.parts.pusher.owe()
		}
		return nil
	}
	now = s.now()
	for i, d := range due {
		sess.out.sentAt[d.TaskID] = now
		if err := s.carryOut(sess, d, granted[i]); err != nil {
			return err
		}
	}
	return nil
}

// dueTasks chooses what is to be sent now, and forgets when tasks were sent
// that are pending no more.
func (s *Server) dueTasks(sess *session, pending []fleet.Dispatch, now int64) []fleet.Dispatch {
	sentAt := make(map[string]int64)
	var due []fleet.Dispatch
	for _, d := range pending {
		last, known := sess.out.sentAt[d.TaskID]
		if !known && d.Sent && d.Kind != fleet.TaskKindConfig {
			// Sent on an earlier stream, not later than this one began.
			last, known = sess.connectedAt, true
		}
		if known {
			sentAt[d.TaskID] = last
		}
		switch {
		case d.Deadline != 0 && now >= d.Deadline:
		case d.Sent && d.Kind != fleet.TaskKindConfig && d.Delivery != fleet.DeliveryRetry:
		case known && now-last < fleet.RetrySeconds:
		case d.Kind == fleet.TaskKindConfig && sess.written.Load() < d.Revision:
		case s.parts.awaits.isCancelled(d.TaskID):
		default:
			due = append(due, d)
		}
	}
	sess.out.sentAt = sentAt
	return due
}

// carryOut sends one marked task; an error ends the stream.
func (s *Server) carryOut(sess *session, d fleet.Dispatch, granted bool) error {
	if !granted {
		s.countTask("not_granted")
		return nil
	}
	command, err := encodeCommand(d.Command)
	if err != nil {
		s.countTask("failed")
		s.logs.Warn("task cannot be encoded", "task_id", d.TaskID, "error", err)
		s.report(sess, d, fleet.SubTaskFailed, err.Error())
		return nil
	}
	if sess.isEnded() { // while the mark was committed: the agent is elsewhere
		s.countTask("failed")
		return nil
	}
	if !s.parts.awaits.claim(d.TaskID) {
		s.countTask("cancelled")
		return nil
	}
	err = s.send(sess, command)
	s.parts.awaits.settle(d.TaskID, err)
	if err != nil {
		s.countTask("failed")
		return err
	}
	s.countTask("written")
	if !d.Command.ExpectsReply() {
		s.reportDone(sess, d)
	}
	return nil
}

func (s *Server) countTask(outcome string) { s.metrics.tasks.WithLabelValues(outcome).Inc() }

// reportDone says that a task without an answer of the agent has succeeded.
func (s *Server) reportDone(sess *session, d fleet.Dispatch) {
	s.report(sess, d, fleet.SubTaskSucceeded, "")
}

func (s *Server) report(sess *session, d fleet.Dispatch, state fleet.SubTaskState, message string) {
	r := fleet.TaskResult{
		Token: fleet.TaskToken(d.TaskID, d.Number), AgentID: d.AgentID,
		State: state, Message: message, At: s.now(),
	}
	ctx, cancel := context.WithTimeout(sess.stream.Context(), reportWait)
	defer cancel()
	if !s.parts.results.add(ctx, r) {
		// The session goes on; the sub-task ends as unknown.
		s.metrics.results.WithLabelValues("lost").Inc()
	}
}

// marker commits sent marks for all sessions together.
type marker struct {
	store TaskStore
	node  string
	// in blocks the sender that asks; it waits anyway.
	in chan markRequest
}

type markRequest struct {
	marks  []fleet.TaskMark
	answer chan markAnswer // of one, so that the marker never waits
}

type markAnswer struct {
	granted []bool
	err     error
}

func newMarker(store TaskStore, node string) *marker {
	return &marker{store: store, node: node, in: make(chan markRequest)}
}

// mark waits until the marks are committed. It gives up, with
// fleet.ErrUnavailable, when the session or the node ends; the marks may be
// committed nevertheless, and what they stand for is not sent.
func (m *marker) mark(sess *session, drain <-chan struct{}, marks []fleet.TaskMark) ([]bool, error) {
	req := markRequest{marks: marks, answer: make(chan markAnswer, 1)}
	select {
	case m.in <- req:
	case <-sess.line.ended:
		return nil, fleet.ErrUnavailable
	case <-sess.stream.Context().Done():
		return nil, fleet.ErrUnavailable
	case <-drain:
		return nil, fleet.ErrUnavailable
	}
	select {
	case a := <-req.answer:
		return a.granted, a.err
	case <-sess.line.ended:
		return nil, fleet.ErrUnavailable
	case <-sess.stream.Context().Done():
		return nil, fleet.ErrUnavailable
	case <-drain:
		return nil, fleet.ErrUnavailable
	}
}

func (m *marker) run(ctx context.Context) error {
	for {
		batch, size, err := m.collect(ctx)
		if err != nil {
			return err
		}
		marks := make([]fleet.TaskMark, 0, size)
		for _, r := range batch {
			marks = append(marks, r.marks...)
		}
		callCtx, cancel := context.WithTimeout(ctx, proposeTimeout)
		granted, err := m.store.MarkSent(callCtx, m.node, marks)
		cancel()
		if err == nil && len(granted) != len(marks) {
			err = fleet.ErrUnavailable // never: the store answers for each mark
		}
		for _, r := range batch {
			if err != nil {
				r.answer <- markAnswer{err: err}
				continue
			}
			r.answer <- markAnswer{granted: granted[:len(r.marks):len(r.marks)]}
			granted = granted[len(r.marks):]
		}
	}
}

// collect waits for a request, and a little longer for others.
func (m *marker) collect(ctx context.Context) (batch []markRequest, size int, err error) {
	select {
	case r := <-m.in:
		batch, size = append(batch, r), len(r.marks)
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	timer := time.NewTimer(markWait)
	defer timer.Stop()
	for size+maxTasksAtOnce <= maxBatch {
		select {
		case r := <-m.in:
			batch, size = append(batch, r), size+len(r.marks)
		case <-timer.C:
			return batch, size, nil
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
	return batch, size, nil
}
