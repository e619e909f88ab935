// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
)

// benchMessage is a message of 100 records of 600 bytes, of which a part repeats.
func benchMessage() (records [][]byte, suffix []byte) {
	for i := range 100 {
		r := bytes.Repeat([]byte(fmt.Sprintf("pid=%d\x1fexe=/usr/bin/prog%d\x1f", 1000+i*7, i)), 40)
		records = append(records, r[:480])
	}
	return records, bytes.Repeat([]byte("h"), 120)
}

// BenchmarkAppend is the way of a record from Append to the wire, encoded,
// compressed, stamped and summed up, without network and broker. One operation
// is a message of 100 records of 600 bytes.
func BenchmarkAppend(b *testing.B) {
	for _, codec := range []Compression{CompressionNone, CompressionSnappy, CompressionLZ4, CompressionZstd} {
		b.Run(string(codec), func(b *testing.B) {
			l := benchLog(b, Options{Brokers: []string{"127.0.0.1:1"}, Compression: codec})
			for i := range 8 {
				l.parts = append(l.parts, newPartition(l, i))
			}
			records, suffix := benchMessage()
			key := "80ab2f3b-0000-0000-0000-000000000000"
			p := l.route(hashOf(key))
			b.SetBytes(100 * 600)
			b.ReportAllocs()
			for b.Loop() {
				if err := l.Append(b.Context(), key, records, suffix); err != nil {
					b.Fatal(err)
				}
				for batch, _ := p.next(noon, true); batch != nil; batch, _ = p.next(noon, true) {
					var wire []byte
					wire, p.scratch = p.compressor.wireOf(batch, p.scratch)
					p.producer.stamp(wire)
					p.settle(batch)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/record")
		})
	}
}

// BenchmarkAppendOne is a message of one record, as receivers append it.
func BenchmarkAppendOne(b *testing.B) {
	l := benchLog(b, Options{Brokers: []string{"127.0.0.1:1"}})
	for i := range 8 {
		l.parts = append(l.parts, newPartition(l, i))
	}
	l.limits.learnt.Store(true)
	records, suffix := benchMessage()
	key := "80ab2f3b-0000-0000-0000-000000000000"
	p := l.route(hashOf(key))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if !l.TryAppend(time.Now(), key, records[:1], suffix) {
			b.Fatal("declined")
		}
		if i%100 == 0 {
			for batch, _ := p.next(noon, true); batch != nil; batch, _ = p.next(noon, true) {
				p.settle(batch)
			}
		}
	}
}

// BenchmarkDelivered includes kafka-go's encoding, loopback TCP and a kfake that
// throws batches away. It reports what the process, broker included, used.
func BenchmarkDelivered(b *testing.B) {
	for _, codec := range []Compression{CompressionNone, CompressionSnappy} {
		b.Run(string(codec), func(b *testing.B) {
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(8, DefaultTopic), kfake.BlackholeProduce())
			if err != nil {
				b.Fatal(err)
			}
			defer cluster.Close()
			l := benchLog(b, Options{Brokers: cluster.ListenAddrs(), Compression: codec, Dial: (&net.Dialer{}).DialContext})
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error, 1)
			var wg sync.WaitGroup
			wg.Go(func() { done <- l.Run(ctx) })
			defer wg.Wait()
			defer cancel()
			records, suffix := benchMessage()
			keys := make([]string, 200)
			for i := range keys {
				keys[i] = fmt.Sprintf("agent-%d", i)
			}
			b.SetBytes(100 * 600)
			b.ReportAllocs()
			i, before := 0, cpuTime(b)
			for b.Loop() {
				i++
				if err := l.Append(b.Context(), keys[i%len(keys)], records, suffix); err != nil {
					b.Fatal(err)
				}
			}
			cancel()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
			if d := l.Ledger(); d.Delivered != d.Received {
				b.Fatalf("ledger = %+v", d)
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N)/100, "cpu-ns/record")
		})
	}
}

// BenchmarkSteady is 20,000 records a second, 10 a message, over 8 partitions: what
// it costs to wait for records. One operation is a second of it.
func BenchmarkSteady(b *testing.B) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(8, DefaultTopic), kfake.BlackholeProduce())
	if err != nil {
		b.Fatal(err)
	}
	defer cluster.Close()
	l := benchLog(b, Options{Brokers: cluster.ListenAddrs(), Dial: (&net.Dialer{}).DialContext})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { done <- l.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	records, suffix := benchMessage()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	i, before := 0, cpuTime(b)
	for b.Loop() {
		for range 200 {
			<-ticker.C
			for range 10 {
				i++
				if err := l.Append(b.Context(), fmt.Sprint("agent-", i%200), records[:10], suffix); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N)/20_000, "cpu-ns/record")
}

// cpuTime is what the process has used; on a shared machine it says more than
// the time that passed.
func cpuTime(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func benchLog(b *testing.B, opts Options) *Log {
	b.Helper()
	opts.Logger = slog.New(slog.DiscardHandler)
	opts.Registerer = prometheus.NewRegistry()
	l, err := New(opts)
	if err != nil {
		b.Fatal(err)
	}
	return l
}
