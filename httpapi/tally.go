// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// tally counts the finished requests of one route. Its series appear with the
// first request, and are looked up once: that costs more than to count.
type tally struct {
	metrics       *metrics
	method, route string // from the route table, never from the client
	seconds       atomic.Pointer[prometheus.Observer]
	classes       [6]atomic.Pointer[prometheus.Counter] // by the status' first digit
}

func (m *metrics) tally(method, route string) *tally {
	return &tally{metrics: m, method: method, route: route}
}

// observe counts one, and how long it took; status 0 is a handler that wrote
// nothing.
func (t *tally) observe(status int, took time.Duration) {
	seconds := t.seconds.Load()
	if seconds == nil {
		found := t.metrics.seconds.WithLabelValues(t.method, t.route)
		seconds = &found
		t.seconds.Store(seconds)
	}
	(*seconds).Observe(took.Seconds())
	t.count(status)
}

func (t *tally) count(status int) {
	if status == 0 {
		status = http.StatusOK
	}
	digit := min(status/100, len(t.classes)-1)
	class := t.classes[digit].Load()
	if class == nil {
		found := t.metrics.requests.WithLabelValues(t.method, t.route, strconv.Itoa(digit)+"xx")
		class = &found
		t.classes[digit].Store(class)
	}
	(*class).Inc()
}
