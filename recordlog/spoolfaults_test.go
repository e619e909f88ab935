// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"muster/recordlog"
)

// faultyDisk is a disk that is full, or whose syncs fail, on demand. Else it skips
// them: a process that is killed does not need them, and they take time.
type faultyDisk struct{ full, unsynced atomic.Bool }

func (d *faultyDisk) WriteAt(f *os.File, p []byte, off int64) (int, error) {
	if d.full.Load() {
		n, _ := f.WriteAt(p[:len(p)/2], off) // it takes a part
		return n, syscall.ENOSPC
	}
	return f.WriteAt(p, off)
}

func (d *faultyDisk) Sync(*os.File) error {
	if d.unsynced.Load() {
		return syscall.EIO
	}
	return nil
}

// TestSpoolThatTakesNoMore: the limit is reached, or the disk is full or broken.
// Records stay in memory, Append waits, nothing is lost.
func TestSpoolThatTakesNoMore(t *testing.T) {
	for _, kind := range []string{"limit", "full", "unsynced"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const room = 256 << 10
				dir, disk, limit := t.TempDir(), &faultyDisk{}, int64(1<<30)
				if kind == "limit" {
					limit = 1 << 20
				}
				b := startBroker(t)
				l := startLog(t, b, func(o *recordlog.Options) {
					o.SpoolDir, o.SpoolMaxBytes, o.MaxPendingBytes, o.MaxRecordBytes = dir, limit, room, 32<<10
					recordlog.SetDisk(o, disk)
				})
				l.append(t, "agent-0", "first")
				l.settled(t)
				b.goAway()
				a := startAgents(t, l, 20, 10*time.Millisecond, 1000)
				time.Sleep(2 * time.Second)
				disk.full.Store(kind == "full")
				disk.unsynced.Store(kind == "unsynced")
				time.Sleep(10 * time.Second)
				before := l.Ledger()
				time.Sleep(10 * time.Second)
				s, status := l.Ledger(), l.Status()
				if s.Received != before.Received || s.PendingBytes > room || s.PendingBytes < room*9/10 || s.SpooledBytes > limit || !s.Balanced() {
					t.Errorf("ledger = %+v, want memory full and nothing taken any more", s)
				}
				if status.SpoolError == "" || status.Spooling == 0 {
					t.Errorf("Status = %+v, want an error of the spool", status)
				}
				if n := strings.Count(l.logs.String(), "takes no more"); n != 1 {
					t.Errorf("%d lines say so, want 1:\n%s", n, l.logs)
				}
				disk.full.Store(false)
				disk.unsynced.Store(false)
				b.comeBack()
				time.Sleep(3 * time.Second)
				a.end()
				s = l.delivered(t)
				a.wants["agent-0"] = append([]string{"first"}, a.wants["agent-0"]...)
				if s.Delivered != a.count() || len(s.Dropped) != 0 {
					t.Errorf("ledger = %+v, want %d delivered", s, a.count())
				}
				a.checkSubset(t, b.read(t), 0, s.PossibleDuplicates)
				spoolIsEmpty(t, dir)
				if status := l.Status(); status.SpoolError != "" || status.Spooling != 0 {
					t.Errorf("Status = %+v, want no error of the spool", status)
				}
			})
		})
	}
}

// TestDiskIsFullAtTheEnd: what neither Kafka nor the disk takes is dropped, counted and said.
func TestDiskIsFullAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &faultyDisk{}
		b := startBroker(t)
		l := startLog(t, b, func(o *recordlog.Options) {
			o.SpoolDir = t.TempDir()
			recordlog.SetDisk(o, disk)
		})
		l.append(t, "agent-0", "first")
		l.settled(t)
		b.goAway()
		disk.full.Store(true)
		w := fill(t, l, 1)
		began := time.Now()
		l.stop()
		if d := time.Since(began); d > 20*time.Second {
			t.Errorf("stopping took %v", d)
		}
		if s := l.Ledger(); s.Dropped[recordlog.DropShutdown] != w.count() || !s.Balanced() || s.Pending != 0 {
			t.Errorf("ledger = %+v, want %d dropped at shutdown", s, w.count())
		}
		if !strings.Contains(l.logs.String(), "records lost at shutdown") {
			t.Errorf("nothing says that records are lost:\n%s", l.logs)
		}
	})
}

// TestDamagedSpoolIsDeliveredButForTheDamage flips a byte in the middle of what an
// outage left.
func TestDamagedSpoolIsDeliveredButForTheDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		b := startBroker(t)
		l := startLog(t, b, withSpool(dir))
		l.append(t, "agent-1", "first")
		l.settled(t)
		b.goAway()
		w := wants{"agent-1": {"first"}}
		for i := range 10 {
			value := fmt.Sprint(i, strings.Repeat("v", 100))
			w.add("agent-1", value)
			l.append(t, "agent-1", value)
			time.Sleep(2 * time.Second) // an entry each
		}
		l.stop()
		files, _ := filepath.Glob(filepath.Join(dir, topic, "*", "*.spool"))
		if len(files) != 1 {
			t.Fatalf("files of the spool: %v", files)
		}
		content, err := os.ReadFile(files[0])
		if err == nil {
			content[len(content)/2] ^= 1
			err = os.WriteFile(files[0], content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		b.comeBack()
		l = startLog(t, b, withSpool(dir))
		s := l.delivered(t)
		if s.Dropped[recordlog.DropSpoolDamaged] != 1 || s.Recovered != 10 || s.Delivered != 9 {
			t.Errorf("ledger = %+v, want 9 of 10 delivered", s)
		}
		w.checkSubset(t, b.read(t), 1, s.PossibleDuplicates)
		if n := strings.Count(l.logs.String(), "is damaged"); n != 1 {
			t.Errorf("%d lines about the damage, want 1:\n%s", n, l.logs)
		}
	})
}

// TestOneLeaderAway: only its partitions spool.
func TestOneLeaderAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t, kfake.NumBrokers(2))
		l := startLog(t, b, withSpool(t.TempDir()))
		a := startAgents(t, l, 40, 100*time.Millisecond, 100)
		time.Sleep(time.Second)
		b.refusePartitions(3, 4)
		time.Sleep(10 * time.Second)
		if s := l.Status(); s.Spooling != 2 {
			t.Errorf("Status = %+v, want two partitions to spool", s)
		}
		spooled, delivered := l.Ledger().Spooled, l.Ledger().Delivered
		time.Sleep(10 * time.Second)
		s := l.Ledger()
		if s.Spooled <= spooled || s.Delivered < delivered+40*100*5/8 || s.Pending > 400 {
			t.Errorf("ledger = %+v after %d spooled, %d delivered: want both to grow", s, spooled, delivered)
		}
		b.refusePartitions()
		time.Sleep(3 * time.Second)
		a.end()
		if s := l.delivered(t); s.PossibleDuplicates != 0 {
			t.Errorf("ledger = %+v, want no duplicates", s)
		}
		a.check(t, b.read(t), 8)
	})
}

// refusePartitions has no leader for some partitions, until called again.
func (b *broker) refusePartitions(which ...int32) {
	refused := map[int32]bool{}
	for _, p := range which {
		refused[p] = true
	}
	b.refused.Store(&refused)
	if b.refuses.Swap(true) {
		return
	}
	b.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		r := req.(*kmsg.ProduceRequest)
		res := r.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range r.Topics {
			st := kmsg.NewProduceResponseTopic()
			st.Topic = rt.Topic
			for _, rp := range rt.Partitions {
				if !(*b.refused.Load())[rp.Partition] {
					return nil, nil, false // a request has one
				}
				sp := kmsg.NewProduceResponseTopicPartition()
				sp.Partition, sp.ErrorCode = rp.Partition, kerr.NotLeaderForPartition.Code
				st.Partitions = append(st.Partitions, sp)
			}
			res.Topics = append(res.Topics, st)
		}
		return res, nil, true
	})
}

// TestTopicOfOtherPartitionsWhileSpooled: what was spooled for partitions that
// are gone goes where its keys belong now, while the Log runs or at its start.
func TestTopicOfOtherPartitionsWhileSpooled(t *testing.T) {
	for _, partitions := range []int32{3, 12} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d restart %v", partitions, restart), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					dir := t.TempDir()
					b := startBroker(t)
					l := startLog(t, b, withSpool(dir))
					l.append(t, "agent-0", "first")
					l.settled(t)
					b.goAway()
					w := fill(t, l, 3)
					time.Sleep(5 * time.Second)
					if s := l.Ledger(); s.Spooled != w.count() {
						t.Fatalf("ledger = %+v, want %d spooled", s, w.count())
					}
					if err := b.DeleteTopic(topic); err != nil {
						t.Fatal(err)
					}
					if err := b.CreateTopic(topic, partitions, nil); err != nil {
						t.Fatal(err)
					}
					if restart {
						l.stop()
						l = startLog(t, b, withSpool(dir))
					}
					b.comeBack()
					s := l.delivered(t)
					records := b.read(t)
					seen := map[string]bool{}
					for _, r := range records {
						seen[string(r.Key)+string(r.Value)] = true
						was, is := saramaPartition(string(r.Key), 8), saramaPartition(string(r.Key), int(partitions))
						if r.Partition != is && r.Partition != was {
							t.Errorf("key %s is in partition %d, was of %d, is of %d", r.Key, r.Partition, was, is)
						}
					}
					if uint64(len(seen)) != w.count() || uint64(len(records)) > w.count()+s.PossibleDuplicates {
						t.Errorf("%d records, %d different, want %d; ledger %+v", len(records), len(seen), w.count(), s)
					}
					spoolIsEmpty(t, dir)
				})
			})
		}
	}
}

// TestSpoolOfAnotherTopicIsKept says what to do with it.
func TestSpoolOfAnotherTopicIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		b := startBroker(t, kfake.SeedTopics(2, "other"))
		l := startLog(t, b, withSpool(dir))
		l.append(t, "agent-0", "first")
		l.settled(t)
		b.goAway()
		w := fill(t, l, 3)
		l.stop()
		b.comeBack()
		l = startLog(t, b, func(o *recordlog.Options) { o.SpoolDir, o.Topic = dir, "other" })
		time.Sleep(time.Minute)
		if s := l.Ledger(); s.Received != 0 || strings.Count(l.logs.String(), "another topic") != 1 {
			t.Errorf("ledger = %+v, want nothing and a line about it:\n%s", s, l.logs)
		}
		l.stop()
		l = startLog(t, b, withSpool(dir))
		if s := l.delivered(t); s.Delivered != w.count() {
			t.Errorf("ledger = %+v, want %d delivered", s, w.count())
		}
	})
}

// TestSlowKafkaIsNotAway: answers come late, and no record goes to the disk.
func TestSlowKafkaIsNotAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		b.slow(1500 * time.Millisecond)
		l := startLog(t, b, func(o *recordlog.Options) {
			o.SpoolDir, o.MaxPendingBytes, o.MaxRecordBytes = t.TempDir(), 128<<10, 16<<10
		})
		a := startAgents(t, l, 20, 10*time.Millisecond, 1000)
		for range 60 {
			time.Sleep(time.Second)
			synctest.Wait()
			if s := l.Ledger(); s.Spooled != 0 || s.PendingBytes > 128<<10 {
				t.Fatalf("ledger = %+v, want nothing spooled", s)
			}
		}
		a.end()
		l.settled(t)
		a.check(t, b.read(t), 8)
	})
}

// slow delays every answer to a batch; all partitions at the same time.
func (b *broker) slow(by time.Duration) {
	b.delay.Store(int64(by))
}

// TestHeavyAgentWaitsAlone: one agent sends a hundred times as much as each of 99
// others, more than a slow broker takes. The others notice little.
func TestHeavyAgentWaitsAlone(t *testing.T) {
	p99 := func(heavy bool) (worst time.Duration, records uint64) {
		synctest.Test(t, func(t *testing.T) {
			b := startBroker(t)
			ages := b.watchAges()
			b.slow(200 * time.Millisecond)
			l := startLog(t, b, withSpool(t.TempDir()))
			var wg sync.WaitGroup
			stop := make(chan struct{})
			if heavy {
				wg.Go(func() {
					record := []byte(strings.Repeat("h", 6000))
					message := make([][]byte, 10)
					for i := range message {
						message[i] = record
					}
					for {
						select {
						case <-stop:
							return
						case <-time.After(time.Second / 50): // 3 MB a second; a partition takes 2.6
						}
						_ = l.Append(t.Context(), "heavy", message, []byte("|suffix"))
					}
				})
			}
			for i := range 99 {
				wg.Go(func() {
					time.Sleep(time.Duration(i) * 7 * time.Millisecond)
					for j := 0; ; j++ {
						select {
						case <-stop:
							return
						case <-time.After(20 * time.Millisecond): // 30 KB a second
						}
						value := fmt.Sprint(time.Now().UnixMilli(), strings.Repeat(" ", 560))
						if l.Append(t.Context(), fmt.Sprint("light-", i), [][]byte{[]byte(value)}, []byte("|suffix")) != nil {
							return
						}
					}
				})
			}
			time.Sleep(6 * time.Second)
			close(stop)
			wg.Wait()
			l.delivered(t)
			slices.Sort(*ages)
			worst, records = (*ages)[len(*ages)*99/100], uint64(len(*ages))
		})
		return worst, records
	}
	quiet, n := p99(false)
	loaded, m := p99(true)
	t.Logf("p99 of %d records quiet: %v; of %d beside a heavy agent: %v", n, quiet, m, loaded)
	if loaded > 2*quiet {
		t.Errorf("p99 beside a heavy agent %v, quiet %v: want at most twice that", loaded, quiet)
	}
}

var writtenAt = regexp.MustCompile(`(\d{12}) {500}`)

// watchAges notes how old records are that begin with their time when they reach
// the broker.
func (b *broker) watchAges() *[]time.Duration {
	var ages []time.Duration
	b.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		for _, rt := range req.(*kmsg.ProduceRequest).Topics {
			for _, rp := range rt.Partitions {
				for _, m := range writtenAt.FindAllSubmatch(rp.Records, -1) {
					var ms int64
					_, _ = fmt.Sscan(string(m[1]), &ms)
					ages = append(ages, time.Since(time.UnixMilli(ms)))
				}
			}
		}
		return nil, nil, false
	})
	return &ages
}
