// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"muster/recordlog"
)

// model drives a Log through faults, restarts and crashes, and knows what may be
// missing and doubled in the end.
type model struct {
	t       *testing.T
	b       *broker
	dir     string
	l       *running
	w       wants
	n       int
	lost    uint64 // in memory when the process was killed
	doubles uint64 // counted by processes that have ended
}

func (m *model) start() {
	m.l = startLog(m.t, m.b, func(o *recordlog.Options) {
		o.SpoolDir, o.MaxPendingBytes, o.MaxRecordBytes = m.dir, 128<<10, 16<<10
		recordlog.SetDisk(o, &faultyDisk{})
		o.Compression, o.FlushTimeout = recordlog.CompressionSnappy, 3*time.Second
	})
}

func (m *model) append(key, records int) {
	values := make([]string, records)
	for i := range values {
		m.n++
		values[i] = fmt.Sprint(m.n, " ", strings.Repeat("x", 37*m.n%900))
	}
	name := fmt.Sprint("agent-", key)
	m.w.add(name, values...)
	m.l.append(m.t, name, values...)
}

// restart ends the process and starts the next one: cleanly, or on what a kill leaves.
func (m *model) restart(kill bool) {
	t := m.t
	if !kill {
		m.l.stop()
		s := m.l.Ledger()
		if s.Pending != 0 || len(s.Dropped) != 0 || !s.Balanced() {
			t.Fatalf("ledger at a clean end = %+v", s)
		}
		m.doubles += s.PossibleDuplicates
		m.start()
		return
	}
	away := m.b.away.Load()
	synctest.Wait()
	left := copyTree(t, m.dir)
	s := m.l.Ledger()
	m.lost += s.Pending
	m.doubles += s.PossibleDuplicates
	m.b.goAway() // what the old process does from now on reaches nobody
	m.l.stop()
	m.dir = left
	if !away {
		m.b.comeBack()
	}
	m.start()
	if got := m.l.Ledger().Recovered; got != s.Spooled {
		t.Fatalf("%d records recovered, %d were spooled", got, s.Spooled)
	}
}

func (m *model) step(s modelStep) {
	switch s.do {
	case "append":
		m.append(s.n%5, 1+s.n%40)
	case "wait":
		time.Sleep(time.Duration(s.n) * 10 * time.Millisecond)
	case "away":
		m.b.goAway()
	case "back":
		m.b.network.Heal()
		m.b.comeBack()
	case "silent":
		m.b.network.Cut(kafkaIP)
	case "lose answers":
		m.b.lose.Store(int32(s.n % 4))
	case "slow": // so that an end comes while the disk is read back
		m.b.slow(time.Duration(s.n%4) * 300 * time.Millisecond)
	case "restart":
		m.restart(false)
	case "kill":
		m.restart(true)
	}
	synctest.Wait()
	if l := m.l.Ledger(); !l.Balanced() || l.PendingBytes > 128<<10 {
		m.t.Fatalf("after %v: ledger = %+v", s, l)
	}
}

type modelStep struct {
	do string
	n  int
}

func TestSpoolModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		names := []string{
			"append", "append", "append", "append", "append", "wait", "wait", "wait", "away", "away",
			"back", "back", "silent", "lose answers", "slow", "restart", "kill",
		}
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) modelStep {
			return modelStep{rapid.SampledFrom(names).Draw(rt, "do"), rapid.IntRange(0, 500).Draw(rt, "n")}
		}), 10, 40).Draw(rt, "steps")
		ok := t.Run("", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &model{t: t, b: startBroker(t), dir: t.TempDir(), w: wants{}}
				m.start()
				time.Sleep(time.Second) // it learns the partitions
				for _, s := range steps {
					m.step(s)
				}
				m.b.lose.Store(0)
				m.b.slow(0)
				m.b.network.Heal()
				m.b.comeBack()
				s := m.l.delivered(t)
				m.w.checkSubset(t, m.b.read(t), m.lost, m.doubles+s.PossibleDuplicates)
			})
		})
		if !ok {
			rt.Fatalf("%v", steps)
		}
	})
}

// checkSubset checks that at most so many records are missing, that no more
// than so many are doubled, and that the others are in their keys' order.
func (w wants) checkSubset(t *testing.T, records []*kgoRecord, missing, doubles uint64) {
	t.Helper()
	seen := map[string]bool{}
	next := map[string]int{}
	var doubled, got uint64
	for _, r := range records {
		key := string(r.Key)
		value, _ := strings.CutSuffix(string(r.Value), "|suffix")
		if seen[key+" "+value] {
			doubled++
			continue
		}
		seen[key+" "+value] = true
		got++
		i := next[key]
		for i < len(w[key]) && w[key][i] != value {
			i++
		}
		if i == len(w[key]) {
			t.Errorf("key %s: %.20q is not in order", key, value)
			continue
		}
		next[key] = i + 1
	}
	if doubled > doubles {
		t.Errorf("%d records are doubled, at most %d were counted", doubled, doubles)
	}
	if got+missing < w.count() {
		t.Errorf("%d of %d records are in kafka, at most %d may be missing", got, w.count(), missing)
	}
}
