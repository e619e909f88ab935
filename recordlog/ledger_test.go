// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"muster/recordlog"
)

// TestLedgerBalancesAtEveryMoment has many agents append through every fault,
// while others look at the ledger and at scrapes.
func TestLedgerBalancesAtEveryMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		l := startLog(t, b, func(o *recordlog.Options) {
			o.MaxPendingBytes, o.MaxRecordBytes, o.FlushTimeout = 128<<10, 8<<10, time.Second
		})
		ctx, end := context.WithCancel(t.Context())
		var looking, agents sync.WaitGroup
		for range 4 {
			looking.Go(func() {
				for ctx.Err() == nil {
					for range 20 {
						if s := l.Ledger(); !s.Balanced() || s.PendingBytes > 128<<10 || s.PendingBytes < 0 {
							t.Errorf("ledger = %+v", s)
						}
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		looking.Go(func() {
			for ctx.Err() == nil {
				checkScrape(t, l)
				time.Sleep(50 * time.Millisecond)
			}
		})
		for i := range 30 {
			agents.Go(func() {
				record := []byte(strings.Repeat("r", 700))
				for j := range 150 {
					wait, cancel := context.WithTimeout(ctx, 40*time.Millisecond)
					message := [][]byte{record, record[:j], make([]byte, 10<<10), record[j:]} // one is refused
					_ = l.Append(wait, fmt.Sprint("agent-", i), message, []byte("s"))         // some give up
					cancel()
					time.Sleep(time.Duration(i) * time.Millisecond)
				}
			})
		}
		for i := range 12 {
			time.Sleep(200 * time.Millisecond)
			switch i % 4 {
			case 0:
				b.goAway()
			case 1:
				b.comeBack()
			case 2:
				b.lose.Store(5)
			case 3:
				b.refuseBatches(3, kerr.OutOfOrderSequenceNumber)
			}
		}
		agents.Wait()
		l.stop()
		if err := l.Append(ctx, "late", [][]byte{{1}}, nil); err == nil {
			t.Error("Append after the end = nil")
		}
		end()
		looking.Wait()
		s := l.Ledger()
		if s.Received != 30*150*4+1 || s.Pending != 0 || !s.Balanced() {
			t.Errorf("ledger at the end = %+v, want %d received, none pending", s, 30*150*4+1)
		}
		for why, n := range map[string]uint64{
			"delivered": s.Delivered, "refused": s.Refused, "canceled": s.Dropped[recordlog.DropCanceled],
			"stopped": s.Dropped[recordlog.DropStopped],
		} {
			if n == 0 {
				t.Errorf("no record was %s: the test does not reach it", why)
			}
		}
		inKafka := uint64(len(b.read(t)))
		if inKafka < s.Delivered || inKafka > s.Delivered+s.PossibleDuplicates {
			t.Errorf("%d records in kafka, ledger = %+v", inKafka, s)
		}
	})
}

// checkScrape adds up the ledger of one scrape.
func checkScrape(t *testing.T, l *running) {
	t.Helper()
	families, err := l.reg.Gather()
	if err != nil {
		t.Error(err)
		return
	}
	sums := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			sums[strings.TrimPrefix(f.GetName(), "muster_recordlog_")] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	received := sums["received_records_total"]
	sum := sums["delivered_records_total"] + sums["pending_records"] + sums["spooled_records"] +
		sums["refused_records_total"] + sums["dropped_records_total"]
	if received != sum {
		t.Errorf("a scrape does not balance: received %v, the others %v: %v", received, sum, sums)
	}
}

func TestMetricsHaveFixedLabels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t)
		l := startLog(t, b, nil)
		fill(t, l, 12)
		l.settled(t)
		families, err := l.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		series := 0
		for _, f := range families {
			if !strings.HasPrefix(f.GetName(), "muster_recordlog_") {
				t.Errorf("metric %s lacks the package's prefix", f.GetName())
			}
			for _, m := range f.GetMetric() {
				series++
				for _, p := range m.GetLabel() {
					if p.GetName() != "reason" {
						t.Errorf("metric %s has label %s=%s", f.GetName(), p.GetName(), p.GetValue())
					}
				}
			}
		}
		if series != 36 {
			t.Errorf("%d series, want 36: does one grow with agents?", series)
		}
		if up := metric(t, l, "muster_recordlog_kafka_up"); up != 1 {
			t.Errorf("kafka_up = %v, want 1", up)
		}
		b.goAway()
		l.append(t, "agent-1", "x")
		time.Sleep(time.Second)
		if up := metric(t, l, "muster_recordlog_kafka_up"); up != 0 {
			t.Errorf("kafka_up while away = %v, want 0", up)
		}
		b.comeBack()
		l.settled(t)
	})
}
