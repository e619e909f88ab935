// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/peerrpc"
)

// awaits is a peerrpc.Awaits of one task.
type awaits struct {
	mu        sync.Mutex
	opened    int
	cancelled int
	written   bool
	done      chan struct{}
	err       error
}

func newAwaits() *awaits { return &awaits{done: make(chan struct{})} }

func (a *awaits) AwaitWritten(string) (wait func(context.Context) error, cancel func() bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.opened++
	return func(ctx context.Context) error {
			select {
			case <-a.done:
				return a.err
			case <-ctx.Done():
				return ctx.Err()
			}
		}, func() bool {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.cancelled++
			return a.written
		}
}

// write is what the stream's sender does; false: it may not.
func (a *awaits) write() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cancelled > 0 {
		return false
	}
	a.written = true
	close(a.done)
	return true
}

func (a *awaits) counts() (opened, cancelled int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.opened, a.cancelled
}

// awaiting is a node that has asked another one to tell when a task is written.
type awaiting struct {
	holder *awaits
	wait   func(context.Context) error
	cancel func() bool
	ctx    context.Context
	begun  time.Time
}

func (w *world) await(t *testing.T) *awaiting {
	t.Helper()
	x := &awaiting{holder: newAwaits(), begun: time.Now()}
	a := w.start("a", "10.0.0.1")
	b := w.start("b", "10.0.0.2", func(n *node) { n.opts.Awaits = x.holder })
	var stop context.CancelFunc
	x.ctx, stop = context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(stop)
	var err error
	if x.wait, x.cancel, err = a.port.Client(b.id).Await(x.ctx, "t1"); err != nil {
		t.Fatal(err)
	}
	if opened, _ := x.holder.counts(); opened != 1 {
		t.Fatalf("the holder has registered %d times", opened)
	}
	return x
}

// ended holds what must be so whatever happened: the holder has cancelled once,
// and writes nothing any more.
func (x *awaiting) ended(t *testing.T) {
	t.Helper()
	synctest.Wait()
	if _, cancelled := x.holder.counts(); cancelled != 1 {
		t.Errorf("the holder has cancelled %d times, want once", cancelled)
	}
}

func TestAwaitWritten(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		x := w.await(t)
		time.AfterFunc(time.Second, func() { x.holder.write() })
		if err := x.wait(x.ctx); err != nil || time.Since(x.begun) > 1100*time.Millisecond {
			t.Errorf("wait: %v after %v", err, time.Since(x.begun))
		}
		for range 2 { // again does no harm
			if !x.cancel() {
				t.Error("cancel says that it was not written")
			}
		}
		x.ended(t)
	})
}

// The holder gives up before the node that asked, which hears of it in time.
func TestAwaitNotWritten(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		x := w.await(t)
		err := x.wait(x.ctx)
		if took := time.Since(x.begun); err == nil || took < 3*time.Second || took > 4900*time.Millisecond {
			t.Errorf("wait: %v after %v, want the holder's word", err, took)
		}
		if x.cancel() {
			t.Error("cancel says that it was written")
		}
		x.ended(t)
	})
}

func TestAwaitWriteFails(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		x := w.await(t)
		x.holder.err = fleet.ErrOffline
		close(x.holder.done)
		if err := x.wait(x.ctx); !errors.Is(err, fleet.ErrOffline) || !strings.Contains(err.Error(), "offline") {
			t.Errorf("wait: %v", err)
		}
		if x.cancel() {
			t.Error("cancel says that it was written")
		}
		x.ended(t)
	})
}

// cancel has the holder's word at once, whichever it is.
func TestAwaitCancelled(t *testing.T) {
	for _, written := range []bool{false, true} {
		inBubble(t, func(t *testing.T, w *world) {
			x := w.await(t)
			ctx, stop := context.WithTimeout(t.Context(), time.Second)
			defer stop()
			if err := x.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("wait: %v", err)
			}
			if written && !x.holder.write() {
				t.Error("the holder may not write before it is told to stop")
			}
			if got := x.cancel(); got != written || time.Since(x.begun) > 1100*time.Millisecond {
				t.Errorf("cancel: %v after %v, want %v at once", got, time.Since(x.begun), written)
			}
			x.ended(t)
			if !written && x.holder.write() {
				t.Error("written after cancel")
			}
		})
	}
}

// Cut off from the holder, cancel returns once the holder has given up by itself.
func TestAwaitCutOff(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		x := w.await(t)
		w.net.Partition("10.0.0.1", "10.0.0.2")
		time.Sleep(500 * time.Millisecond)
		if x.cancel() {
			t.Error("cancel says that it was written")
		}
		if took := time.Since(x.begun); took > 5*time.Second {
			t.Errorf("cancel took until %v", took)
		}
		x.ended(t)
		if x.holder.write() {
			t.Error("written after cancel")
		}
	})
}

// The node that asked is gone: the holder writes nothing any more.
func TestAwaitAskerGone(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		x := w.await(t)
		w.nodes[serverID("a")].stop()
		<-w.nodes[serverID("a")].done
		x.ended(t)
		if x.cancel() {
			t.Error("cancel says that it was written")
		}
	})
}

// The holder stops while another node waits.
func TestAwaitHolderStops(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		x := w.await(t)
		w.nodes[serverID("b")].stop()
		<-w.nodes[serverID("b")].done
		if err := x.wait(x.ctx); err == nil {
			t.Error("wait says that it was written")
		}
		if x.cancel() {
			t.Error("cancel says that it was written")
		}
		x.ended(t)
	})
}

// A holder that does not register in a second is not waited for.
func TestAwaitSilentHolder(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2", func(n *node) { n.opts.Awaits = newAwaits() })
		c := a.port.Client(b.id)
		if _, err := c.NodeState(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.net.Partition("10.0.0.1", "10.0.0.2")
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		begun := time.Now()
		if _, _, err := c.Await(ctx, "t1"); !errors.Is(err, fleet.ErrTimeout) || time.Since(begun) != time.Second {
			t.Errorf("%v after %v, want a timeout after 1 s", err, time.Since(begun))
		}
		cut, stopNow := context.WithCancel(t.Context())
		stopNow()
		if _, _, err := c.Await(cut, "t1"); !errors.Is(err, context.Canceled) {
			t.Errorf("for a caller that is gone: %v", err)
		}
	})
}

var _ peerrpc.Awaits = (*awaits)(nil)
