// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"muster/recordlog"
)

// withSpool has the Log spool to dir.
func withSpool(dir string) func(*recordlog.Options) {
	return func(o *recordlog.Options) {
		o.SpoolDir = dir
		recordlog.SetDisk(o, &faultyDisk{})
	}
}

// delivered waits until nothing is pending nor spooled, and checks the ledger.
func (r *running) delivered(t *testing.T) recordlog.Ledger {
	t.Helper()
	for range 6000 {
		if l := r.Ledger(); l.Pending == 0 && l.Spooled == 0 {
			if !l.Balanced() {
				t.Fatalf("ledger does not balance: %+v", l)
			}
			return l
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
	}
	t.Fatalf("not delivered after 10 minutes: %+v, %+v\n%s", r.Ledger(), r.Status(), r.logs)
	return recordlog.Ledger{}
}

// spoolIsEmpty fails if a partition's directory is left.
func spoolIsEmpty(t *testing.T, dir string) {
	t.Helper()
	time.Sleep(time.Second)
	synctest.Wait()
	files, err := filepath.Glob(filepath.Join(dir, topic, "*", "*"))
	if err != nil || len(files) > 0 {
		t.Errorf("the spool is not empty: %v %v", files, err)
	}
}

type kgoRecord = kgo.Record

// agents append on their own until stopped, a record each every pause.
type agents struct {
	wants
	wg   sync.WaitGroup
	stop chan struct{}
}

func startAgents(t *testing.T, l *running, n int, pause time.Duration, size int) *agents {
	t.Helper()
	a := &agents{wants: wants{}, stop: make(chan struct{})}
	var mu sync.Mutex
	for i := range n {
		key := fmt.Sprint("agent-", i)
		a.wg.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-a.stop:
					return
				case <-time.After(pause):
				}
				value := fmt.Sprint(j, " ", strings.Repeat("v", size))
				if err := l.Append(t.Context(), key, [][]byte{[]byte(value)}, []byte("|suffix")); err != nil {
					return
				}
				mu.Lock()
				a.add(key, value)
				mu.Unlock()
			}
		})
	}
	return a
}

func (a *agents) end() {
	close(a.stop)
	a.wg.Wait()
}

func TestKafkaAwayGoesToDiskAndComesBack(t *testing.T) {
	for name, fault := range map[string]struct{ begin, end func(*broker) }{
		"refused": {(*broker).goAway, (*broker).comeBack},
		"silent":  {func(b *broker) { b.network.Cut(kafkaIP) }, func(b *broker) { b.network.Heal() }},
	} {
		for _, away := range []time.Duration{20 * time.Second, 5 * time.Minute} {
			t.Run(fmt.Sprint(name, " ", away), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const room = 512 << 10
					dir := t.TempDir()
					b := startBroker(t)
					l := startLog(t, b, func(o *recordlog.Options) {
						o.SpoolDir, o.MaxPendingBytes, o.MaxRecordBytes = dir, room, 64<<10
						recordlog.SetDisk(o, &faultyDisk{})
					})
					a := startAgents(t, l, 20, 300*time.Millisecond, 1000)
					time.Sleep(2 * time.Second)
					fault.begin(b)
					for range int(away / time.Second) {
						time.Sleep(time.Second)
						synctest.Wait()
						if s := l.Ledger(); s.PendingBytes > room || !s.Balanced() {
							t.Fatalf("ledger while away = %+v, want <= %d bytes pending", s, room)
						}
					}
					s := l.Ledger()
					if s.Spooled == 0 || s.Pending > s.Spooled || s.SpooledBytes == 0 || s.SpoolOldest.IsZero() {
						t.Errorf("ledger while away = %+v, want most on disk", s)
					}
					if n := strings.Count(l.logs.String(), "records go to the disk now"); n != 1 {
						t.Errorf("%d lines say that records go to the disk, want 1:\n%s", n, l.logs)
					}
					fault.end(b)
					time.Sleep(5 * time.Second)
					a.end()
					s = l.delivered(t)
					if s.Delivered != a.count() || s.Received != a.count() || s.PossibleDuplicates != 0 || s.SpooledBytes != 0 {
						t.Errorf("ledger = %+v, want %d delivered once", s, a.count())
					}
					a.check(t, b.read(t), 8)
					spoolIsEmpty(t, dir)
					if n := strings.Count(l.logs.String(), "directly again"); n != 1 {
						t.Errorf("%d lines say that the spool is empty, want 1:\n%s", n, l.logs)
					}
				})
			})
		}
	}
}

func TestSpoolOutlivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		b := startBroker(t)
		l := startLog(t, b, withSpool(dir))
		w := fill(t, l, 1)
		l.settled(t)
		b.goAway()
		keep := func(more wants) {
			for key, values := range more {
				w.add(key, values...)
			}
		}
		before := w.count()
		keep(fill(t, l, 2))
		uncertain := w.count() - before // on connections that broke
		time.Sleep(3 * time.Second)
		keep(fill(t, l, 4))
		began := time.Now()
		l.stop() // at once: kafka is known to be away
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("stopping took %v", d)
		}
		s := l.Ledger()
		if s.Pending != 0 || s.Spooled != w.count()-before || len(s.Dropped) != 0 || !s.Balanced() {
			t.Errorf("ledger at the end = %+v, want %d spooled", s, w.count()-before)
		}

		l = startLog(t, b, withSpool(dir)) // kafka is still away
		if s := l.Ledger(); s.Recovered != w.count()-before || s.Received != s.Recovered || s.Spooled != s.Recovered || !s.Balanced() {
			t.Errorf("ledger after the restart = %+v, want %d recovered", s, w.count()-before)
		}
		keep(fill(t, l, 3))
		time.Sleep(10 * time.Second)
		if s := l.Ledger(); s.Pending != 0 || s.Spooled != w.count()-before {
			t.Errorf("ledger after the restart = %+v, want all %d on disk", s, w.count()-before)
		}
		b.comeBack()
		s = l.delivered(t)
		if s.PossibleDuplicates != uncertain || s.Delivered != w.count()-before {
			t.Errorf("ledger = %+v, want %d delivered, %d possible duplicates", s, w.count()-before, uncertain)
		}
		w.check(t, b.read(t), 8)
		spoolIsEmpty(t, dir)
	})
}

// checkButFor checks that each record is there in its key's order, but for the
// last ones of a key, and that no more than so many are doubled.
func (w wants) checkButFor(t *testing.T, records []*kgo.Record, doubles uint64) {
	t.Helper()
	got, seen := wants{}, map[string]bool{}
	var doubled uint64
	for _, r := range records {
		value, _ := strings.CutSuffix(string(r.Value), "|suffix")
		if id := string(r.Key) + " " + value; seen[id] {
			doubled++
		} else {
			seen[id] = true
			got.add(string(r.Key), value)
		}
	}
	if doubled > doubles {
		t.Errorf("%d records are doubled, at most %d were counted", doubled, doubles)
	}
	for key, values := range got {
		if n := len(values); n > len(w[key]) || !slices.Equal(values, w[key][:n]) {
			t.Errorf("key %s: %d records of %d, not in order", key, n, len(w[key]))
		}
	}
}

// copyTree is what a process that is killed leaves.
func copyTree(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestKilledDuringAnOutage: what came 200 ms before the end is there afterwards,
// whatever the end of the newest file looks like.
func TestKilledDuringAnOutage(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, file string){
		"as it was": func(*testing.T, string) {},
		"garbage at the end": func(t *testing.T, file string) {
			f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteString("MSPE\x01 and so on " + strings.Repeat("\xff", 5000))
			}
			if err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				b := startBroker(t)
				l := startLog(t, b, withSpool(dir))
				a := startAgents(t, l, 10, 10*time.Millisecond, 200)
				time.Sleep(time.Second)
				b.goAway()
				time.Sleep(10 * time.Second)
				received := l.Ledger().Received
				delivered := l.Ledger().Delivered
				time.Sleep(200 * time.Millisecond)
				left := copyTree(t, dir)
				a.end()
				l.stop()
				files, _ := filepath.Glob(filepath.Join(left, topic, "*", "*.spool"))
				if len(files) == 0 {
					t.Fatal("nothing was spooled")
				}
				for _, f := range files {
					harm(t, f)
				}
				b.comeBack()
				l = startLog(t, b, withSpool(left))
				s := l.delivered(t)
				if s.Recovered < received-delivered || s.PossibleDuplicates == s.Recovered || s.Delivered != s.Recovered {
					t.Errorf("ledger = %+v, want at least %d recovered", s, received-delivered)
				}
				a.checkButFor(t, b.readOnce(t), s.PossibleDuplicates)
				if got := uint64(len(b.readOnce(t))); got < received {
					t.Errorf("%d records in kafka, want at least %d", got, received)
				}
				spoolIsEmpty(t, left)
			})
		})
	}
}
