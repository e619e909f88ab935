// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
)

type metrics struct {
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	refused   *prometheus.CounterVec
	logins    *prometheus.CounterVec
	panics    prometheus.Counter
	touchFail prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_httpapi_requests_total",
			Help: "Requests answered, by method and route of the route table and by class of status.",
		}, []string{"method", "route", "class"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "muster_httpapi_request_duration_seconds",
			Help:    "Time from a request's header to the end of its answer.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10, 30},
		}, []string{"method", "route"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_httpapi_refused_total",
			Help: "Requests refused for their credential or lack of one, by reason.",
		}, []string{"reason"}),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_httpapi_logins_total",
			Help: "Log-ins and checks of a password, by result: ok, failed, throttled.",
		}, []string{"result"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "muster_httpapi_panics_total",
			Help: "Panics of handlers that were recovered from.",
		}),
		touchFail: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "muster_httpapi_token_touch_failures_total",
			Help: "Uses of a token that could not be noted in the replicated state.",
		}),
	}
	for _, result := range []string{"ok", "failed", "throttled"} {
		m.logins.WithLabelValues(result)
	}
	for _, reason := range []string{"signature", "undecided", "forbidden", "throttled", "unauthenticated", "error"} {
		m.refused.WithLabelValues(reason)
	}
	reg.MustRegister(m.requests, m.seconds, m.refused, m.logins, m.panics, m.touchFail)
	return m
}

// refusalLabel is the reason label of a refused credential.
func refusalLabel(err error) string {
	if _, ok := errors.AsType[*signatureRefused](err); ok {
		return "signature"
	}
	if _, ok := errors.AsType[*special](err); ok {
		return "undecided" // no leader could say whether it exists
	}
	switch {
	case errors.Is(err, fleet.ErrForbidden):
		return "forbidden"
	case errors.Is(err, fleet.ErrThrottled):
		return "throttled"
	case errors.Is(err, fleet.ErrUnauthenticated):
		return "unauthenticated"
	}
	return "error"
}
