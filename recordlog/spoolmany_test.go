// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"

	"muster/recordlog"
)

// countingDisk counts syncs; real says whether they are made.
type countingDisk struct {
	syncs atomic.Int64
	real  bool
}

func (d *countingDisk) WriteAt(f *os.File, p []byte, off int64) (int, error) {
	return f.WriteAt(p, off)
}

func (d *countingDisk) Sync(f *os.File) error {
	d.syncs.Add(1)
	if d.real {
		return f.Sync()
	}
	return nil
}

// openFiles counts those of the process.
func openFiles(t testing.TB) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc here")
	}
	return len(files)
}

// TestManyPartitionsSpool: 200 partitions go to disk at the same time and come back, each
// in its order, and take no more than two goroutines and two files each for it.
func TestManyPartitionsSpool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const partitions = 200
		dir, disk := t.TempDir(), &countingDisk{}
		b := startBroker(t, kfake.SeedTopics(partitions, topic))
		l := startLog(t, b, func(o *recordlog.Options) {
			o.SpoolDir = dir
			recordlog.SetDisk(o, disk)
		})
		a := startAgents(t, l, 4*partitions, 500*time.Millisecond, 100)
		time.Sleep(3 * time.Second)
		b.goAway()
		time.Sleep(500 * time.Millisecond) // connections are down, none spools
		goroutines, files := runtime.NumGoroutine(), openFiles(t)
		time.Sleep(4500 * time.Millisecond)
		spooling, before := l.Status().Spooling, disk.syncs.Load()
		time.Sleep(10 * time.Second)
		perSecond := (disk.syncs.Load() - before) / 10
		goroutines, files = runtime.NumGoroutine()-goroutines, openFiles(t)-files
		t.Logf("%d partitions spool: %d goroutines, %d files more, %d syncs a second", spooling, goroutines, files, perSecond)
		if spooling < partitions*9/10 || goroutines > 2*spooling || files > 2*spooling || perSecond > 20*int64(spooling) {
			t.Errorf("%d partitions spool: %d goroutines, %d files more, %d syncs a second", spooling, goroutines, files, perSecond)
		}
		b.comeBack()
		time.Sleep(10 * time.Second)
		a.end()
		if s := l.delivered(t); s.Delivered != a.count() || s.PossibleDuplicates != 0 {
			t.Errorf("ledger = %+v, want %d delivered", s, a.count())
		}
		a.check(t, b.read(t), partitions)
		spoolIsEmpty(t, dir)
	})
}

// BenchmarkManyPartitionsSpool is a second of 20,000 records, 600 bytes each, of 200
// partitions on a real disk while Kafka is away; then the time to deliver them all.
func BenchmarkManyPartitionsSpool(b *testing.B) {
	const partitions = 200
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topic), kfake.BlackholeProduce())
	if err != nil {
		b.Fatal(err)
	}
	defer cluster.Close()
	var away atomic.Bool
	disk := &countingDisk{real: true}
	opts := recordlog.Options{
		Brokers: cluster.ListenAddrs(), Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if away.Load() {
				return nil, errors.New("away")
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	}
	opts.SpoolDir = filepath.Join(b.TempDir(), "spool")
	recordlog.SetDisk(&opts, disk)
	l, err := recordlog.New(opts)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	for l.Status().Partitions == 0 {
		<-time.After(10 * time.Millisecond)
	}
	away.Store(true)
	records, n := make([][]byte, 10), 0
	for i := range records {
		records[i] = make([]byte, 600)
	}
	second := func() {
		began := time.Now()
		for range 20 {
			for range 100 {
				n++
				if err := l.Append(b.Context(), fmt.Sprint("agent-", n%1000), records, nil); err != nil {
					b.Fatal(err)
				}
			}
			<-time.After(time.Until(began.Add(50 * time.Millisecond)))
			began = began.Add(50 * time.Millisecond)
		}
	}
	for l.Status().Spooling < partitions {
		second()
	}
	syncs, cpu, began := disk.syncs.Load(), used(b), time.Now()
	for b.Loop() {
		second()
	}
	took := time.Since(began).Seconds()
	b.ReportMetric(float64(disk.syncs.Load()-syncs)/took, "syncs/s")
	b.ReportMetric((used(b)-cpu).Seconds()/took, "cpu-s/s")
	b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
	b.ReportMetric(float64(openFiles(b)), "files")
	b.ReportMetric(float64(l.Ledger().PendingBytes)/1024, "KiB-pending")
	away.Store(false)
	began = time.Now()
	for s := l.Ledger(); s.Spooled+s.Pending > 0; s = l.Ledger() {
		<-time.After(10 * time.Millisecond)
	}
	b.ReportMetric(float64(l.Ledger().Delivered)/time.Since(began).Seconds(), "back-records/s")
}

// used is the processor's time of the process.
func used(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
