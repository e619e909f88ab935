// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Values of the label side: who opened the connection.
const (
	sideAccepted = "accepted"
	sideDialled  = "dialled"
)

// Values of the label outcome.
const (
	outcomeOK          = "ok"
	outcomeNotLeader   = "not_leader"
	outcomeRefused     = "refused"
	outcomeUnavailable = "unavailable"
	outcomeTimeout     = "timeout"
	outcomeFailed      = "failed"
)

// metrics count what this package does. No label names a node or a host.
type metrics struct {
	connections *prometheus.CounterVec   // by side and protocol
	refused     *prometheus.CounterVec   // by side and reason
	asks        *prometheus.CounterVec   // by what and outcome
	calls       *prometheus.HistogramVec // by method and outcome
}

func newMetrics(reg prometheus.Registerer, open func(proto string) float64) (*metrics, error) {
	m := &metrics{
		connections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_peerrpc_connections_total", Help: "Connections between members that both sides welcomed.",
		}, []string{"side", "protocol"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_peerrpc_refused_total", Help: "Connections that this node or the other one refused.",
		}, []string{"side", "reason"}),
		asks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_peerrpc_asks_total", Help: "Certificates and promises that nodes asked this one for.",
		}, []string{"what", "outcome"}),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "muster_peerrpc_call_duration_seconds", Help: "Calls to other members, by outcome.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"method", "outcome"}),
	}
	errs := []error{reg.Register(m.connections), reg.Register(m.refused), reg.Register(m.asks), reg.Register(m.calls)}
	for _, proto := range []string{protoRaft, protoPeer, protoKafka} {
		errs = append(errs, reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "muster_peerrpc_open_connections", Help: "Open connections with other members.",
			ConstLabels: prometheus.Labels{"protocol": proto},
		}, func() float64 { return open(proto) })))
		for _, side := range []string{sideAccepted, sideDialled} {
			m.connections.WithLabelValues(side, proto)
		}
	}
	for _, why := range reasons() {
		m.refused.WithLabelValues(sideAccepted, string(why)) // shown from the start, as 0
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return m, nil
}
