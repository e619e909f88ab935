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
	streams   prometheus.Gauge
	ended     *prometheus.CounterVec
	sdFirst   map[string]prometheus.Counter // by Member.Standing; never changed
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
	m.newStreamMetrics()
	sdAnswers := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "muster_httpapi_sd_answers_total",
		Help: "Answers to agents that look for a node, by what the first one in it is: healthy, degraded, full, draining, not-ready, silent, none.",
	}, []string{"first"})
	m.sdFirst = make(map[string]prometheus.Counter)
	for _, standing := range []string{
		fleet.StandingHealthy, fleet.StandingDegraded, fleet.StandingFull, fleet.StandingDraining,
		fleet.StandingNotReady, fleet.StandingSilent, standingNone,
	} {
		m.sdFirst[standing] = sdAnswers.WithLabelValues(standing)
	}
	for _, result := range []string{"ok", "failed", "throttled"} {
		m.logins.WithLabelValues(result)
	}
	for _, reason := range []string{"signature", "undecided", "forbidden", "throttled", "unauthenticated", "error"} {
		m.refused.WithLabelValues(reason)
	}
	reg.MustRegister(m.requests, m.seconds, m.refused, m.logins, m.panics, m.touchFail, m.streams, m.ended, sdAnswers)
	return m
}

// newStreamMetrics adds those of event streams.
func (m *metrics) newStreamMetrics() {
	m.streams = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "muster_httpapi_streams",
		Help: "Event streams that are open.",
	})
	m.ended = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "muster_httpapi_streams_ended_total",
		Help: "Event streams that have ended, by reason: gone (the reader), slow (the reader was, and was cut off), credential, not_ready (the node's state), stopping, failed.",
	}, []string{"reason"})
	for _, reason := range []string{streamGone, streamSlow, streamCredential, streamNotReady, streamStopping, streamFailed} {
		m.ended.WithLabelValues(reason)
	}
}

// standingNone is an answer without any node.
const standingNone = "none"

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
