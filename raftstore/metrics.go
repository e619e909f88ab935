// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
)

type metrics struct {
	applySeconds   prometheus.Histogram
	batchEntries   prometheus.Histogram
	proposals      *prometheus.CounterVec
	refused        *prometheus.CounterVec
	longReads      prometheus.Counter
	resultsIgnored prometheus.Counter
	restores       prometheus.Counter

	all []prometheus.Collector
}

// The label values of proposals.
const (
	outcomeAnswered  = "answered"
	outcomeForwarded = "forwarded"
	outcomeNoLeader  = "no_leader"
	outcomeUnknown   = "unknown"
)

// newMetrics makes the metrics of s; its gauges read s once they are registered.
func newMetrics(s *Store) *metrics {
	const ns, sub = "muster", "raftstore"
	m := &metrics{
		applySeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: ns, Subsystem: sub, Name: "apply_duration_seconds",
			Help:    "Time to apply and sync one batch of log entries.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		batchEntries: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: ns, Subsystem: sub, Name: "batch_entries",
			Help:    "Log entries applied in one transaction.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 8),
		}),
		proposals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "proposals_total",
			Help: "Tries to write by this node, by how they ended.",
		}, []string{"outcome"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "refused_total",
			Help: "Applied commands that were refused, by code.",
		}, []string{"code"}),
		longReads: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "long_reads_total",
			Help: "Read transactions that lasted more than 100 ms.",
		}),
		resultsIgnored: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "task_results_ignored_total",
			Help: "Task results with an unknown token or another agent's.",
		}),
		restores: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "restores_total",
			Help: "Snapshots of other nodes that replaced this node's state.",
		}),
	}
	for _, o := range []string{outcomeAnswered, outcomeForwarded, outcomeNoLeader, outcomeUnknown} {
		m.proposals.WithLabelValues(o)
	}
	m.all = append(m.all, m.applySeconds, m.batchEntries, m.proposals, m.refused, m.longReads, m.resultsIgnored, m.restores)
	gauge := func(name, help string, fn func(fleet.StoreStatus) float64) {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help},
			func() float64 { return fn(s.Status()) }))
	}
	gauge("state_bytes", "Size of the state file.", func(st fleet.StoreStatus) float64 { return float64(st.StateBytes) })
	gauge("is_leader", "1 on the leader.", func(st fleet.StoreStatus) float64 { return oneIf(st.Role == roleLeader) })
	gauge("has_leader", "1 while this node knows a leader.", func(st fleet.StoreStatus) float64 { return oneIf(st.Leader != "") })
	gauge("leader_contact_age_seconds", "How long ago the leader was heard, 0 on the leader.", func(st fleet.StoreStatus) float64 { return float64(st.LeaderContactAgeMS) / 1000 })
	gauge("term", "Term of Raft: it grows with each election.", func(st fleet.StoreStatus) float64 { return float64(st.Term) })
	gauge("last_index", "Index of the last entry of this node's log.", func(st fleet.StoreStatus) float64 { return float64(st.LastIndex) })
	gauge("inventory_agents", "Agents that the fleet knows, connected or not.", func(st fleet.StoreStatus) float64 { return float64(st.Agents) })
	gauge("is_current", "1 while this node may push config and tasks.", func(st fleet.StoreStatus) float64 { return oneIf(st.Current) })
	gauge("is_quarantined", "1 while this node's state differs from the leader's.", func(st fleet.StoreStatus) float64 { return oneIf(st.Quarantined != "") })
	gauge("applied_index", "Index of the last entry applied here.", func(st fleet.StoreStatus) float64 { return float64(st.Applied) })
	for _, state := range []fleet.SubTaskState{fleet.SubTaskPending, fleet.SubTaskSent} {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: ns, Subsystem: sub, Name: "open_subtasks", ConstLabels: prometheus.Labels{"state": string(state)},
			Help: "Agents that running tasks still wait for, by state: not sent yet, and sent without an answer. The same on each node.",
		}, func() float64 { return float64(s.fsm.active.open(state)) }))
	}
	return m
}

// open counts the targets of running tasks that are in a state.
func (a *activeTasks) open(state fleet.SubTaskState) (n uint64) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, t := range a.tasks {
		sets := t.pending
		if state == fleet.SubTaskSent {
			sets = t.sent
		}
		for _, set := range sets {
			n += set.GetCardinality()
		}
	}
	return n
}

func (m *metrics) register(reg prometheus.Registerer) error {
	for _, c := range m.all {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
