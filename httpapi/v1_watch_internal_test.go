// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"muster/internal/apiv1"
)

// boards draws what a stream may see one after the other.
func boards(t *rapid.T) []apiv1.Node {
	var nodes []apiv1.Node
	for i := range 6 {
		if !rapid.Bool().Draw(t, "there") {
			continue
		}
		id := fmt.Sprintf("n%d~%d", i, rapid.IntRange(0, 1).Draw(t, "disk"))
		nodes = append(nodes, apiv1.Node{
			Name: fmt.Sprintf("n%d", i), ServerID: id, State: rapid.SampledFrom([]string{"ready", "dead", "draining"}).Draw(t, "state"),
			Degraded: rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 0, 2).Draw(t, "degraded"), Draining: rapid.Bool().Draw(t, "mark"),
			Load: apiv1.NodeLoad{Sessions: rapid.Uint32Range(0, 2).Draw(t, "sessions")}, FairShare: float64(rapid.IntRange(0, 2).Draw(t, "share")),
			ReportedAt: time.Unix(int64(rapid.IntRange(0, 3).Draw(t, "report")), 0), Applied: rapid.Uint64Range(0, 3).Draw(t, "applied"),
		})
	}
	return nodes
}

// TestNodeChanges: who knows a board and is told the changes knows the next one,
// but for what is no change; and each node is in one change at most.
func TestNodeChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, after := boards(t), boards(t)
		known := map[string]apiv1.Node{}
		for _, n := range before {
			known[boardKey(&n)] = n
		}
		told := map[string]bool{}
		for _, c := range nodeChanges(before, after) {
			key := boardKey(&c.Node)
			if told[key] {
				t.Fatalf("%s is told twice", key)
			}
			told[key] = true
			_, there := known[key]
			if there == (c.Change == "joined") {
				t.Fatalf("%s has %s, known: %t", key, c.Change, there)
			}
			if known[key] = c.Node; c.Change == "left" {
				delete(known, key)
			}
		}
		var got []apiv1.Node
		for _, n := range known {
			got = append(got, n)
		}
		slices.SortFunc(got, func(x, y apiv1.Node) int { return compareText(boardKey(&x), boardKey(&y)) })
		if diff := cmp.Diff(plain(after), plain(got)); diff != "" {
			t.Fatalf("after the changes (-is +known):\n%s", diff)
		}
		if same := nodeChanges(after, slices.Clone(after)); len(same) > 0 {
			t.Fatalf("nothing has changed: %v", same)
		}
	})
}

func compareText(x, y string) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// plain leaves out what is no change.
func plain(nodes []apiv1.Node) []apiv1.Node {
	nodes = append([]apiv1.Node{}, nodes...)
	for i := range nodes {
		nodes[i].ReportedAt, nodes[i].Applied = time.Time{}, 0
		if nodes[i].State == "dead" {
			nodes[i].Degraded = nil
		}
	}
	return nodes
}

// BenchmarkStream is what one stream costs each second while all of 200 nodes
// change, beside the list that all streams share.
func BenchmarkStream(b *testing.B) {
	var boards [2][]apiv1.Node
	for i := range 200 {
		for k := range boards {
			boards[k] = append(boards[k], apiv1.Node{
				Name: fmt.Sprintf("node-%03d", i), ServerID: fmt.Sprintf("node-%03d~0123abcd", i), State: "ready", Role: "voter", Kafka: "ok", Version: "1.0.0",
				Degraded: []string{}, WhyNot: []string{"it is not draining: agents may be sent to it", "it holds 5000 agents"}, FairShare: 5000.3,
				Load:      apiv1.NodeLoad{Sessions: uint32(5000 + k), Limit: 20000, RecordsPerSecond: 100_000, CPUPermille: 333},
				Addresses: apiv1.Addresses{Agents: "192.0.2.1:6751", HTTP: "192.0.2.1:6701", HTTPS: "192.0.2.1:6752", SD: "192.0.2.1:8088", Node: "192.0.2.1:6760"},
			})
		}
	}
	s := &eventStream{}
	for b.Loop() {
		for _, c := range nodeChanges(boards[0], boards[1]) {
			if err := s.event("node", c); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(s.out.Len()), "bytes/op")
		s.out.Reset()
	}
}
