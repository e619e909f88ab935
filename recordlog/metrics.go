// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of a Log. What the ledger and the status know is read from them at
// each scrape, so one scrape's figures balance too.
type metrics struct {
	bytes   prometheus.Counter
	batches prometheus.Counter
	records prometheus.Histogram
	latency prometheus.Histogram
	retries *prometheus.CounterVec
	waits   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, l *Log) (*metrics, error) {
	m := &metrics{
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "muster_recordlog_sent_bytes_total",
			Help: "Bytes of acknowledged batches as sent, compressed.",
		}),
		batches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "muster_recordlog_batches_total",
			Help: "Batches that Kafka acknowledged.",
		}),
		records: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "muster_recordlog_batch_records",
			Help:    "Records in an acknowledged batch.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 7),
		}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "muster_recordlog_produce_seconds",
			Help:    "From sending a batch to its acknowledgement, without retries.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_recordlog_retries_total",
			Help: "Batches that were sent again, by reason.",
		}, []string{"reason"}),
		waits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "muster_recordlog_append_waits_total",
			Help: "Messages that had to wait for room in memory.",
		}),
	}
	for _, reason := range retryReasons {
		m.retries.WithLabelValues(reason)
	}
	for _, c := range []prometheus.Collector{m.bytes, m.batches, m.records, m.latency, m.retries, m.waits, newCollector(l)} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("recordlog: Registerer: %w", err)
		}
	}
	return m, nil
}

// produced notes one acknowledged batch.
func (m *metrics) produced(took time.Duration, bytes, records int) {
	m.latency.Observe(took.Seconds())
	m.bytes.Add(float64(bytes))
	m.batches.Inc()
	m.records.Observe(float64(records))
}

// collector shows one ledger and one status per scrape.
type collector struct {
	log *Log

	received, delivered, refused, dropped *prometheus.Desc
	pending, spooled, pendingBytes        *prometheus.Desc
	doubles, up, partitions               *prometheus.Desc
}

func newCollector(l *Log) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("muster_recordlog_"+name, help, labels, nil)
	}
	return &collector{
		log:          l,
		received:     desc("received_records_total", "Records handed to the log."),
		delivered:    desc("delivered_records_total", "Records that Kafka acknowledged."),
		refused:      desc("refused_records_total", "Records larger than Kafka takes."),
		dropped:      desc("dropped_records_total", "Records lost, by reason.", "reason"),
		pending:      desc("pending_records", "Records held in memory."),
		spooled:      desc("spooled_records", "Records held on disk."),
		pendingBytes: desc("pending_bytes", "Memory bound taken by pending records."),
		doubles:      desc("possible_duplicate_records_total", "Records sent again under another producer ID after an attempt without an answer."),
		up:           desc("kafka_up", "1 while Kafka takes records."),
		partitions:   desc("partitions", "Partitions of the topic, 0 until learnt."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.received, c.delivered, c.refused, c.dropped, c.pending,
		c.spooled, c.pendingBytes, c.doubles, c.up, c.partitions,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	l, s := c.log.Ledger(), c.log.Status()
	counter(c.received, l.Received)
	counter(c.delivered, l.Delivered)
	counter(c.refused, l.Refused)
	for _, why := range dropReasons {
		counter(c.dropped, l.Dropped[why], string(why))
	}
	counter(c.doubles, l.PossibleDuplicates)
	gauge(c.pending, float64(l.Pending))
	gauge(c.spooled, float64(l.Spooled))
	gauge(c.pendingBytes, float64(l.PendingBytes))
	gauge(c.partitions, float64(s.Partitions))
	up := 0.0
	if s.Up {
		up = 1
	}
	gauge(c.up, up)
}
