// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"muster/recordlog"
)

// admin returns a client for the test's own changes to the topic.
func (b *broker) admin(t *testing.T, opts ...kgo.Opt) *kadm.Client {
	t.Helper()
	c, err := kadm.NewOptClient(append([]kgo.Opt{
		kgo.SeedBrokers(b.ListenAddrs()...), kgo.Dialer(b.network.Host(readerIP).DialContext),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (b *broker) setTopic(t *testing.T, key, value string) {
	t.Helper()
	if err := b.DeleteTopic(topic); err != nil {
		t.Fatal(err)
	}
	if err := b.CreateTopic(topic, 8, map[string]string{key: value}); err != nil {
		t.Fatal(err)
	}
}

func TestNewPartitionsAreNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		l := startLog(t, b, nil)
		w := wants{}
		round := func(prefix string) {
			for i := range 60 {
				key := fmt.Sprint(prefix, i%20)
				w.add(key, fmt.Sprint(i))
				l.append(t, key, fmt.Sprint(i))
			}
			l.settled(t)
		}
		round("before-")
		w.check(t, b.read(t), 8)
		if _, err := b.admin(t).UpdatePartitions(t.Context(), 12, topic); err != nil {
			t.Fatal(err)
		}
		time.Sleep(31 * time.Second)
		clear(w)
		round("after-")
		w.check(t, ofKeys(b.read(t), "after-"), 12)
		if p := l.Status().Partitions; p != 12 {
			t.Errorf("Status says %d partitions, want 12", p)
		}
	})
}

// TestTopicDeleted: the Log makes the topic anew, with fewer partitions; what
// was meant for partitions that are gone goes where its key belongs now.
func TestTopicDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		l := startLog(t, b, func(o *recordlog.Options) { o.Partitions = 3 })
		fill(t, l, 7)
		l.settled(t)
		if err := b.DeleteTopic(topic); err != nil {
			t.Fatal(err)
		}
		during := fill(t, l, 8)
		if ledger := l.settled(t); ledger.PossibleDuplicates != 0 {
			t.Errorf("ledger = %+v, want no duplicates", ledger)
		}
		records := b.read(t)
		if uint64(len(records)) != during.count() || len(b.PartitionInfos(topic)) != 3 {
			t.Errorf("%d records in %d partitions, want %d in 3", len(records), len(b.PartitionInfos(topic)), during.count())
		}
		seen := map[string]bool{}
		for _, r := range records {
			seen[string(r.Key)+string(r.Value)] = true
		}
		if len(seen) != len(records) {
			t.Errorf("%d different records of %d", len(seen), len(records))
		}
		after := wants{}
		for i := range 20 {
			key := fmt.Sprint("new-", i)
			after.add(key, "after")
			l.append(t, key, "after")
		}
		l.settled(t)
		after.check(t, ofKeys(b.read(t), "new-"), 3)
	})
}

func TestLeaderMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t, kfake.NumBrokers(3))
		l := startLog(t, b, nil)
		w := wants{}
		for i := range 40 {
			key, value := fmt.Sprintf("agent-%d", i%10), fmt.Sprint(i)
			if i%7 == 3 {
				b.ShufflePartitionLeaders()
			}
			w.add(key, value)
			l.append(t, key, value)
			time.Sleep(10 * time.Millisecond)
		}
		if ledger := l.settled(t); ledger.PossibleDuplicates != 0 {
			t.Errorf("ledger = %+v, want no duplicates", ledger)
		}
		w.check(t, b.read(t), 8)
		if n := metric(t, l, "muster_recordlog_retries_total", "leader"); n == 0 {
			t.Error("no retry for a moved leader: the test moved none")
		}
	})
}

func TestMissingTopicIsCreated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		if err := b.DeleteTopic(topic); err != nil {
			t.Fatal(err)
		}
		l := startLog(t, b, func(o *recordlog.Options) { o.Partitions = 5 })
		w := fill(t, l, 9)
		l.settled(t)
		w.check(t, b.read(t), 5)
	})
}
