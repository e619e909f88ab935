// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Why a message of another node was ignored.
const (
	reasonMalformed    = "malformed"
	reasonUnknownKind  = "unknown_kind"
	reasonUnknownNode  = "unknown_node"
	reasonStale        = "stale"
	reasonRegistryFull = "registry_full"
	reasonTooManyNodes = "too_many_nodes"
	reasonOtherKey     = "other_key"
	reasonBusy         = "busy"
)

type metrics struct {
	members      prometheus.Gauge
	services     prometheus.Gauge
	ignored      *prometheus.CounterVec
	asked        prometheus.Counter
	joinFailures prometheus.Counter
	sendFailures prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	factory := promauto.With(reg)
	m := &metrics{
		members: factory.NewGauge(prometheus.GaugeOpts{
			Name: "muster_gossip_members", Help: "Live nodes that this one knows, itself included.",
		}),
		services: factory.NewGauge(prometheus.GaugeOpts{
			Name: "muster_gossip_services", Help: "Registrations of other services, those that ended in the last minutes included.",
		}),
		ignored: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_gossip_ignored_messages_total", Help: "Messages of other nodes that were not used.",
		}, []string{"reason"}),
		asked: factory.NewCounter(prometheus.CounterOpts{
			Name: "muster_gossip_asked_reports_total", Help: "Load reports that did not come in time and were asked for: packets are being lost, or a node is silent.",
		}),
		joinFailures: factory.NewCounter(prometheus.CounterOpts{
			Name: "muster_gossip_join_failures_total", Help: "Rounds in which none of the missing nodes could be joined.",
		}),
		sendFailures: factory.NewCounter(prometheus.CounterOpts{
			Name: "muster_gossip_send_failures_total", Help: "Packets that could not be sent to a node.",
		}),
	}
	for _, reason := range []string{reasonMalformed, reasonUnknownKind, reasonUnknownNode, reasonStale, reasonRegistryFull, reasonTooManyNodes, reasonOtherKey, reasonBusy} {
		m.ignored.WithLabelValues(reason) // shown from the start, as 0
	}
	return m
}

// ignore counts a message that was not used; an empty reason is none.
func (m *metrics) ignore(reason string) {
	if reason != "" {
		m.ignored.WithLabelValues(reason).Inc()
	}
}
