// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"muster/fleet"
	"muster/httpapi"
)

// BenchmarkAgents is what the two lists that operators ask for cost with
// 10,000 agents.
func BenchmarkAgents(b *testing.B) {
	for name, call := range map[string][2]string{
		"first page":    {"GET", "/api/v1/agent/getStatus"},
		"filter":        {"POST", "/api/v1/agent/getStatus/filter"},
		"filter sorted": {"POST", "/api/v1/agent/getStatus/filter?order_key=cpu&order_value=-1"},
	} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b)
			fill(w, 10000)
			for b.Loop() {
				r := httptest.NewRequestWithContext(b.Context(), call[0], call[1],
					strings.NewReader(`{"filter":[{"key":"cpu","rules":[{"operator":"$gt","value":0}]},{"key":"hostname","rules":[{"operator":"$regex","value":"9$"}]}]}`))
				r.Header.Set("token", token(fleet.RoleViewer))
				rec := httptest.NewRecorder()
				w.api.Handler(httpapi.ListenerHTTPS).ServeHTTP(rec, r)
				if rec.Code != 200 {
					b.Fatal(rec.Body)
				}
			}
		})
	}
}
