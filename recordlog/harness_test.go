// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"muster/internal/memnet"
	"muster/recordlog"
)

const (
	topic    = "hids_svr"
	kafkaIP  = "10.0.0.9"
	writerIP = "10.0.0.1"
	readerIP = "10.0.0.2"
)

// broker is a Kafka in memory with a line to it that can fail. It lives in one
// synctest bubble.
type broker struct {
	*kfake.Cluster
	network *memnet.Network

	away atomic.Bool  // connections are refused
	lose atomic.Int32 // so many answers are lost after the request was handled

	mu    sync.Mutex
	conns []net.Conn

	seen    []*kgo.Record // by readOnce
	delay   atomic.Int64  // of each answer to a batch
	refused atomic.Pointer[map[int32]bool]
	refuses atomic.Bool
}

// startBroker runs a kfake with the topic in 8 partitions, unless opts say otherwise.
func startBroker(t *testing.T, opts ...kfake.Opt) *broker {
	t.Helper()
	b := &broker{network: memnet.New()}
	listen := func(network, _ string) (net.Listener, error) {
		return b.network.Host(kafkaIP).Listen(network, ":0")
	}
	all := append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(8, topic), kfake.ListenFn(listen)}, opts...)
	cluster, err := kfake.NewCluster(all...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	b.Cluster = cluster
	return b
}

// dial is the writer's way to the broker.
func (b *broker) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if b.away.Load() {
		return nil, fmt.Errorf("dial %s: connection refused", addr)
	}
	c, err := b.network.Host(writerIP).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns = append(b.conns, c)
	return &lossyConn{Conn: c, broker: b}, nil
}

// goAway refuses and breaks the writer's connections until comeBack.
func (b *broker) goAway() {
	b.away.Store(true)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		_ = c.Close()
	}
	b.conns = nil
}

func (b *broker) comeBack() { b.away.Store(false) }

// lossyConn loses answers to batches.
type lossyConn struct {
	net.Conn
	broker  *broker
	produce bool // the last request was a big one, a batch
	due     bool // its answer has not come
}

func (c *lossyConn) Write(p []byte) (int, error) {
	c.produce = len(p) > 8 && p[4] == 0 && p[5] == 0 // API key 0
	c.due = c.due || c.produce
	return c.Conn.Write(p)
}

func (c *lossyConn) Read(p []byte) (int, error) {
	if c.due {
		time.Sleep(time.Duration(c.broker.delay.Load()))
		c.due = false
	}
	n, err := c.Conn.Read(p)
	if err == nil && c.produce && c.broker.lose.Add(-1) >= 0 {
		_ = c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// running is a Log under test.
type running struct {
	*recordlog.Log
	stop func() // ends Run and waits for it
	logs *logBuffer
	reg  *prometheus.Registry

	appended atomic.Int64
	dir      string // of the spool
}

// startLog runs a Log against b; change may be nil. It is stopped at the test's end.
func startLog(t *testing.T, b *broker, change func(*recordlog.Options)) *running {
	t.Helper()
	r := newLog(t, b, change)
	r.run(t)
	return r
}

func newLog(t *testing.T, b *broker, change func(*recordlog.Options)) *running {
	t.Helper()
	r := &running{logs: &logBuffer{}, reg: prometheus.NewRegistry()}
	opts := recordlog.Options{
		Brokers:    b.ListenAddrs(),
		Dial:       b.dial,
		Logger:     slog.New(slog.NewTextHandler(r.logs, nil)),
		Registerer: r.reg,
	}
	if change != nil {
		change(&opts)
	}
	l, err := recordlog.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	r.Log, r.dir = l, opts.SpoolDir
	return r
}

func (r *running) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { done <- r.Run(ctx) })
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
		wg.Wait()
	})
	t.Cleanup(r.stop)
}

// append fails the test if records cannot be handed over. It tries first, as
// receivers do, all but every fourth message.
func (r *running) append(t *testing.T, key string, values ...string) {
	t.Helper()
	const suffix = "|suffix"
	records := make([][]byte, len(values))
	for i, v := range values {
		records[i] = []byte(v)
	}
	if r.appended.Add(1)%4 == 0 || !r.TryAppend(time.Now(), key, records, []byte(suffix)) {
		if err := r.Append(t.Context(), key, records, []byte(suffix)); err != nil {
			t.Fatal(err)
		}
	}
	for _, rec := range records { // they were only borrowed
		clear(rec)
	}
}

// settled waits in fake time until nothing is pending, and checks the ledger.
func (r *running) settled(t *testing.T) recordlog.Ledger {
	t.Helper()
	for range 600 {
		if l := r.Ledger(); l.Pending == 0 {
			if !l.Balanced() {
				t.Fatalf("ledger does not balance: %+v", l)
			}
			return l
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
	}
	t.Fatalf("still pending after a minute: %+v, %+v", r.Ledger(), r.Status())
	return recordlog.Ledger{}
}

// logBuffer keeps log lines.
type logBuffer struct {
	mu sync.Mutex
	s  strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.s.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.s.String()
}

// read returns every record of the topic, in order within each partition, by
// another client library than the writer's.
func (b *broker) read(t *testing.T, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	opts = append([]kgo.Opt{
		kgo.SeedBrokers(b.ListenAddrs()...),
		kgo.Dialer(b.network.Host(readerIP).DialContext),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.WithDecompressor(decompressor{}),
	}, opts...)
	c, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var all []*kgo.Record
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // of quiet
		fetches := c.PollFetches(ctx)
		cancel()
		for _, e := range fetches.Errors() {
			if !errors.Is(e.Err, context.DeadlineExceeded) {
				t.Fatalf("reading back: %v", e.Err)
			}
		}
		n := len(all)
		fetches.EachRecord(func(r *kgo.Record) { all = append(all, r) })
		if len(all) == n {
			return all
		}
	}
}

// ofKeys returns the records whose key begins with prefix.
func ofKeys(records []*kgo.Record, prefix string) []*kgo.Record {
	return slices.DeleteFunc(records, func(r *kgo.Record) bool { return !strings.HasPrefix(string(r.Key), prefix) })
}

// decompressor is kgo's but for zstd: kgo leaves its decoders to finalizers,
// which may not close a bubble's channels.
type decompressor struct{}

func (decompressor) Decompress(src []byte, codec kgo.CompressionCodecType) ([]byte, error) {
	if codec != kgo.CodecZstd {
		return kgo.DefaultDecompressor().Decompress(src, codec)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.DecodeAll(src, nil)
}

// wants is what must be in Kafka: values by key, in order.
type wants map[string][]string

func (w wants) add(key string, values ...string) { w[key] = append(w[key], values...) }

// check compares what was read with w: each record once, in its key's order,
// byte for byte, in Sarama's partition of n.
func (w wants) check(t *testing.T, records []*kgo.Record, n int) {
	t.Helper()
	got := wants{}
	for _, r := range records {
		key := string(r.Key)
		value, ok := strings.CutSuffix(string(r.Value), "|suffix")
		if !ok {
			t.Fatalf("value %q lacks the suffix", r.Value)
		}
		got.add(key, value)
		if n > 0 && r.Partition != saramaPartition(key, n) {
			t.Errorf("key %s is in partition %d, want %d", key, r.Partition, saramaPartition(key, n))
		}
	}
	if len(got) != len(w) {
		t.Errorf("%d keys in kafka, want %d", len(got), len(w))
	}
	wrong := 0
	for key, values := range w {
		if slices.Equal(got[key], values) {
			continue
		}
		if wrong++; wrong > 3 {
			break
		}
		i := 0
		for i < min(len(values), len(got[key])) && got[key][i] == values[i] {
			i++
		}
		t.Errorf("key %s: %d records, want %d; the first that differs is number %d", key, len(got[key]), len(values), i)
	}
}

// saramaPartition is Sarama's default as the contract states it, written down
// a second time.
func saramaPartition(key string, n int) int32 {
	var h uint32 = 0x811c9dc5
	for _, c := range []byte(key) {
		h ^= uint32(c)
		h *= 0x01000193
	}
	p := int64(int32(h)) % int64(n)
	return int32(max(p, -p))
}

// metric returns the value of a counter or gauge whose labels have the values.
func metric(t *testing.T, l *running, name string, labels ...string) float64 {
	t.Helper()
	families, err := l.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var values []string
			for _, p := range m.GetLabel() {
				values = append(values, p.GetValue())
			}
			if f.GetName() == name && slices.Equal(values, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s%v", name, labels)
	return 0
}

// readOnce is read, but asks only once for each number of records written.
func (b *broker) readOnce(t *testing.T) []*kgo.Record {
	t.Helper()
	if b.seen == nil {
		b.seen = b.read(t)
	}
	return b.seen
}
