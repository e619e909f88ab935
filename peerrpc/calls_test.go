// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/fleet"
	"muster/internal/pki"
	"muster/peerrpc"
)

func TestCalls(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
		entry := bytes.Repeat([]byte{7}, 256<<10)
		b.handler.propose = func(ctx context.Context, got []byte) ([]byte, uint64, error) {
			from, ok := peerrpc.PeerFrom(ctx)
			if want := (pki.NodeIdentity{ClusterID: clusterID, Name: "a", ServerID: a.id}); !ok || from != want {
				t.Errorf("PeerFrom = %+v, %v", from, ok)
			}
			if !bytes.Equal(got[1:], entry[1:]) {
				t.Errorf("%d bytes came", len(got))
			}
			return []byte{'#', got[0]}, 42, nil
		}
		b.handler.readIndex = func(context.Context) (uint64, error) { return 41, nil }
		b.handler.state = fleet.NodeState{
			Applied: 40, Hash: "beef", MarkIndex: 32, MarkHash: "dead", Format: 2, Term: 3, Leader: b.id, Ready: true,
		}
		c := a.port.Client(b.id)
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				mine := bytes.Clone(entry)
				mine[0] = byte(i)
				answer, index, err := c.Propose(t.Context(), mine)
				if err != nil || index != 42 || !bytes.Equal(answer, []byte{'#', byte(i)}) {
					t.Errorf("Propose = %q, %d, %v", answer, index, err)
				}
			})
		}
		wg.Wait()
		if index, err := c.ReadIndex(t.Context()); err != nil || index != 41 {
			t.Errorf("ReadIndex = %d, %v", index, err)
		}
		state, err := c.NodeState(t.Context())
		if diff := cmp.Diff(b.handler.state, state); err != nil || diff != "" {
			t.Errorf("NodeState: %v\n%s", err, diff)
		}
		if n := b.count("connections_total", "side", "accepted"); n != 1 {
			t.Errorf("%v connections for all calls", n)
		}
		if n := a.count("call_duration_seconds", "method", "Propose", "outcome", "ok"); n != 50 {
			t.Errorf("%v calls are counted", n)
		}
	})
}

// What a Handler returns is what the asking side gets.
func TestErrorsOfCalls(t *testing.T) {
	boom := errors.New("boom")
	refusal := &fleet.Refusal{Code: fleet.CodeTooLarge, Field: "entry", Detail: "too long"}
	for name, tt := range map[string]struct {
		err     error
		is      error
		text    string
		outcome string
	}{
		"not leader":  {fmt.Errorf("propose: %w", &peerrpc.NotLeaderError{Leader: "c~00000000"}), fleet.ErrUnavailable, "c~00000000", "not_leader"},
		"no leader":   {&peerrpc.NotLeaderError{}, fleet.ErrUnavailable, "knows no leader", "not_leader"},
		"refusal":     {fmt.Errorf("propose: %w", refusal), fleet.ErrTooLarge, "entry: too long", "refused"},
		"unavailable": {fmt.Errorf("the log is slow: %w", fleet.ErrUnavailable), fleet.ErrUnavailable, "the log is slow", "unavailable"},
		"stopping":    {fleet.ErrClosed, fleet.ErrUnavailable, "stopped", "unavailable"},
		"timeout":     {fmt.Errorf("no turn: %w", fleet.ErrTimeout), fleet.ErrTimeout, "", "timeout"},
		"fault":       {boom, nil, "boom", "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
				b.handler.propose = func(context.Context, []byte) ([]byte, uint64, error) { return nil, 0, tt.err }
				_, _, err := a.port.Client(b.id).Propose(t.Context(), nil)
				if err == nil || !strings.Contains(err.Error(), tt.text) || (tt.is != nil && !errors.Is(err, tt.is)) {
					t.Errorf("Propose: %v", err)
				}
				if wantLeader, ok := errors.AsType[*peerrpc.NotLeaderError](tt.err); ok {
					if got, ok := errors.AsType[*peerrpc.NotLeaderError](err); !ok || got.Leader != wantLeader.Leader {
						t.Errorf("leader: %v", err)
					}
				}
				if n := a.count("call_duration_seconds", "outcome", tt.outcome); n != 1 {
					t.Errorf("%s counted %v times", tt.outcome, n)
				}
			})
		})
	}
}

func TestDeadlines(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
		b.handler.readIndex = func(ctx context.Context) (uint64, error) { <-ctx.Done(); return 0, ctx.Err() }
		start := time.Now()
		_, err := a.port.Client(b.id).ReadIndex(t.Context())
		if took := time.Since(start); !errors.Is(err, fleet.ErrTimeout) || took != 10*time.Second {
			t.Errorf("a silent handler: %v after %v", err, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		_, err = a.port.Client(b.id).ReadIndex(ctx)
		if took := time.Since(start); !errors.Is(err, fleet.ErrTimeout) || took != time.Second {
			t.Errorf("the caller's own deadline: %v after %v", err, took)
		}
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		if _, err = a.port.Client(b.id).ReadIndex(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// A peer that is silenced, back, restarted elsewhere, or refused: calls end in
// time, and work again by themselves when they can.
func TestPeerComesAndGoes(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
		b.handler.state = fleet.NodeState{Applied: 1}
		c := a.port.Client(b.id)
		call := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, err := c.NodeState(ctx)
			return err
		}
		works := func() bool { return call() == nil }
		if err := call(); err != nil {
			t.Fatal(err)
		}
		w.net.Partition("10.0.0.1", "10.0.0.2")
		if err := call(); !errors.Is(err, fleet.ErrTimeout) {
			t.Errorf("partitioned: %v", err)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if n := a.count("open_connections"); n != 0 {
			t.Errorf("%v dead connections are kept", n)
		}
		w.net.Heal()
		eventually(t, "healed", 10*time.Second, works)

		b.move("10.0.0.22")
		eventually(t, "moved", 10*time.Second, works)

		m := b.membership.Swap(nil)
		b.move("10.0.0.2")
		time.Sleep(time.Second)
		if err := call(); !errors.Is(err, fleet.ErrUnavailable) || !strings.Contains(err.Error(), "not a member of a cluster yet") {
			t.Errorf("refused: %v", err)
		}
		b.membership.Store(m)
		eventually(t, "member again", 10*time.Second, works)
	})
}

func TestIdleAndGonePeers(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
		c := a.port.Client(b.id)
		call := func() {
			if _, err := c.NodeState(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		open := func() float64 { synctest.Wait(); return a.count("open_connections") }
		call()
		time.Sleep(4 * time.Minute)
		if open() != 1 {
			t.Error("closed too early")
		}
		time.Sleep(2 * time.Minute)
		if n := open(); n != 0 {
			t.Errorf("%v idle connections", n)
		}
		call()
		if open() != 1 {
			t.Error("not opened again")
		}
		w.addrs.Delete(b.id)
		time.Sleep(31 * time.Second)
		if n := open(); n != 0 {
			t.Errorf("%v connections to a node that is gone", n)
		}
		if _, err := c.NodeState(t.Context()); !errors.Is(err, fleet.ErrUnavailable) {
			t.Errorf("gone: %v", err)
		}
	})
}

func TestRunEndsUnderCalls(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
		b.handler.readIndex = func(ctx context.Context) (uint64, error) { <-ctx.Done(); return 0, ctx.Err() }
		b.handler.propose = func(context.Context, []byte) ([]byte, uint64, error) {
			time.Sleep(time.Second)
			return nil, 1, nil
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, _, err := a.port.Client(b.id).Propose(t.Context(), nil); err != nil {
				t.Errorf("a call under way was not waited for: %v", err)
			}
		})
		wg.Go(func() {
			if _, err := a.port.Client(b.id).ReadIndex(t.Context()); !errors.Is(err, fleet.ErrUnavailable) {
				t.Errorf("a call without end: %v", err)
			}
		})
		synctest.Wait()
		start := time.Now()
		b.stop()
		<-b.done
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("stopping took %v", took)
		}
		wg.Wait()
		a.stop()
		<-a.done
		if _, err := a.port.Client(b.id).NodeState(t.Context()); !errors.Is(err, fleet.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}
