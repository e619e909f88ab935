// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"muster/fleet"
	"muster/httpapi"
)

// discarded is a ResponseWriter that costs nothing.
type discarded struct {
	header http.Header
	status int
}

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) Write(b []byte) (int, error) { return len(b), nil }
func (d *discarded) WriteHeader(status int)      { d.status = status }

// BenchmarkRegistryDetail is what an agent's look-up costs above net/http.
func BenchmarkRegistryDetail(b *testing.B) {
	for _, nodes := range []int{1, 50, 200} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			w := newWorld(b)
			w.dir.services, w.dir.members = nil, nil
			for i := range nodes {
				w.dir.members = append(w.dir.members, fleet.Member{
					NodeID: fmt.Sprint("n", i), Alive: true, Started: start, ReportedAt: start,
					AgentAddr: fmt.Sprintf("10.0.0.%d:6751", i%250), Load: fleet.Load{Sessions: uint32(i), Limit: 100, Ready: true},
				})
			}
			h := w.api.Handler(httpapi.ListenerSD)
			r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/registry/detail?name=hids_svr_grpc&count=10", http.NoBody)
			for b.Loop() {
				d := discarded{header: make(http.Header)}
				if h.ServeHTTP(&d, r); d.status != http.StatusOK {
					b.Fatal(d.status)
				}
			}
		})
	}
}
