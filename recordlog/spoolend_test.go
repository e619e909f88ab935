// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"muster/recordlog"
)

// slowDisk takes long for each sync.
type slowDisk struct{ faultyDisk }

func (d *slowDisk) Sync(*os.File) error {
	time.Sleep(400 * time.Millisecond)
	return nil
}

// TestStopWhileTheSpoolEnds: the Log stops while the last of the disk is sent and
// new records wait in memory for that.
func TestStopWhileTheSpoolEnds(t *testing.T) {
	for at := range 30 {
		synctest.Test(t, func(t *testing.T) {
			b := startBroker(t)
			dir := t.TempDir()
			l := startLog(t, b, func(o *recordlog.Options) {
				o.SpoolDir = dir
				recordlog.SetDisk(o, &slowDisk{})
			})
			a := startAgents(t, l, 1, 20*time.Millisecond, 100)
			time.Sleep(time.Second)
			b.goAway()
			time.Sleep(4 * time.Second)
			b.slow(300 * time.Millisecond)
			b.comeBack()
			time.Sleep(2*time.Second + time.Duration(at)*50*time.Millisecond)
			l.stop()
			a.end()
			s := l.Ledger()
			if s.Dropped[recordlog.DropShutdown] != 0 || s.Pending != 0 || !s.Balanced() {
				t.Errorf("stopped at %d: ledger = %+v, want nothing dropped", at, s)
			}
		})
	}
}

// TestTopicShrinksWhileTheSpoolIsRead: of what was read ahead from the disk a part is
// delivered when the partition goes away.
func TestTopicShrinksWhileTheSpoolIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		l := startLog(t, b, withSpool(t.TempDir()))
		l.append(t, "agent-0", "first")
		l.settled(t)
		key := ""
		for i := 0; key == "" || saramaPartition(key, 8) < 3; i++ {
			key = fmt.Sprint("agent-", i)
		}
		b.goAway()
		sent := uint64(1)
		for range 400 {
			l.append(t, key, fmt.Sprintf("%04000d", sent))
			sent++
			time.Sleep(100 * time.Millisecond)
		}
		b.slow(time.Second)
		b.comeBack()
		for l.Ledger().Delivered < 50 {
			time.Sleep(100 * time.Millisecond)
		}
		b.goAway()
		if err := b.DeleteTopic(topic); err != nil {
			t.Fatal(err)
		}
		if err := b.CreateTopic(topic, 3, nil); err != nil {
			t.Fatal(err)
		}
		b.comeBack()
		if s := l.delivered(t); s.Received != sent || s.Delivered != sent {
			t.Errorf("ledger = %+v, want %d delivered", s, sent)
		}
	})
}

// TestStopWhileOrphansMove: neither Kafka nor the disk takes what was spooled for a
// partition that is gone. It is on disk still, so nothing is lost at the end.
func TestStopWhileOrphansMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, disk := t.TempDir(), &faultyDisk{}
		b := startBroker(t)
		l := startLog(t, b, withSpool(dir))
		l.append(t, "agent-0", "first")
		l.settled(t)
		b.goAway()
		w := fill(t, l, 3)
		l.stop()
		if err := b.DeleteTopic(topic); err != nil {
			t.Fatal(err)
		}
		if err := b.CreateTopic(topic, 3, nil); err != nil {
			t.Fatal(err)
		}
		b.refusePartitions(0, 1, 2)
		b.comeBack()
		l = startLog(t, b, func(o *recordlog.Options) {
			o.SpoolDir = dir
			recordlog.SetDisk(o, disk)
		})
		disk.full.Store(true)
		time.Sleep(10 * time.Second)
		if s := l.Ledger(); s.Pending == 0 || s.Spooled == 0 {
			t.Fatalf("ledger = %+v, want an entry of each lost partition in memory", s)
		}
		l.stop()
		if s := l.Ledger(); s.Spooled != w.count() || s.Dropped[recordlog.DropShutdown] != 0 || !s.Balanced() {
			t.Errorf("ledger at the end = %+v, want %d spooled and none dropped", s, w.count())
		}
		b.refusePartitions()
		l = startLog(t, b, withSpool(dir))
		if s := l.delivered(t); s.Recovered != w.count() || s.Delivered != w.count() {
			t.Errorf("ledger of the next run = %+v, want %d delivered", s, w.count())
		}
	})
}
