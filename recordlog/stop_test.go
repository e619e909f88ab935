// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/recordlog"
)

func TestStopFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		l := startLog(t, b, nil)
		time.Sleep(time.Second)
		w := fill(t, l, 4)
		start := time.Now()
		l.stop()
		if d := time.Since(start); d > 15*time.Millisecond {
			t.Errorf("stopping took %v: it waited for batches to fill", d)
		}
		if ledger := l.Ledger(); ledger.Pending != 0 || ledger.Delivered != w.count() || !ledger.Balanced() {
			t.Errorf("ledger = %+v, want %d delivered", ledger, w.count())
		}
		w.check(t, b.read(t), 8)
		err := l.Append(t.Context(), "agent-1", [][]byte{{1}, {2}}, nil)
		if !errors.Is(err, fleet.ErrClosed) {
			t.Errorf("Append after the end = %v, want ErrClosed", err)
		}
		if ledger := l.Ledger(); ledger.Dropped[recordlog.DropStopped] != 2 || !ledger.Balanced() {
			t.Errorf("ledger = %+v, want 2 dropped as stopped", ledger)
		}
	})
}

func TestStopWhileAwayDropsAndSays(t *testing.T) {
	for _, learnt := range []bool{false, true} {
		t.Run(fmt.Sprint("partitions learnt ", learnt), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := startBroker(t)
				if !learnt {
					b.goAway()
				}
				l := startLog(t, b, nil)
				if learnt {
					l.append(t, "agent-1", "connected")
					l.settled(t)
					b.network.Cut(kafkaIP)
				}
				w := fill(t, l, 5)
				time.Sleep(time.Second)
				start := time.Now()
				l.stop()
				if d := time.Since(start); d != recordlog.DefaultFlushTimeout {
					t.Errorf("stopping took %v, want %v", d, recordlog.DefaultFlushTimeout)
				}
				ledger := l.Ledger()
				if ledger.Dropped[recordlog.DropShutdown] != w.count() || ledger.Pending != 0 || ledger.PendingBytes != 0 || !ledger.Balanced() {
					t.Errorf("ledger = %+v, want %d dropped at shutdown", ledger, w.count())
				}
				if !strings.Contains(l.logs.String(), fmt.Sprintf("records=%d ", w.count())) {
					t.Errorf("log does not tell %d lost records:\n%s", w.count(), l.logs)
				}
			})
		})
	}
}

func TestWaitingAppendEndsWithItsContextAndWithTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		b.goAway()
		l := startLog(t, b, func(o *recordlog.Options) { o.MaxPendingBytes, o.MaxRecordBytes = 4096, 4096 })
		l.append(t, "agent-1", strings.Repeat("x", 4000))
		record := [][]byte{make([]byte, 100)}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.Append(ctx, "agent-1", record, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Append = %v, want the context's end", err)
		}
		waiting := make(chan error, 1)
		var wg sync.WaitGroup
		wg.Go(func() { waiting <- l.Append(t.Context(), "agent-1", record, nil) })
		synctest.Wait()
		l.stop()
		if err := <-waiting; !errors.Is(err, fleet.ErrClosed) {
			t.Errorf("Append at the end = %v, want ErrClosed", err)
		}
		wg.Wait()
		ledger := l.Ledger()
		if ledger.Dropped[recordlog.DropCanceled] != 1 || ledger.Dropped[recordlog.DropStopped] != 1 || !ledger.Balanced() {
			t.Errorf("ledger = %+v, want one canceled, one stopped", ledger)
		}
	})
}

// TestTryAppendDeclines wants it to leave to Append, untouched, whatever has to
// wait or is to be counted as refused or dropped.
func TestTryAppendDeclines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		b.goAway()
		l := startLog(t, b, func(o *recordlog.Options) { o.MaxPendingBytes, o.MaxRecordBytes = 40_000, 4096 })
		time.Sleep(time.Second)
		try := func(what string, want bool, sizes ...int) {
			t.Helper()
			before := l.Ledger()
			records, bytes := make([][]byte, len(sizes)), int64(0)
			for i, n := range sizes {
				records[i] = make([]byte, n)
				bytes += int64(n)
			}
			if got := l.TryAppend(time.Now(), "a", records, []byte("suffix")); got != want {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
			after := l.Ledger()
			if !want {
				sizes, bytes = nil, 0
			}
			if n := after.Pending - before.Pending; n != uint64(len(sizes)) || after.Received-before.Received != n || after.PendingBytes-before.PendingBytes < bytes || !after.Balanced() {
				t.Errorf("%s: ledger = %+v, was %+v", what, after, before)
			}
		}
		try("nothing", true)
		try("one", true, 100)
		try("one too large among others", false, 100, 5000, 100)
		try("more than a share", false, 4000, 4000, 4000)
		for range 9 {
			try("within a share", true, 2000, 2000)
		}
		try("no room", false, 4000)
		try("room", true, 2000)
		b.comeBack()
		time.Sleep(time.Minute)
		try("room again", true, 4000)
		l.stop()
		try("after the end", false, 10)
	})
}
