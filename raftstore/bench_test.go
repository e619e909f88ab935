// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"muster/fleet"
)

// BenchmarkPropose measures acknowledged writes: log and state synced.
func BenchmarkPropose(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			n := lone(b, b.TempDir())
			var next atomic.Int64
			b.SetParallelism(writers) // times GOMAXPROCS
			b.ResetTimer()
			if writers == 1 {
				for b.Loop() {
					reportNext(b, n, &next)
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						reportNext(b, n, &next)
					}
				})
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
		})
	}
}

func reportNext(b *testing.B, n *node, next *atomic.Int64) {
	id := fmt.Sprintf("agent-%08d", next.Add(1))
	if err := n.ReportAgents(b.Context(), []fleet.AgentReport{{Identity: fleet.Identity{AgentID: id, Hostname: id}, SeenAt: 1}}); err != nil {
		b.Error(err)
	}
}
