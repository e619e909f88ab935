// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster/fleet"
)

// cpuTime is what this process has used so far.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkReportAgents is what an entry of the log with so many changed reports
// of 2,000 known agents costs.
func BenchmarkReportAgents(b *testing.B) {
	for _, size := range []int{1, 3, 30, 300} {
		b.Run(fmt.Sprintf("reports=%d", size), func(b *testing.B) {
			n, ctx := lone(b, b.TempDir()), b.Context()
			all := make([]fleet.AgentReport, 2000)
			for i := range all {
				id := fmt.Sprintf("8f1b6b1a-43f5-4b3c-9d7e-%012d", i)
				all[i] = fleet.AgentReport{
					Identity: fleet.Identity{AgentID: id, Hostname: "host-" + id, Version: "1.7.0.24", Product: "elkeid-agent", IntranetIPv4: []string{"10.0.0.1", "10.0.0.2"}},
					Facts:    make(map[string]string), Plugins: make(map[string]string), Node: "n1",
				}
				for f := range 12 {
					all[i].Facts[fmt.Sprint("fact_", f)] = strings.Repeat("v", 24)
				}
				for p := range 6 {
					all[i].Plugins[fmt.Sprint("plugin_", p)] = "1.0.0.1"
				}
			}
			must(b, n.ReportAgents(ctx, all))
			next, before := 0, cpuTime(b)
			for b.Loop() {
				batch := make([]fleet.AgentReport, size)
				for i := range batch {
					batch[i] = all[next%len(all)]
					next++
					batch[i].SeenAt = int64(next)
				}
				must(b, n.ReportAgents(ctx, batch))
			}
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N*size), "cpu-us/report")
		})
	}
}
