// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"fmt"
	"strings"
	"testing"

	"muster/fleet"
)

// BenchmarkDesired is what it costs to ask what one of 15,000 agents should run
// and do, while 1,000 tasks run, each for ten of them.
func BenchmarkDesired(b *testing.B) {
	const numAgents, numTasks, perTask = 15_000, 1_000, 10
	n, ctx := lone(b, b.TempDir()), b.Context()
	var inventory []fleet.AgentReport
	ids := make([]string, numAgents)
	for i := range ids {
		ids[i] = fmt.Sprintf("8f1b6b1a-43f5-4b3c-9d7e-%012d", i)
		inventory = append(inventory, fleet.AgentReport{Identity: fleet.Identity{AgentID: ids[i], Hostname: ids[i]}, SeenAt: 1})
	}
	must(b, n.ReportAgents(ctx, inventory))
	var items []fleet.ConfigItem
	for i := range 12 {
		items = append(items, fleet.ConfigItem{
			Name: fmt.Sprint("plugin-", i), Type: "exec", Version: "1.0.0", SHA256: strings.Repeat("0a", 32), Signature: strings.Repeat("0b", 32),
			DownloadURL: []string{"https://packages.example.com/a/plugin.tar.gz", "https://other.example.com/a/plugin.tar.gz"},
		})
	}
	_, err := n.SetDefaultConfig(ctx, fleet.DefaultConfig{Items: items})
	must(b, err)
	_, err = n.TagAgents(ctx, ids[:numAgents/2], []string{"web", "rack-7"}, nil)
	must(b, err)
	for i := range numTasks {
		_, err := n.CreateTask(ctx, newTask(fmt.Sprintf("task-%04d", i)), ids[i*perTask:(i+1)*perTask])
		must(b, err)
	}
	for name, id := range map[string]string{"with a task": ids[0], "without": ids[numAgents-1]} {
		b.Run("dispatch/"+name, func(b *testing.B) {
			for b.Loop() {
				n.PendingDispatch(id)
			}
		})
	}
	b.Run("due/all", func(b *testing.B) {
		for b.Loop() {
			if due := n.Due(ids); len(due) != numTasks*perTask {
				b.Fatal(len(due))
			}
		}
	})
	for name, id := range map[string]string{"with tags": ids[0], "without": ids[numAgents-1]} {
		b.Run("config/"+name, func(b *testing.B) {
			for b.Loop() {
				if d, err := n.Desired(id); err != nil || len(d.Config) == 0 {
					b.Fatal(d, err)
				}
			}
		})
	}
}
