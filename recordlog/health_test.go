// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

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

// TestLeaderMoveIsNotAway: leaders move while records come, and the brokers name the new
// ones only after a moment. The log does not cry; it does when that lasts.
func TestLeaderMoveIsNotAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t, kfake.NumBrokers(3))
		l := startLog(t, b, withSpool(t.TempDir()))
		a := startAgents(t, l, 20, 10*time.Millisecond, 100)
		time.Sleep(time.Second)
		lines := func(words string) int { return strings.Count(l.logs.String(), words) }
		for moves := 1; moves <= 3; moves++ {
			b.refusePartitions(0, 1, 2, 3, 4, 5, 6, 7)
			time.Sleep(300 * time.Millisecond)
			if l.Status().Up {
				t.Error("the status says nothing of it")
			}
			b.ShufflePartitionLeaders()
			b.refusePartitions()
			time.Sleep(10 * time.Second)
			if n := lines("for a moment"); n != moves {
				t.Errorf("%d lines after %d moves:\n%s", n, moves, l.logs)
			}
		}
		if lines("away;") != 0 || lines("level=WARN") != 0 || lines("kafka is there") != 1 {
			t.Errorf("the log cries when leaders move:\n%s", l.logs)
		}
		b.refusePartitions(0, 1, 2, 3, 4, 5, 6, 7)
		time.Sleep(4 * time.Second)
		if lines("kafka is away; records") != 1 {
			t.Errorf("the log does not say that kafka is away:\n%s", l.logs)
		}
		b.refusePartitions()
		time.Sleep(5 * time.Second)
		if lines("kafka is there") != 2 || lines("for a moment") != 3 {
			t.Errorf("the log does not say that kafka is there again:\n%s", l.logs)
		}
		a.end()
		l.delivered(t)
		a.check(t, b.read(t), 8)
	})
}
