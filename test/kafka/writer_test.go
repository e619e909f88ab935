// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"muster/recordlog"
	"muster/test/kafka"
	"muster/test/process"
)

const partitions = 8

// settleWithin bounds the wait for the last record; only a test that fails takes it.
const settleWithin = 3 * time.Minute

// suffix ends the value of each record, padding makes it as large as many are.
var (
	suffix  = []byte("|suffix")
	padding = strings.Repeat("/usr/bin/some-process --with=arguments;", 7)
)

// writer is a Log under test, and what was appended to it.
type writer struct {
	*recordlog.Log
	t     *testing.T
	topic string
	opts  recordlog.Options
	logs  *process.Output
	stop  func() // ends Run and waits for it
	// before is how many records an earlier Log with the same spool delivered.
	before uint64

	mu   sync.Mutex
	sent map[string]int // by key; their records are numbered from 0
}

// topicOf is a topic of the test's own.
func topicOf(t *testing.T) string {
	return strings.NewReplacer("/", ".", "#", "-").Replace(t.Name())
}

// write runs a Log against a new topic of c; change may be nil. It is stopped
// at the test's end.
func write(t *testing.T, c *kafka.Cluster, change func(*recordlog.Options)) *writer {
	t.Helper()
	c.CreateTopic(topicOf(t), partitions)
	return writeTo(t, c, topicOf(t), change)
}

func writeTo(t *testing.T, c *kafka.Cluster, topic string, change func(*recordlog.Options)) *writer {
	t.Helper()
	w := &writer{t: t, topic: topic, logs: &process.Output{}, sent: make(map[string]int)}
	opts := recordlog.Options{
		Brokers:        c.Addrs(kafka.Plain),
		Topic:          topic,
		Partitions:     partitions,
		SpoolOptions:   recordlog.SpoolOptions{SpoolDir: filepath.Join(t.TempDir(), "spool")},
		RequestTimeout: 4 * time.Second,
		Logger:         slog.New(slog.NewTextHandler(w.logs, nil)),
	}
	if change != nil {
		change(&opts)
	}
	w.run(opts)
	t.Cleanup(func() {
		w.stop()
		if t.Failed() {
			t.Logf("ledger %+v\nstatus %+v\nlog of the writer:\n%s", w.Ledger(), w.Status(), w.logs.Tail(50))
		}
	})
	return w
}

// run starts a Log, in place of one that has ended.
func (w *writer) run(opts recordlog.Options) {
	w.t.Helper()
	if w.Log != nil {
		w.before += w.Ledger().Delivered
	}
	opts.Registerer = prometheus.NewRegistry()
	l, err := recordlog.New(opts)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Log, w.opts = l, opts
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := l.Run(ctx); err != nil {
			w.t.Errorf("Run = %v", err)
		}
	})
	w.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
}

// append hands over n more records of a key as one message.
func (w *writer) append(key string, n int) {
	w.mu.Lock()
	first := w.sent[key]
	w.sent[key] += n
	w.mu.Unlock()
	records := make([][]byte, n)
	for i := range records {
		records[i] = []byte(strconv.Itoa(first+i) + "|" + padding)
	}
	if err := w.Append(context.Background(), key, records, suffix); err != nil {
		w.t.Errorf("Append = %v", err)
	}
}

// burst appends records of many keys at once, as fast as they are taken.
func (w *writer) burst(keys, messages, each int) {
	for range messages {
		for k := range keys {
			w.append(fmt.Sprintf("agent-%03d", k), each)
		}
	}
}

// load appends about so many records a second, of 50 keys and 10 a message,
// until stop is called.
func (w *writer) load(rate int) (stop func()) {
	const keys, each = 50, 10
	done := make(chan struct{})
	var wg sync.WaitGroup
	for part := range 2 { // two appenders, each with its own keys
		wg.Go(func() {
			tick := time.NewTicker(time.Second * each * 2 / time.Duration(rate))
			defer tick.Stop()
			for k := part; ; k = (k + 2) % keys {
				select {
				case <-done:
					return
				case <-tick.C:
					w.append(fmt.Sprintf("agent-%03d", k), each)
				}
			}
		})
	}
	stop = sync.OnceFunc(func() {
		close(done)
		wg.Wait()
	})
	w.t.Cleanup(stop)
	return stop
}

func (w *writer) appended() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, sent := range w.sent {
		n += sent
	}
	return uint64(n)
}

// flows waits until records that are appended from now on are delivered.
func (w *writer) flows() {
	w.t.Helper()
	before := w.Ledger().Delivered
	process.Eventually(w.t, settleWithin, "records flow", func() error {
		if l := w.Ledger(); l.Delivered == before {
			return fmt.Errorf("%+v, %+v", l, w.Status())
		}
		return nil
	})
}

// settle waits until nothing is pending and returns the ledger.
func (w *writer) settle() recordlog.Ledger {
	w.t.Helper()
	process.Eventually(w.t, settleWithin, "all is delivered", func() error {
		l := w.Ledger()
		if !l.Balanced() {
			w.t.Fatalf("the ledger does not balance: %+v", l)
		}
		if l.Pending+l.Spooled > 0 {
			return fmt.Errorf("%+v, %+v", l, w.Status())
		}
		return nil
	})
	return w.Ledger()
}

// delivered settles and wants every record to be in Kafka, in order within its
// key, and none twice that the ledger does not count.
func (w *writer) delivered(c *kafka.Cluster) recordlog.Ledger {
	w.t.Helper()
	l := w.settle()
	if n := w.appended() - w.before; l.Received != n || l.Delivered != n {
		w.t.Errorf("appended %d: %+v, want as many received and delivered", n, l)
	}
	seen := w.read(c)
	doubles := uint64(0)
	for key, sent := range w.sent {
		k := seen[key]
		if k == nil || k.next != sent {
			w.t.Errorf("%s: %+v in Kafka, want %d", key, k, sent)
			continue
		}
		doubles += k.doubles
	}
	if doubles > l.PossibleDuplicates {
		w.t.Errorf("%d records are twice in Kafka, the ledger allows for %d", doubles, l.PossibleDuplicates)
	}
	process.Eventually(w.t, 10*time.Second, "the status is well", func() error {
		if s := w.Status(); !s.Up || s.LastError != "" || s.Spooling > 0 || s.SpoolError != "" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	return l
}

// undoubled wants delivered, and no record that may be there twice.
func (w *writer) undoubled(c *kafka.Cluster) {
	w.t.Helper()
	if l := w.delivered(c); l.PossibleDuplicates != 0 {
		w.t.Errorf("%d possible duplicates, want none", l.PossibleDuplicates)
	}
}

// keySeen is what Kafka has of a key: the numbers first to next-1.
type keySeen struct {
	first, next int
	doubles     uint64
}

// read returns what is in Kafka, and fails the test where a number is skipped
// or out of order.
func (w *writer) read(c *kafka.Cluster, opts ...kgo.Opt) map[string]*keySeen {
	w.t.Helper()
	seen := make(map[string]*keySeen)
	for _, r := range c.ReadAll(w.t, w.topic, opts...) {
		n, err := numberOf(r)
		if err != nil {
			w.t.Fatal(err)
		}
		if r.ProducerID < 0 {
			w.t.Fatalf("%s number %d was written without a producer ID", r.Key, n)
		}
		k := seen[string(r.Key)]
		switch {
		case k == nil:
			seen[string(r.Key)] = &keySeen{first: n, next: n + 1}
		case n == k.next:
			k.next++
		case n < k.next && n >= k.first:
			k.doubles++
		default:
			w.t.Fatalf("%s: number %d stands behind %d (partition %d, offset %d)", r.Key, n, k.next-1, r.Partition, r.Offset)
		}
	}
	return seen
}

// numberOf takes a record's value apart.
func numberOf(r *kgo.Record) (int, error) {
	number, rest, _ := strings.Cut(string(r.Value), "|")
	if rest != padding+string(suffix) {
		return 0, fmt.Errorf("%s: value %q is not what was appended", r.Key, r.Value)
	}
	n, err := strconv.Atoi(number)
	if err != nil {
		return 0, errors.New("no number in " + string(r.Value))
	}
	return n, nil
}

// lastErrorHas waits until the status says what to do.
func (w *writer) lastErrorHas(want string) {
	w.t.Helper()
	process.Eventually(w.t, 30*time.Second, "the last error says "+want, func() error {
		if s := w.Status(); s.Up || !strings.Contains(s.LastError, want) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}
