// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"math"
	"testing"

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
