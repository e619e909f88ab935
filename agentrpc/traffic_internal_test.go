// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"math"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
)

// TestKinds wants a name of its own for each kind, and each data type that the
// AgentCenter acts on, and no other, to be notable.
func TestKinds(t *testing.T) {
	seen := make(map[string]bool)
	for k, name := range kindNames() {
		if name == "" || seen[name] {
			t.Errorf("kind %d: the name %q is missing or not its own", k, name)
		}
		seen[name] = true
	}
	acted := map[fleet.DataType]bool{
		fleet.DataTypeHeartbeat: true, fleet.DataTypePluginHeartbeat: true, fleet.DataTypeAgentError: true, fleet.DataTypePluginError: true,
	}
	kinds := make(map[kind]bool)
	for d := fleet.DataType(-10_000); d < 100_000; d++ {
		k := kindOf(d)
		if want := acted[d] || d.IsTaskReply(); k.isNotable() != want {
			t.Errorf("data type %d is notable: %v", d, !want)
		}
		if k != kindOther && kinds[k] {
			t.Errorf("data type %d shares its kind %d", d, k)
		}
		kinds[k] = true
	}
	if len(kinds) != int(kindCount) {
		t.Errorf("%d kinds of %d have a data type", len(kinds), kindCount)
	}
	for _, d := range []fleet.DataType{math.MinInt32, math.MaxInt32} {
		if k := kindOf(d); k != kindOther {
			t.Errorf("data type %d is of kind %d", d, k)
		}
	}
}

// TestLanesAddUp counts in more lanes than there are, at once and while others
// read, and wants the sum to be exact.
func TestLanesAddUp(t *testing.T) {
	reg := prometheus.NewRegistry()
	r := &registrar{reg: reg}
	tr := newTraffic(r)
	const counters, each = 40, 50
	var counting sync.WaitGroup
	for i := range counters {
		m := &message{lane: tr.lane()}
		m.tally.add(kindExecve, 600)
		m.normalised = i % 2
		counting.Go(func() {
			for range each {
				m.lane.count(m, 1<<10, i%4 > 0)
				if i%4 == 0 {
					m.lane.waited(20 * time.Millisecond)
				}
			}
			_ = tr.sum()
		})
	}
	counting.Wait()
	want := counts{bytes: counters * each << 10, normalised: counters * each / 2, delay: counters / 4 * each * 20 * time.Millisecond}
	want.kinds[kindExecve].records, want.kinds[kindExecve].bytes = counters*each, counters*each*600
	want.sizes[1] = counters * each // a bound is within its bucket
	want.waits[0], want.waits[2] = counters*each*3/4, counters*each/4
	if got := tr.sum(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	families, err := reg.Gather()
	if err != nil || len(families) != 10 {
		t.Fatalf("%d families, %v", len(families), err)
	}
	for _, f := range families {
		if f.GetName() != "muster_agentrpc_append_seconds" {
			continue
		}
		h := f.GetMetric()[0].GetHistogram()
		if b := h.GetBucket(); h.GetSampleCount() != counters*each || b[1].GetCumulativeCount() != counters*each*3/4 || b[2].GetCumulativeCount() != counters*each || b[2].GetUpperBound() != .02 {
			t.Errorf("append_seconds: %v", h)
		}
	}
}

// BenchmarkCount is what counting costs for each message, however many records
// it holds.
func BenchmarkCount(b *testing.B) {
	r := &registrar{reg: prometheus.NewRegistry()}
	tr := newTraffic(r)
	m := &message{lane: tr.lane()}
	raw := typical(b)
	if err := m.parse(raw, nil); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		m.lane.count(m, len(raw), true)
	}
}
