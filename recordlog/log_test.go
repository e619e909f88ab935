// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"muster/recordlog"
)

// fill appends records of several keys in messages of several sizes and
// returns what must be in Kafka.
func fill(t *testing.T, l *running, seed uint64) wants {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	w := wants{}
	for i := range 300 {
		key := fmt.Sprintf("agent-%d", rnd.IntN(40))
		var values []string
		for j := range rnd.IntN(20) {
			values = append(values, fmt.Sprintf("%d.%d %s", i, j, strings.Repeat("x", rnd.IntN(800))))
		}
		w.add(key, values...)
		l.append(t, key, values...)
	}
	for key, values := range w {
		if len(values) == 0 {
			delete(w, key)
		}
	}
	return w
}

func (w wants) count() (n uint64) {
	for _, values := range w {
		n += uint64(len(values))
	}
	return n
}

func TestDeliversEachRecordOnce(t *testing.T) {
	for _, codec := range []recordlog.Compression{"none", "snappy", "lz4", "zstd"} {
		t.Run(string(codec), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := startBroker(t)
				l := startLog(t, b, func(o *recordlog.Options) { o.Compression = codec })
				w := fill(t, l, 1)
				ledger := l.settled(t)
				if ledger.Delivered != w.count() || ledger.Received != w.count() {
					t.Errorf("ledger = %+v, want %d delivered", ledger, w.count())
				}
				w.check(t, b.read(t), 8)
				s := l.Status()
				if !s.Up || s.Partitions != 8 || s.LastError != "" || !s.AwaySince.IsZero() {
					t.Errorf("Status = %+v, want up with 8 partitions", s)
				}
			})
		})
	}
}

func TestQuietRecordsAreSentTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startLog(t, startBroker(t), nil)
		const every = 50 * time.Millisecond
		time.Sleep(time.Second)
		time.Sleep(every - time.Duration(time.Now().UnixNano()%int64(every)) + every/4)
		for i := range 20 { // of several partitions, at several times
			l.append(t, fmt.Sprint("agent-", i), "one")
			time.Sleep(every / 4 / 20)
		}
		synctest.Wait()
		if d := l.Ledger().Delivered; d != 0 {
			t.Fatalf("delivered %d before their time, want 0", d)
		}
		time.Sleep(every / 2)
		synctest.Wait()
		if d := l.Ledger().Delivered; d != 20 {
			t.Fatalf("delivered %d at their time, want 20", d)
		}
	})
}

func TestOneBrokerIsOne(t *testing.T) {
	_, err := recordlog.New(recordlog.Options{
		Brokers: []string{"a:9092", "b:9092"}, OneBroker: true,
		Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	if err == nil || !strings.Contains(err.Error(), "Brokers") {
		t.Errorf("two are one: %v", err)
	}
}
