// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// reason says why something of an agent was refused; its values are the values
// of a metric's label.
type reason string

const (
	reasonConnections reason = "connection_limit"
	reasonHandshake   reason = "handshake"
	reasonCertificate reason = "certificate"
	reasonSessions    reason = "session_limit"
	reasonSilent      reason = "silent"
	reasonUndecodable reason = "undecodable"
	reasonTooLarge    reason = "too_large"
	reasonAgentID     reason = "agent_id"
	reasonNotItsID    reason = "not_its_agent_id"
	reasonIDChanged   reason = "agent_id_changed"
	reasonState       reason = "state_unavailable"
	reasonLog         reason = "record_log"
	reasonDraining    reason = "draining"
	reasonShed        reason = "shed"
)

func reasons() []reason {
	return []reason{
		reasonConnections, reasonHandshake, reasonCertificate, reasonSessions, reasonSilent,
		reasonUndecodable, reasonTooLarge, reasonAgentID, reasonNotItsID, reasonIDChanged,
		reasonState, reasonLog, reasonDraining, reasonShed,
	}
}

// metrics count what this package does. No label names an agent or a host.
type metrics struct {
	*traffic
	claimMetrics
	connectionMetrics
	recordsLost          prometheus.Counter
	pushes, pushFailures prometheus.Counter
	agentErrors          prometheus.Counter
	undecodableBodies    prometheus.Counter
	tasks                *prometheus.CounterVec // by outcome
	results              *prometheus.CounterVec // by outcome
	reports              *prometheus.CounterVec // by outcome
	uploads              *prometheus.CounterVec // by outcome
}

// connectionMetrics count how agents come and go.
type connectionMetrics struct {
	handshakes prometheus.Histogram
	opened     prometheus.Counter
	shed       prometheus.Counter
	refused    *prometheus.CounterVec // by reason
	closed     *prometheus.CounterVec // by cause
}

// claimMetrics count claims of sessions between the nodes.
type claimMetrics struct {
	claims, heard *prometheus.CounterVec // by outcome
	cloned        prometheus.Counter
}

// newMetrics registers the metrics; the gauges read s at each scrape.
func newMetrics(reg prometheus.Registerer, s *Server) (*metrics, error) {
	r := &registrar{reg: reg}
	m := &metrics{
		traffic: newTraffic(r),
		claimMetrics: claimMetrics{
			claims: r.vector("claims_total", "Claims of sessions sent to other nodes; unanswered ones are sent again.", "outcome", "accepted", "refused", "unanswered"),
			heard:  r.vector("heard_claims_total", "Claims of other nodes: for agents without a session here, with an older one, which was closed, and with a newer one.", "outcome", "no_session", "yielded", "refused"),
			cloned: r.counter("cloned_identities_total", "Agent IDs found in use by several hosts (three changes of node within 60 s), one count a minute for each."),
		},
		connectionMetrics: newConnectionMetrics(r),
		recordsLost:       r.counter("lost_records_total", "Records received that the record log did not take."),
		pushes:            r.counter("pushes_total", "Configs written to agents."),
		pushFailures:      r.counter("push_failures_total", "Configs and tasks that could not be written to a stream."),
		agentErrors:       r.counter("agent_errors_total", "Error records (1010, 1011) of agents and plugins."),
		undecodableBodies: r.counter("undecodable_bodies_total", "Heartbeats, errors and replies whose body could not be read, or not all of it, or is too large to be kept; they were forwarded."),
		tasks:             r.vector("tasks_total", "Tasks of agents by what became of their sending.", "outcome", "written", "not_granted", "cancelled", "failed"),
		results:           r.vector("results_total", "Results of tasks.", "outcome", "stored", "refused", "unknown_token", "repeated", "lost"),
		reports:           r.vector("reports_total", "Agents reported to the inventory.", "outcome", "stored", "refused", "dropped"),
		uploads:           r.vector("uploads_total", "Files uploaded by agents.", "outcome", "stored", "failed", "refused"),
	}
	r.gauge("sessions", "Agents whose stream this node holds.", func() float64 { return float64(s.registry.count()) })
	r.gauge("sessions_limit", "Agents whose stream this node may hold; more are refused.", func() float64 { return float64(s.opts.Limit) })
	r.gauge("connections", "Open connections of agents.", func() float64 { return float64(s.connections.count()) })
	r.gauge("claims_pending", "Claims of sessions that another node has not answered yet.", func() float64 { return float64(s.parts.claims.waiting()) })
	r.gauge("queued_results", "Results of tasks that wait to be stored; at 8192 the streams of agents that answer wait.", func() float64 { return float64(len(s.parts.results.queue)) })
	r.gauge("queued_reports", "Agents that wait to be reported to the inventory.", func() float64 { return float64(s.parts.inventory.waits()) })
	if err := errors.Join(r.errs...); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return m, nil
}

func newConnectionMetrics(r *registrar) connectionMetrics {
	var all []string
	for _, why := range reasons() {
		all = append(all, string(why))
	}
	return connectionMetrics{
		handshakes: r.histogram("handshake_seconds", "TLS handshakes with agents that succeeded.", []float64{.002, .005, .01, .02, .05, .1, .5, 2, 10}),
		opened:     r.counter("opened_sessions_total", "Agents whose stream this node has accepted."),
		shed:       r.counter("shed_total", "Sessions that this node has sent away, so that their agents go to nodes with fewer."),
		refused:    r.vector("refused_total", "Connections, streams and messages refused.", "reason", all...),
		closed:     r.vector("closed_sessions_total", "Sessions closed by this node: a newer stream of the agent here (replaced) or on another node (moved), another node's refusal of this one's claim (outclaimed), or an operator's reset.", "cause", "replaced", "moved", "outclaimed", "reset"),
	}
}

// registrar makes this package's metrics and keeps what goes wrong.
type registrar struct {
	reg  prometheus.Registerer
	errs []error
}

func (r *registrar) register(c prometheus.Collector) { r.errs = append(r.errs, r.reg.Register(c)) }

func (r *registrar) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "muster_agentrpc_" + name, Help: help})
	r.register(c)
	return c
}

// vector shows all values of its label from the start, as 0.
func (r *registrar) vector(name, help, label string, values ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "muster_agentrpc_" + name, Help: help}, []string{label})
	r.register(v)
	for _, value := range values {
		v.WithLabelValues(value)
	}
	return v
}

func (r *registrar) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "muster_agentrpc_" + name, Help: help, Buckets: buckets})
	r.register(h)
	return h
}

func (r *registrar) gauge(name, help string, value func() float64) {
	r.register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "muster_agentrpc_" + name, Help: help}, value))
}
