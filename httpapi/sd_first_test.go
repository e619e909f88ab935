// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"testing"

	"muster/fleet"
)

// TestFirstIsCounted: what agents are sent to is counted, and what others ask is not.
func TestFirstIsCounted(t *testing.T) {
	w := newWorld(t)
	ask := func(call string, want map[string]float64) {
		t.Helper()
		w.do(call, request{})
		for _, first := range []string{"healthy", "degraded", "full", "draining", "not-ready", "silent", "none"} {
			if got := counterOf(w, "muster_httpapi_sd_answers_total", first); got != want[first] {
				t.Errorf("after %s: %v answers with a %s one first, want %v", call, got, first, want[first])
			}
		}
	}
	const detail = "GET /registry/detail?name=hids_svr_grpc&count=10"
	ask(detail, map[string]float64{"healthy": 1})
	ask("GET /registry/fetch?name=hids_svr_grpc", map[string]float64{"healthy": 2})
	ask("GET /registry/fetch?name=hids_svr_grpc&mode=max", map[string]float64{"healthy": 2})
	ask("GET /registry/detail?name=hids_svr_http", map[string]float64{"healthy": 2})
	ask("GET /registry/detail", map[string]float64{"healthy": 2})
	w.dir.members[0].Load.KafkaAway = true
	ask(detail, map[string]float64{"healthy": 2, "degraded": 1})
	w.dir.members[0].Load.Sessions = 100
	ask(detail, map[string]float64{"healthy": 2, "degraded": 1, "full": 1})
	w.dir.members[0].Load.Draining = true
	ask(detail, map[string]float64{"healthy": 2, "degraded": 1, "full": 1, "draining": 1})
	w.dir.members[0].Load.Ready = false
	ask(detail, map[string]float64{"healthy": 2, "degraded": 1, "full": 1, "draining": 1, "not-ready": 1})
	w.pass(fleet.MaxLoadAge + 1)
	ask(detail, map[string]float64{"healthy": 2, "degraded": 1, "full": 1, "draining": 1, "not-ready": 1, "silent": 1})
	w.dir.members = nil
	ask(detail, map[string]float64{"healthy": 2, "degraded": 1, "full": 1, "draining": 1, "not-ready": 1, "silent": 1, "none": 1})
}
