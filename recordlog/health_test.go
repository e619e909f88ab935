// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"muster/recordlog"
)

// TestStatusOfSilence has the broker answer nothing: the status says so long
// before a request times out, for how many partitions, and then what hinders
// metadata, not what follows from its want.
func TestStatusOfSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		l := startLog(t, b, nil)
		fill(t, l, 3)
		l.settled(t)
		b.network.Cut(kafkaIP)
		l.append(t, "agent-1", "record")
		is := func(failing int, words string) {
			t.Helper()
			synctest.Wait()
			if s := l.Status(); s.Up || s.Failing != failing || !strings.Contains(s.LastError, words) {
				t.Fatalf("status = %+v, want %d failing partitions and %q", s, failing, words)
			}
		}
		time.Sleep(3 * time.Second)
		is(1, "no answer from ")
		time.Sleep(3 * recordlog.DefaultRequestTimeout)
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			is(8, "connecting to ")
		}
		b.network.Heal()
		l.settled(t)
		time.Sleep(3 * time.Second)
		if s := l.Status(); !s.Up || s.Failing != 0 || s.LastError != "" {
			t.Errorf("status = %+v, want up", s)
		}
	})
}
