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
	// delivery is what an agent's operator cares about: how old records are when
	// Kafka has them.
	delivery prometheus.Histogram
	spool    spoolMetrics
}

// spoolMetrics are those of the spool that are not read from the ledger.
type spoolMetrics struct {
	syncs    prometheus.Counter
	errors   prometheus.Counter
	syncTime prometheus.Histogram
}

// synced notes one write and sync.
func (m *spoolMetrics) synced(took time.Duration) {
	m.syncs.Inc()
	m.syncTime.Observe(took.Seconds())
}

func newSpoolMetrics() spoolMetrics {
	return spoolMetrics{
		syncs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "muster_recordlog_spool_syncs_total",
			Help: "Writes to the spool that were synced to disk.",
		}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "muster_recordlog_spool_errors_total",
			Help: "Writes that the disk refused, and other trouble with the files of the spool.",
		}),
		syncTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "muster_recordlog_spool_sync_seconds",
			Help:    "How long a write to the spool and its sync took.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
	}
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
		delivery: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "muster_recordlog_delivery_seconds",
			Help:    "From Append to Kafka's acknowledgement, of the oldest record of each batch.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 20),
		}),
		spool: newSpoolMetrics(),
	}
	for _, reason := range retryReasons {
		m.retries.WithLabelValues(reason)
	}
	for _, c := range []prometheus.Collector{
		m.bytes, m.batches, m.records, m.latency, m.retries, m.waits,
		m.delivery, m.spool.syncs, m.spool.errors, m.spool.syncTime, newCollector(l),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "muster_recordlog_pending_limit_bytes",
			Help: "Memory bound: agents wait when pending records take all of it.",
		}, func() float64 { return float64(l.opts.MaxPendingBytes) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "muster_recordlog_spool_hang_seconds",
			Help: "How long the slowest request to the disk of the spool has been waited for, 0 if there is none.",
		}, func() float64 { return l.spools.waits(time.Now()).Seconds() }),
	} {
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
	doubles, up, partitions, recovered    *prometheus.Desc
	spoolBytes, spoolLimit, spoolAge      *prometheus.Desc
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
		recovered:    desc("recovered_records_total", "Records that an earlier process had left in the spool; they count as received."),
		spoolBytes:   desc("spool_bytes", "Disk that the spool takes."),
		spoolLimit:   desc("spool_limit_bytes", "Disk that the spool may take, 0 without one."),
		spoolAge:     desc("spool_age_seconds", "Age of the oldest spooled record, 0 if there is none."),
		partitions:   desc("partitions", "Partitions of the topic, 0 until learnt."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.received, c.delivered, c.refused, c.dropped, c.pending,
		c.spooled, c.pendingBytes, c.doubles, c.up, c.partitions,
		c.recovered, c.spoolBytes, c.spoolLimit, c.spoolAge,
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
	counter(c.recovered, l.Recovered)
	gauge(c.spoolBytes, float64(l.SpooledBytes))
	gauge(c.spoolLimit, float64(c.log.spools.maxBytes()))
	age := 0.0
	if !l.SpoolOldest.IsZero() {
		age = max(0, time.Since(l.SpoolOldest).Seconds())
	}
	gauge(c.spoolAge, age)
	gauge(c.partitions, float64(s.Partitions))
	up := 0.0
	if s.Up {
		up = 1
	}
	gauge(c.up, up)
}
