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
)

func reasons() []reason {
	return []reason{
		reasonConnections, reasonHandshake, reasonCertificate, reasonSessions, reasonSilent,
		reasonUndecodable, reasonTooLarge, reasonAgentID, reasonNotItsID, reasonIDChanged,
		reasonState, reasonLog, reasonDraining,
	}
}

// metrics count what this package does. No label names an agent or a host.
type metrics struct {
	recordMetrics
	claimMetrics
	refused              *prometheus.CounterVec
	closed               *prometheus.CounterVec // by cause
	pushes, pushFailures prometheus.Counter
	agentErrors          prometheus.Counter
	tasks                *prometheus.CounterVec // by outcome
	results              *prometheus.CounterVec // by outcome
	reports              *prometheus.CounterVec // by outcome
	uploads              *prometheus.CounterVec // by outcome
}

// claimMetrics count claims of sessions between the nodes.
type claimMetrics struct {
	claims, heard *prometheus.CounterVec // by outcome
	cloned        prometheus.Counter
}

// recordMetrics count messages and what is in them.
type recordMetrics struct {
	messages, records, bytes          prometheus.Counter
	normalised, repaired, recordsLost prometheus.Counter
	undecodableBodies                 prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, sessions, connections, claims func() float64) (*metrics, error) {
	m := &metrics{}
	var errs []error
	register := func(c prometheus.Collector) { errs = append(errs, reg.Register(c)) }
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "muster_agentrpc_" + name, Help: help})
		register(c)
		return c
	}
	vector := func(name, help, label string, values ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "muster_agentrpc_" + name, Help: help}, []string{label})
		register(v)
		for _, value := range values {
			v.WithLabelValues(value) // shown from the start, as 0
		}
		return v
	}
	register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "muster_agentrpc_sessions", Help: "Agents whose stream this node holds."}, sessions))
	register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "muster_agentrpc_connections", Help: "Open connections of agents."}, connections))
	m.messages = counter("messages_total", "Messages received from agents.")
	m.records = counter("records_total", "Records received from agents.")
	m.bytes = counter("received_bytes_total", "Bytes of messages received, decompressed.")
	m.normalised = counter("normalised_records_total", "Records that carried other fields than their three, which were removed.")
	m.repaired = counter("repaired_texts_total", "Host names, versions, products and addresses of agents that were not UTF-8, one count a message; U+FFFD replaced the wrong bytes.")
	m.recordsLost = counter("lost_records_total", "Records received that the record log did not take.")
	m.pushes = counter("pushes_total", "Configs written to agents.")
	m.pushFailures = counter("push_failures_total", "Configs and tasks that could not be written to a stream.")
	m.agentErrors = counter("agent_errors_total", "Error records (1010, 1011) of agents and plugins.")
	m.undecodableBodies = counter("undecodable_bodies_total", "Heartbeats, errors and replies whose body could not be read, or not all of it, or is too large to be kept; they were forwarded.")
	var all []string
	for _, r := range reasons() {
		all = append(all, string(r))
	}
	m.refused = vector("refused_total", "Connections, streams and messages refused.", "reason", all...)
	m.closed = vector("closed_sessions_total", "Sessions closed by this node: a newer stream of the agent here (replaced) or on another node (moved), another node's refusal of this one's claim (outclaimed), or an operator's reset.", "cause", "replaced", "moved", "outclaimed", "reset")
	m.claims = vector("claims_total", "Claims of sessions sent to other nodes; unanswered ones are sent again.", "outcome", "accepted", "refused", "unanswered")
	m.heard = vector("heard_claims_total", "Claims of other nodes: for agents without a session here, with an older one, which was closed, and with a newer one.", "outcome", "no_session", "yielded", "refused")
	m.cloned = counter("cloned_identities_total", "Agent IDs found in use by several hosts (three changes of node within 60 s), one count a minute for each.")
	register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "muster_agentrpc_claims_pending", Help: "Claims of sessions that another node has not answered yet."}, claims))
	m.tasks = vector("tasks_total", "Tasks of agents by what became of their sending.", "outcome", "written", "not_granted", "cancelled", "failed")
	m.results = vector("results_total", "Results of tasks.", "outcome", "stored", "refused", "unknown_token", "repeated", "lost")
	m.reports = vector("reports_total", "Agents reported to the inventory.", "outcome", "stored", "refused", "dropped")
	m.uploads = vector("uploads_total", "Files uploaded by agents.", "outcome", "stored", "failed", "refused")
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return m, nil
}
