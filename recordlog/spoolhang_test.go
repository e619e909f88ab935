// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster/recordlog"
)

// hangingDisk does not answer between hang and mend.
type hangingDisk struct {
	mu   sync.Mutex
	hung chan struct{} // nil while it answers
}

func (d *hangingDisk) hang() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hung = make(chan struct{})
}

func (d *hangingDisk) mend() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.hung)
	d.hung = nil
}

func (d *hangingDisk) wait() {
	d.mu.Lock()
	hung := d.hung
	d.mu.Unlock()
	if hung != nil {
		<-hung
	}
}

func (d *hangingDisk) WriteAt(f *os.File, p []byte, off int64) (int, error) {
	d.wait()
	return f.WriteAt(p, off)
}

func (d *hangingDisk) Sync(*os.File) error {
	d.wait()
	return nil
}

// onHangingDisk is a Log that has delivered a record, and agents that send.
func onHangingDisk(t *testing.T) (*broker, *hangingDisk, *running, *agents) {
	t.Helper()
	b, disk := startBroker(t), &hangingDisk{}
	dir := t.TempDir()
	l := startLog(t, b, func(o *recordlog.Options) {
		o.SpoolDir, o.MaxPendingBytes, o.MaxRecordBytes = dir, 1<<20, 64<<10
		recordlog.SetDisk(o, disk)
	})
	a := startAgents(t, l, 20, 50*time.Millisecond, 200)
	time.Sleep(2 * time.Second)
	return b, disk, l, a
}

// saysHang checks that the log, the status and a metric say that the disk hangs.
func (r *running) saysHang(t *testing.T) {
	t.Helper()
	if s := r.Status(); !strings.Contains(s.SpoolError, "does not answer") || !strings.Contains(s.SpoolError, topic) {
		t.Errorf("Status = %+v, want the file that hangs", s)
	}
	if n := strings.Count(r.logs.String(), "does not answer: records that are on it wait"); n != 1 {
		t.Errorf("%d lines about the disk, want 1:\n%s", n, r.logs)
	}
	if hang := metric(t, r, "muster_recordlog_spool_hang_seconds"); hang < 5 {
		t.Errorf("the metric says %v s, want 5 at least", hang)
	}
}

// TestDiskHangsWhileKafkaComesBack: the first write of a spool never ends, and Kafka is
// there again. Records go to Kafka, in order, without the disk.
func TestDiskHangsWhileKafkaComesBack(t *testing.T) {
	for name, away := range map[string]time.Duration{"at once": 3 * time.Second, "late": 20 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, disk, l, a := onHangingDisk(t)
				disk.hang()
				b.goAway()
				time.Sleep(away)
				b.comeBack()
				time.Sleep(10 * time.Second)
				synctest.Wait()
				s := l.Ledger()
				if s.Pending > 100 || s.Spooled != 0 || !s.Balanced() {
					t.Errorf("ledger = %+v, want next to nothing in memory: kafka is there", s)
				}
				l.saysHang(t)
				b.goAway() // once more, while the disk hangs still
				time.Sleep(4 * time.Second)
				if s := l.Ledger(); s.Spooled != 0 || s.Pending < 20*20*3 {
					t.Errorf("ledger = %+v, want all in memory", s)
				}
				disk.mend()
				time.Sleep(2 * time.Second)
				if s := l.Ledger(); s.Spooled == 0 || !s.Balanced() {
					t.Errorf("ledger = %+v, want all on disk", s)
				}
				if s := l.Status(); s.SpoolError != "" || !strings.Contains(l.logs.String(), "answers again") {
					t.Errorf("Status = %+v, want no word of the disk:\n%s", s, l.logs)
				}
				b.comeBack()
				time.Sleep(5 * time.Second)
				allArrive(t, b, l, a)
			})
		})
	}
}

// allArrive ends the agents: all that they sent is in Kafka, once and in order, and
// nothing on disk.
func allArrive(t *testing.T, b *broker, l *running, a *agents) {
	t.Helper()
	a.end()
	if s := l.delivered(t); s.Delivered != a.count() || s.PossibleDuplicates != 0 {
		t.Errorf("ledger = %+v, want %d delivered", s, a.count())
	}
	a.check(t, b.read(t), 8)
	spoolIsEmpty(t, l.dir)
}

// TestDiskHangsInTheMiddle: records of every partition are on a disk that hangs. They wait,
// and those behind them, and the log says why; nothing is lost, doubled or out of order.
func TestDiskHangsInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, disk, l, a := onHangingDisk(t)
		b.goAway()
		time.Sleep(5 * time.Second)
		disk.hang()
		time.Sleep(10 * time.Second)
		l.saysHang(t)
		spooled := l.Ledger().Spooled
		b.comeBack()
		time.Sleep(10 * time.Second)
		if s, status := l.Ledger(), l.Status(); s.Spooled == 0 || s.Spooled > spooled || !status.DiskHangs {
			t.Errorf("ledger = %+v, %+v, want some of %d on disk", s, status, spooled)
		}
		disk.mend()
		time.Sleep(5 * time.Second)
		allArrive(t, b, l, a)
	})
}

// TestStopWhileTheDiskHangs ends, in time and with a word: with Kafka nothing is lost, and
// without it what is dropped is counted.
func TestStopWhileTheDiskHangs(t *testing.T) {
	for _, away := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b, disk, l, a := onHangingDisk(t)
			disk.hang()
			b.goAway()
			time.Sleep(3 * time.Second)
			if !away {
				b.comeBack()
			}
			began := time.Now()
			l.stop()
			if d := time.Since(began); d > 30*time.Second {
				t.Errorf("stopping took %v", d)
			}
			a.end()
			s := l.Ledger()
			if !s.Balanced() || s.Pending != 0 || s.Spooled != 0 || away != (s.Dropped[recordlog.DropShutdown] > 0) {
				t.Errorf("kafka away %v: ledger = %+v", away, s)
			}
			if !strings.Contains(l.logs.String(), "stopping without it") {
				t.Errorf("nothing says that the disk hangs:\n%s", l.logs)
			}
			disk.mend()
			synctest.Wait()
		})
	}
}
