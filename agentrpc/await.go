// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"muster/fleet"
)

// awaits are the tasks for which a caller waits until they are written, and
// those that a caller has cancelled while it waited.
type awaits struct {
	mu    sync.Mutex
	tasks map[string]*await
}

type await struct {
	state awaitState
	done  chan struct{} // closed when the write has ended
	err   error         // of the write
	// forgetAt is when a cancelled entry has no task left to hold back.
	forgetAt time.Time
}

type awaitState int

const (
	awaitOpen      awaitState = iota
	awaitClaimed              // the write has begun, it may have ended
	awaitCancelled            // nothing is written any more
)

// keepCancelled is longer than a command's task can be pending.
const keepCancelled = fleet.DefaultTaskSeconds * time.Second

func newAwaits() *awaits { return &awaits{tasks: make(map[string]*await)} }

// AwaitWritten prepares to wait for a task's command to be written to a stream
// of this node; it is called before the task is created.
//
// wait returns nil when the command has been written, or why it was not, or
// when ctx ends. cancel must be called once at the end, after a success too: it
// makes sure that this node writes nothing from now on, and tells whether the
// command has been written, or is being written and can no longer be held back.
func (s *Server) AwaitWritten(taskID string) (wait func(ctx context.Context) error, cancel func() (written bool)) {
	a := s.parts.awaits.open(taskID)
	wait = func(ctx context.Context) error {
		select {
		case <-a.done:
			return a.err
		case <-ctx.Done():
			return fmt.Errorf("wait for task to be written: %w", context.Cause(ctx))
		}
	}
	return wait, func() bool { return s.parts.awaits.cancel(taskID, a) }
}

func (w *awaits) open(taskID string) *await {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(w.tasks, func(_ string, a *await) bool {
		return a.state == awaitCancelled && now.After(a.forgetAt)
	})
	a := &await{done: make(chan struct{})}
	w.tasks[taskID] = a
	return a
}

// cancel decides between writing and cancelling: one of them comes first.
func (w *awaits) cancel(taskID string, a *await) (written bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch a.state {
	case awaitOpen:
		a.state, a.forgetAt = awaitCancelled, time.Now().Add(keepCancelled)
		return false
	case awaitCancelled:
		return false
	case awaitClaimed:
	}
	if w.tasks[taskID] == a {
		delete(w.tasks, taskID)
	}
	select {
	case <-a.done:
		return a.err == nil
	default:
		return true
	}
}

// claim is called right before a write; false forbids it.
func (w *awaits) claim(taskID string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.tasks[taskID]
	if a == nil {
		return true
	}
	if a.state == awaitCancelled {
		return false
	}
	a.state = awaitClaimed
	return true
}

// settle tells the waiting caller how a claimed write ended.
func (w *awaits) settle(taskID string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.tasks[taskID]
	if a == nil || a.state != awaitClaimed {
		return
	}
	select {
	case <-a.done: // a task of more than one agent; the first counts
	default:
		if err != nil {
			a.err = fmt.Errorf("write command to agent: %w: %w", fleet.ErrOffline, err)
		}
		close(a.done)
	}
}

func (w *awaits) isCancelled(taskID string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.tasks[taskID]
	return a != nil && a.state == awaitCancelled
}
