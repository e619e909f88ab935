// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
)

// kind is the place of a data type in a tally. The data types of the wire are
// an agent's choice; kinds are few and fixed, so that they can be labels.
type kind uint8

const (
	kindOther kind = iota
	kindExecve
	kindHeartbeat // from here on: what the AgentCenter itself acts on
	kindPluginHeartbeat
	kindAgentError
	kindPluginError
	kindReply2001
	kindReply2003
	kindTaskResult
	kindVerification
	kindScanFinished
	kindBaselineStatus
	kindCount
)

// kindNames are the values of the label type.
func kindNames() [kindCount]string {
	return [kindCount]string{
		"other", "execve", "heartbeat", "plugin_heartbeat", "agent_error", "plugin_error", "reply_2001", "reply_2003",
		"task_result", "verification", "scan_finished", "baseline_status",
	}
}

func kindOf(t fleet.DataType) kind {
	switch t {
	case fleet.DataTypeExecve:
		return kindExecve
	case fleet.DataTypeHeartbeat:
		return kindHeartbeat
	case fleet.DataTypePluginHeartbeat:
		return kindPluginHeartbeat
	case fleet.DataTypeAgentError:
		return kindAgentError
	case fleet.DataTypePluginError:
		return kindPluginError
	case fleet.DataTypeReply2001:
		return kindReply2001
	case fleet.DataTypeReply2003:
		return kindReply2003
	case fleet.DataTypeTaskResult:
		return kindTaskResult
	case fleet.DataTypeVerification:
		return kindVerification
	case fleet.DataTypeScanFinished:
		return kindScanFinished
	case fleet.DataTypeBaselineStatus:
		return kindBaselineStatus
	}
	return kindOther
}

// isNotable tells whether the AgentCenter acts on records of this kind.
func (k kind) isNotable() bool { return k >= kindHeartbeat }

// tally counts the records of one message by their kind, and their bytes.
type tally struct {
	seen  uint32 // a bit for each kind that is not 0
	kinds [kindCount]struct{ records, bytes uint32 }
}

func (t *tally) add(k kind, bytes int) {
	t.seen |= 1 << k
	c := &t.kinds[k]
	c.records++
	c.bytes += uint32(bytes) //nolint:gosec // a message has at most maxMessageBytes
}

// reset touches only what was counted: most messages hold one kind.
func (t *tally) reset() {
	for ; t.seen != 0; t.seen &= t.seen - 1 {
		t.kinds[bits.TrailingZeros32(t.seen)] = struct{ records, bytes uint32 }{}
	}
}

// traffic is what passes from agents to the record log. Each message is counted
// once, whatever it holds. Processors count apart, so that they do not wait for
// each other's caches; a scrape adds up.
type traffic struct {
	lanes [16]lane
	next  atomic.Uint32
	// appending is how many messages the record log has not taken at once.
	appending atomic.Int64

	messages, records, bytes *prometheus.Desc
	normalised, repaired     *prometheus.Desc
	sizes, appends           *prometheus.Desc
	kindRecords, kindBytes   *prometheus.Desc
}

// lane is what some messages were.
type lane struct {
	mu sync.Mutex
	counts

	_ [64]byte // no two lanes in one line of a cache
}

type counts struct {
	bytes                uint64
	normalised, repaired uint64
	kinds                [kindCount]struct{ records, bytes uint64 }
	sizes                [len(sizeBuckets) + 1]uint64
	waits                [len(waitBuckets) + 1]uint64
	delay                time.Duration // sum of the waits
}

// The upper bounds of the histograms' buckets.
var (
	sizeBuckets = [...]int{1 << 8, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24}
	waitBuckets = [...]time.Duration{
		time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond,
		2 * time.Second, 10 * time.Second, time.Minute,
	}
)

func newTraffic(r *registrar) *traffic {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("muster_agentrpc_"+name, help, labels, nil)
	}
	t := &traffic{
		messages:   desc("messages_total", "Messages received from agents."),
		records:    desc("records_total", "Records received from agents."),
		bytes:      desc("received_bytes_total", "Bytes of messages received, decompressed."),
		normalised: desc("normalised_records_total", "Records that carried other fields than their three, which were removed."),
		repaired:   desc("repaired_texts_total", "Host names, versions, products and addresses of agents that were not UTF-8, one count a message; U+FFFD replaced the wrong bytes."),
		sizes:      desc("message_bytes", "Size of a message, decompressed."),
		appends: desc("append_seconds",
			"From reading a message to its records being in the record log; an agent's stream is not read meanwhile. A message that the log took at once counts as 0."),
		kindRecords: desc("type_records_total", "Records received from agents, by data type: those that Muster knows, and all others together.", "type"),
		kindBytes:   desc("type_bytes_total", "Bytes of records received from agents, by data type.", "type"),
	}
	r.register(t)
	r.gauge("appending_messages", "Messages that the record log has been given and not taken yet; each stands for a stream that is not read.",
		func() float64 { return float64(t.appending.Load()) })
	return t
}

// lane returns one for a processor.
func (t *traffic) lane() *lane { return &t.lanes[t.next.Add(1)%uint32(len(t.lanes))] }

// count notes a message of size bytes; quick says that the log took it at once.
func (l *lane) count(m *message, size int, quick bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes += uint64(size) //nolint:gosec // never negative
	l.sizes[bucketOf(sizeBuckets[:], size)]++
	for seen := m.tally.seen; seen != 0; seen &= seen - 1 {
		k := bits.TrailingZeros32(seen)
		l.kinds[k].records += uint64(m.tally.kinds[k].records)
		l.kinds[k].bytes += uint64(m.tally.kinds[k].bytes)
	}
	l.normalised += uint64(m.normalised) //nolint:gosec // never negative
	l.repaired += uint64(m.repaired)     //nolint:gosec // never negative
	if quick {
		l.waits[0]++
	}
}

// waited notes how long the record log took for a message that it did not take at once.
func (l *lane) waited(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits[bucketOf(waitBuckets[:], d)]++
	l.delay += d
}

// bucketOf is the first bucket whose bound is not below v.
func bucketOf[T int | time.Duration](bounds []T, v T) int {
	for i, bound := range bounds {
		if v <= bound {
			return i
		}
	}
	return len(bounds)
}

// sum adds all lanes up.
func (t *traffic) sum() (all counts) {
	for i := range t.lanes {
		t.lanes[i].addTo(&all)
	}
	return all
}

func (l *lane) addTo(all *counts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all.bytes += l.bytes
	all.normalised += l.normalised
	all.repaired += l.repaired
	all.delay += l.delay
	for i := range l.kinds {
		all.kinds[i].records += l.kinds[i].records
		all.kinds[i].bytes += l.kinds[i].bytes
	}
	for i := range l.sizes {
		all.sizes[i] += l.sizes[i]
	}
	for i := range l.waits {
		all.waits[i] += l.waits[i]
	}
}

// Describe is prometheus.Collector's.
func (t *traffic) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{t.messages, t.records, t.bytes, t.normalised, t.repaired, t.sizes, t.appends, t.kindRecords, t.kindBytes} {
		out <- d
	}
}

// Collect is prometheus.Collector's.
func (t *traffic) Collect(out chan<- prometheus.Metric) {
	all := t.sum()
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	var records uint64
	for k, name := range kindNames() {
		records += all.kinds[k].records
		counter(t.kindRecords, all.kinds[k].records, name)
		counter(t.kindBytes, all.kinds[k].bytes, name)
	}
	messages, sizes := cumulated(sizeBuckets[:], all.sizes[:], func(b int) float64 { return float64(b) })
	appended, waits := cumulated(waitBuckets[:], all.waits[:], time.Duration.Seconds)
	counter(t.messages, messages)
	counter(t.records, records)
	counter(t.bytes, all.bytes)
	counter(t.normalised, all.normalised)
	counter(t.repaired, all.repaired)
	out <- prometheus.MustNewConstHistogram(t.sizes, messages, float64(all.bytes), sizes)
	out <- prometheus.MustNewConstHistogram(t.appends, appended, all.delay.Seconds(), waits)
}

// cumulated is how Prometheus wants buckets: each with all below it.
func cumulated[T any](bounds []T, counts []uint64, number func(T) float64) (all uint64, buckets map[float64]uint64) {
	buckets = make(map[float64]uint64, len(bounds))
	for i, bound := range bounds {
		all += counts[i]
		buckets[number(bound)] = all
	}
	return all + counts[len(bounds)], buckets
}
