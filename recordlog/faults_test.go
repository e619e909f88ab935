// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"muster/recordlog"
)

func TestKafkaAwayAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		b.goAway()
		l := startLog(t, b, nil)
		w := fill(t, l, 2)
		lines := func() int { return strings.Count(l.logs.String(), "kafka is away") }
		time.Sleep(4 * time.Second) // both may have been started together
		if n := lines(); n != 0 {
			t.Errorf("%d log lines about it at once", n)
		}
		time.Sleep(4 * time.Second)
		if n := lines(); n != 1 {
			t.Errorf("%d log lines about it in 8 s, want 1", n)
		}
		time.Sleep(52 * time.Second)
		synctest.Wait()
		ledger, status := l.Ledger(), l.Status()
		if ledger.Pending != w.count() || !ledger.Balanced() {
			t.Errorf("ledger while away = %+v, want %d pending", ledger, w.count())
		}
		if status.Up || time.Since(status.AwaySince) < time.Minute || !strings.Contains(status.LastError, "refused") {
			t.Errorf("Status while away = %+v, want away for a minute, refused", status)
		}
		if n := lines(); n != 1 {
			t.Errorf("%d log lines about it in a minute, want 1", n)
		}
		b.comeBack()
		l.settled(t)
		w.check(t, b.read(t), 8)
		if s := l.Status(); !s.Up {
			t.Errorf("Status afterwards = %+v, want up", s)
		}
	})
}

// TestKafkaAwayInTheMiddle refuses, or silences, the broker while many agents
// append more than fits into memory.
func TestKafkaAwayInTheMiddle(t *testing.T) {
	for name, fault := range map[string]struct{ begin, end func(*broker) }{
		"refused": {(*broker).goAway, (*broker).comeBack},
		"silent":  {func(b *broker) { b.network.Cut(kafkaIP) }, func(b *broker) { b.network.Heal() }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const room = 256 << 10
				b := startBroker(t)
				l := startLog(t, b, func(o *recordlog.Options) {
					o.MaxPendingBytes, o.MaxRecordBytes = room, 64<<10
				})
				fill(t, l, 3) // a connection to each partition is up
				l.settled(t)
				before := l.Ledger().Delivered

				fault.begin(b)
				w := wants{}
				var agents sync.WaitGroup
				for i := range 20 {
					key := fmt.Sprintf("late-%d", i)
					for j := range 60 {
						w.add(key, fmt.Sprintf("%d %s", j, strings.Repeat("y", 500)))
					}
					values := w[key]
					agents.Go(func() {
						for _, v := range values {
							l.append(t, key, v)
						}
					})
				}
				for range 90 {
					time.Sleep(time.Second)
					synctest.Wait()
					if ledger := l.Ledger(); ledger.PendingBytes > room || !ledger.Balanced() {
						t.Fatalf("ledger while away = %+v, want <= %d bytes pending", ledger, room)
					}
				}
				if ledger := l.Ledger(); ledger.Received-before >= w.count() || l.Status().Up {
					t.Fatalf("%+v, %+v: want Append to wait and Kafka to be away", ledger, l.Status())
				}
				fault.end(b)
				agents.Wait()
				ledger := l.settled(t)
				if got := ledger.Delivered - before; got != w.count() || ledger.PossibleDuplicates != 0 {
					t.Errorf("ledger = %+v, want %d delivered, no duplicates", ledger, w.count())
				}
				w.check(t, ofKeys(b.read(t), "late-"), 8)
			})
		})
	}
}

func TestLostAnswerMakesNoDuplicate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		l := startLog(t, b, nil)
		w := wants{}
		for i := range 50 {
			if i%5 == 0 {
				b.lose.Store(3) // the same batch may lose three answers
			}
			key, value := fmt.Sprintf("agent-%d", i%3), fmt.Sprint("record ", i)
			w.add(key, value)
			l.append(t, key, value)
			l.settled(t)
		}
		w.check(t, b.read(t), 8)
		if l.Ledger().PossibleDuplicates != 0 {
			t.Errorf("ledger = %+v, want no duplicates", l.Ledger())
		}
		if n := metric(t, l, "muster_recordlog_retries_total", "no_answer"); n < 10 {
			t.Errorf("%v retries without an answer, want at least 10: no answer was lost", n)
		}
	})
}

// refuseBatches answers the next n batches with an error instead of writing them.
func (b *broker) refuseBatches(n int, code *kerr.Error) {
	b.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		if n--; n == 0 {
			b.DropControl()
		}
		r := req.(*kmsg.ProduceRequest)
		res := r.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range r.Topics {
			st := kmsg.NewProduceResponseTopic()
			st.Topic = rt.Topic
			for _, rp := range rt.Partitions {
				sp := kmsg.NewProduceResponseTopicPartition()
				sp.Partition, sp.ErrorCode = rp.Partition, code.Code
				st.Partitions = append(st.Partitions, sp)
			}
			res.Topics = append(res.Topics, st)
		}
		return res, nil, true
	})
}

func TestRefusedBatchesAreRecovered(t *testing.T) {
	for _, c := range []struct {
		code   *kerr.Error
		reason string
	}{
		{kerr.OutOfOrderSequenceNumber, "producer"},
		{kerr.UnknownProducerID, "producer"},
		{kerr.InvalidProducerEpoch, "producer"},
		{kerr.NotLeaderForPartition, "leader"},
		{kerr.NotEnoughReplicas, "replicas"},
		{kerr.RequestTimedOut, "replicas"},
		{kerr.UnknownServerError, "broker_error"},
		{kerr.KafkaStorageError, "broker_error"},
		{kerr.TopicAuthorizationFailed, "forbidden"},
	} {
		t.Run(c.code.Message, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := startBroker(t)
				l := startLog(t, b, nil)
				w := wants{}
				for i := range 9 {
					if i%3 == 1 {
						b.refuseBatches(2, c.code)
					}
					w.add("agent-1", fmt.Sprint(i))
					l.append(t, "agent-1", fmt.Sprint(i))
					l.settled(t)
				}
				w.check(t, b.read(t), 8)
				if n := metric(t, l, "muster_recordlog_retries_total", c.reason); n != 6 {
					t.Errorf("%v retries with reason %s, want 6", n, c.reason)
				}
			})
		})
	}
}

// TestNewProducerAfterLostAnswerIsCounted: written, answer lost, then the broker
// forgets the producer: sent again under another, counted as possibly doubled.
func TestNewProducerAfterLostAnswerIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		l := startLog(t, b, nil)
		l.append(t, "agent-1", "one")
		l.settled(t)
		b.lose.Store(1)
		l.append(t, "agent-1", "two", "three")
		time.Sleep(51 * time.Millisecond) // sent, answer lost
		synctest.Wait()
		b.refuseBatches(1, kerr.UnknownProducerID)
		if ledger := l.settled(t); ledger.PossibleDuplicates != 2 || ledger.Delivered != 3 {
			t.Errorf("ledger = %+v, want 3 delivered, 2 possible duplicates", ledger)
		}
		if n := len(b.read(t)); n != 5 {
			t.Errorf("%d records in kafka, want 5: two of them doubled", n)
		}
	})
}

// TestBatchTooLargeIsSplit: the user may not see the topic's settings.
func TestBatchTooLargeIsSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := "10000"
		b := startBroker(t)
		b.hideConfigs()
		b.setTopic(t, "max.message.bytes", limit)
		l := startLog(t, b, nil)
		w := wants{}
		var values []string
		for i := range 40 {
			values = append(values, fmt.Sprint(i, strings.Repeat("z", 3000)))
		}
		w.add("agent-1", values...)
		huge := strings.Repeat("h", 20_000)
		l.append(t, "agent-1", append(values[:20:20], append([]string{huge}, values[20:]...)...)...)
		l.append(t, "agent-1", huge)
		ledger := l.settled(t)
		if ledger.Delivered != 40 || ledger.Refused != 2 || ledger.PossibleDuplicates != 0 {
			t.Errorf("ledger = %+v, want 40 delivered, 2 refused", ledger)
		}
		w.check(t, b.read(t), 8)
		if n := strings.Count(l.logs.String(), "record refused"); n != 1 {
			t.Errorf("%d log lines about refused records of one agent, want 1", n)
		}
	})
}

func TestRecordOverMaxIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		l := startLog(t, b, func(o *recordlog.Options) { o.MaxRecordBytes = 2000 })
		huge := strings.Repeat("h", 2000)
		for range 3 {
			l.append(t, "agent-1", huge)
			l.append(t, "agent-2", "small", huge, "small too")
		}
		ledger := l.settled(t)
		if ledger.Received != 12 || ledger.Refused != 6 || ledger.Delivered != 6 {
			t.Errorf("ledger = %+v, want 12 received, 6 refused, 6 delivered", ledger)
		}
		if n := strings.Count(l.logs.String(), "record refused"); n != 2 {
			t.Errorf("%d log lines, want one for each agent", n)
		}
		time.Sleep(time.Hour)
		l.append(t, "agent-1", huge)
		if n := strings.Count(l.logs.String(), "record refused"); n != 3 {
			t.Errorf("%d log lines after an hour, want 3", n)
		}
		wants{"agent-2": {"small", "small too", "small", "small too", "small", "small too"}}.check(t, b.read(t), 8)
	})
}

// hideConfigs answers that the topic's settings are not for this user.
func (b *broker) hideConfigs() {
	b.ControlKey(int16(kmsg.DescribeConfigs), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		res := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
		for _, r := range req.(*kmsg.DescribeConfigsRequest).Resources {
			sr := kmsg.NewDescribeConfigsResponseResource()
			sr.ResourceType, sr.ResourceName, sr.ErrorCode = r.ResourceType, r.ResourceName, kerr.TopicAuthorizationFailed.Code
			res.Resources = append(res.Resources, sr)
		}
		return res, nil, true
	})
}

// TestTopicsLimitIsKept: no batch is larger than the topic takes, a record that
// is too large is refused at once, and a limit that changes is noticed.
func TestTopicsLimitIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		b.setTopic(t, "max.message.bytes", "10000")
		l := startLog(t, b, nil)
		time.Sleep(time.Second)
		w := wants{}
		var values []string
		for i := range 40 {
			values = append(values, fmt.Sprint(i, strings.Repeat("z", 3000)))
		}
		w.add("agent-1", values...)
		l.append(t, "agent-1", append(values[:20:20], append([]string{strings.Repeat("h", 9_950)}, values[20:]...)...)...)
		if s := l.settled(t); s.Delivered != 40 || s.Refused != 1 {
			t.Errorf("ledger = %+v, want 40 delivered, 1 refused", s)
		}
		if n := metric(t, l, "muster_recordlog_retries_total", "too_large"); n != 0 {
			t.Errorf("%v batches were too large, want none", n)
		}
		value := "3000000"
		for _, r := range mustAlter(t, b, value) {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		time.Sleep(31 * time.Second)
		large := strings.Repeat("l", 2_500_000)
		w.add("agent-2", large)
		l.append(t, "agent-2", large)
		if s := l.settled(t); s.Delivered != 41 {
			t.Errorf("ledger = %+v, want the large record delivered", s)
		}
		w.check(t, b.read(t), 8)
	})
}

func mustAlter(t *testing.T, b *broker, value string) kadm.AlterConfigsResponses {
	t.Helper()
	rs, err := b.admin(t).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "max.message.bytes", Value: &value}}, topic)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}
