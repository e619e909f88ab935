// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"muster/fleet"
	"muster/peerrpc/peerrpcpb"
)

// Awaits tells when commands are written to streams of this node.
type Awaits interface {
	// AwaitWritten is called before the task is created. wait returns nil once
	// the task's command is written to a stream; cancel makes sure that it is not
	// written from now on, and says whether it was already; it is called once at
	// the end, after a success too.
	AwaitWritten(taskID string) (wait func(ctx context.Context) error, cancel func() (written bool))
}

const (
	// maxAwait bounds how long a node waits for another one.
	maxAwait = 10 * time.Second
	// registerTimeout bounds how long the holder of the stream may take to register.
	registerTimeout = time.Second
	// verdictTime is how much sooner the holder gives up than the one that asks.
	verdictTime = 250 * time.Millisecond
)

// Await is part of the service Peer. On every way out it makes sure that the
// command is not written any more.
func (s *peerServer) Await(stream grpc.BidiStreamingServer[peerrpcpb.AwaitRequest, peerrpcpb.AwaitEvent]) error {
	if s.port.opts.Awaits == nil {
		return errNoAgents()
	}
	req, err := stream.Recv()
	if err != nil {
		return toStatus(err)
	}
	wait, cancel := s.port.opts.Awaits.AwaitWritten(req.GetTaskId())
	cancel = sync.OnceValue(cancel)
	defer cancel()
	within := min(time.Duration(req.GetWithinMs())*time.Millisecond, maxAwait)
	ctx, giveUp := context.WithTimeout(stream.Context(), within)
	defer giveUp()
	// It ends with the stream, at the latest.
	s.port.awaiting.Go(func() {
		_, _ = stream.Recv() // the asking side has given up, or is gone
		giveUp()
	})
	if err := stream.Send(&peerrpcpb.AwaitEvent{State: peerrpcpb.AwaitState_AWAIT_STATE_REGISTERED}); err != nil {
		return err
	}
	verdict := &peerrpcpb.AwaitEvent{State: peerrpcpb.AwaitState_AWAIT_STATE_WRITTEN}
	err = wait(ctx)
	if written := cancel(); !written && err != nil {
		verdict.State, verdict.Why = peerrpcpb.AwaitState_AWAIT_STATE_NOT_WRITTEN, err.Error()
	}
	return stream.Send(verdict)
}

// Await prepares to wait for a task's command to be written to a stream of the
// node; it is called before the task is created, with a ctx that has a deadline.
// The node has registered when it returns; wait and cancel are those of Awaits.
//
// Both wait for the node's word, cancel until the moment at which the node has
// given up by itself. So a command that cancel calls not written is not written
// by that node later, whatever became of the connection; without the node's
// word it may have been before.
func (c *Client) Await(ctx context.Context, taskID string) (wait func(ctx context.Context) error, cancel func() (written bool), err error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(c.port.opts.Tuning.CallTimeout)
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, fmt.Errorf("node %s: %w", c.serverID, err)
	}
	shared, err := c.port.clients.take(c.serverID)
	if err != nil {
		return nil, nil, fmt.Errorf("node %s: %w", c.serverID, err)
	}
	start := time.Now()
	left := deadline.Sub(start)
	register := min(registerTimeout, left/4)
	within := min(left-register-min(verdictTime, left/8), maxAwait)
	a := &remoteAwait{client: c, done: make(chan struct{})}
	// It outlives ctx until cancel is called.
	streamCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	a.stop = func() { stop(); c.port.clients.release(shared) }
	if err := a.open(streamCtx, shared.peer, taskID, within, register); err != nil {
		outcome, said := fromStatus(ctx, c.serverID, err)
		c.port.metrics.calls.WithLabelValues("Await", outcome).Observe(time.Since(start).Seconds())
		a.stop()
		return nil, nil, said
	}
	a.holderEnds = time.Now().Add(within)
	a.reading.Go(func() { a.read(start) })
	return a.wait, sync.OnceValue(a.cancel), nil
}

// remoteAwait is an Await of which another node has registered.
type remoteAwait struct {
	client     *Client
	stream     grpc.BidiStreamingClient[peerrpcpb.AwaitRequest, peerrpcpb.AwaitEvent]
	stop       func()
	holderEnds time.Time // when the other node has given up by itself
	reading    sync.WaitGroup

	done    chan struct{} // closed when its word has come, or cannot come
	said    bool          // its word has come
	written bool
	err     error // why it was not written
}

// open sends the request and waits until the node has registered.
func (a *remoteAwait) open(ctx context.Context, peer peerrpcpb.PeerClient, taskID string, within, register time.Duration) error {
	ctx, late := context.WithCancelCause(ctx)
	timer := time.AfterFunc(register, func() { late(context.DeadlineExceeded) })
	stream, err := peer.Await(ctx)
	if err == nil {
		err = stream.Send(&peerrpcpb.AwaitRequest{TaskId: taskID, WithinMs: uint32(max(0, within).Milliseconds())}) //nolint:gosec // at most maxAwait
	}
	var event *peerrpcpb.AwaitEvent
	if err == nil || errors.Is(err, io.EOF) { // the stream has ended, and Recv says why
		event, err = stream.Recv()
	}
	switch stopped := timer.Stop(); {
	case !stopped:
		return toStatus(context.DeadlineExceeded)
	case err != nil:
		late(err)
		return err
	case event.GetState() != peerrpcpb.AwaitState_AWAIT_STATE_REGISTERED:
		err := fmt.Errorf("answered %v before it had registered", event.GetState())
		late(err)
		return toStatus(err)
	}
	a.stream = stream
	return nil
}

// read takes the node's word.
func (a *remoteAwait) read(start time.Time) {
	defer close(a.done)
	event, err := a.stream.Recv()
	outcome, said := fromStatus(context.Background(), a.client.serverID, err)
	a.client.port.metrics.calls.WithLabelValues("Await", outcome).Observe(time.Since(start).Seconds())
	switch {
	case said != nil:
		a.err = said
	case event.GetState() == peerrpcpb.AwaitState_AWAIT_STATE_WRITTEN:
		a.said, a.written = true, true
	default:
		a.said = true
		a.err = fmt.Errorf("node %s did not write the command: %s: %w", a.client.serverID, event.GetWhy(), fleet.ErrOffline)
	}
}

func (a *remoteAwait) wait(ctx context.Context) error {
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return fmt.Errorf("wait for task to be written: %w", context.Cause(ctx))
	}
}

func (a *remoteAwait) cancel() (written bool) {
	_ = a.stream.CloseSend() // the node answers with its word
	timer := time.NewTimer(time.Until(a.holderEnds))
	defer timer.Stop()
	select {
	case <-a.done:
		if !a.said {
			<-timer.C
		}
	case <-timer.C:
	}
	a.stop()
	a.reading.Wait()
	return a.written
}
