// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"sync/atomic"

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
type tally [kindCount]struct{ records, bytes uint32 }

func (t *tally) add(k kind, bytes int) {
	c := &t[k]
	c.records++
	c.bytes += uint32(bytes) //nolint:gosec // a message has at most maxMessageBytes
}

// traffic is what passes from agents to the record log. Each message is counted
// once, whatever it holds.
type traffic struct {
	messages, records, bytes prometheus.Counter
	normalised, repaired     prometheus.Counter
	sizes, appends           prometheus.Histogram
	// appending is how many messages the record log is being given.
	appending atomic.Int64

	kindRecords, kindBytes [kindCount]prometheus.Counter
}

func newTraffic(r *registrar) *traffic {
	t := &traffic{
		messages:   r.counter("messages_total", "Messages received from agents."),
		records:    r.counter("records_total", "Records received from agents."),
		bytes:      r.counter("received_bytes_total", "Bytes of messages received, decompressed."),
		normalised: r.counter("normalised_records_total", "Records that carried other fields than their three, which were removed."),
		repaired:   r.counter("repaired_texts_total", "Host names, versions, products and addresses of agents that were not UTF-8, one count a message; U+FFFD replaced the wrong bytes."),
		sizes: r.histogram("message_bytes", "Size of a message, decompressed.",
			prometheus.ExponentialBuckets(256, 4, 9)),
		appends: r.histogram("append_seconds", "From reading a message to its records being in the record log; an agent's stream is not read meanwhile.",
			[]float64{.001, .005, .02, .1, .5, 2, 10, 60}),
	}
	names := kindNames()
	records := r.vector("type_records_total", "Records received from agents, by data type: those that Muster knows, and all others together.", "type", names[:]...)
	bytes := r.vector("type_bytes_total", "Bytes of records received from agents, by data type.", "type", names[:]...)
	for k, name := range names {
		t.kindRecords[k], t.kindBytes[k] = records.WithLabelValues(name), bytes.WithLabelValues(name)
	}
	r.gauge("appending_messages", "Messages that the record log has been given and not taken yet; each stands for a stream that is not read.",
		func() float64 { return float64(t.appending.Load()) })
	return t
}

// count notes a message of size bytes.
func (t *traffic) count(m *message, size int) {
	t.messages.Inc()
	t.records.Add(float64(len(m.records)))
	t.bytes.Add(float64(size))
	t.sizes.Observe(float64(size))
	for k := range m.tally {
		if c := &m.tally[k]; c.records > 0 {
			t.kindRecords[k].Add(float64(c.records))
			t.kindBytes[k].Add(float64(c.bytes))
		}
	}
	if m.normalised > 0 {
		t.normalised.Add(float64(m.normalised))
	}
	if m.repaired > 0 {
		t.repaired.Add(float64(m.repaired))
	}
}
