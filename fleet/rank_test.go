// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"muster/fleet"
)

var rankNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// node is a healthy member with the given streams of a limit of 100.
func node(id string, sessions uint32, change ...func(*fleet.Member)) fleet.Member {
	m := fleet.Member{
		NodeID: id, Alive: true, ReportedAt: rankNow.Add(-time.Second),
		Load: fleet.Load{Sessions: sessions, Limit: 100, Ready: true},
	}
	for _, c := range change {
		c(&m)
	}
	return m
}

func draining(m *fleet.Member)   { m.Load.Draining = true }
func unready(m *fleet.Member)    { m.Load.Ready = false }
func kafkaless(m *fleet.Member)  { m.Load.KafkaAway = true }
func leaderless(m *fleet.Member) { m.Load.Leaderless = true }
func silent(m *fleet.Member)     { m.ReportedAt = rankNow.Add(-3*time.Second - 1) }
func neverHeard(m *fleet.Member) { m.ReportedAt = time.Time{} }
func dead(m *fleet.Member)       { m.Alive = false }
func limitless(m *fleet.Member)  { m.Load.Limit = 0 }

func ids(members []fleet.Member) []string {
	names := []string{}
	for _, m := range members {
		names = append(names, m.NodeID)
	}
	return names
}

// known is what a node knows that has handed out by NodeID.
func known(members []fleet.Member, handed map[string]float64) fleet.Known {
	return fleet.Known{HandedOut: func(i int) float64 { return handed[members[i].NodeID] }, Now: rankNow}
}

// rank is fleet.Rank with members for their indices.
func rank(members []fleet.Member, known fleet.Known, count int) []fleet.Member {
	ranked := []fleet.Member{}
	for _, i := range fleet.Rank(members, known, count) {
		ranked = append(ranked, members[i])
	}
	return ranked
}

func TestRank(t *testing.T) {
	for name, tt := range map[string]struct {
		members []fleet.Member
		handed  map[string]float64
		askers  float64
		count   int
		want    []string
	}{
		"nobody":            {want: []string{}},
		"the dead are gone": {members: []fleet.Member{node("a", 1, dead)}, want: []string{}},
		"least filled first": {
			members: []fleet.Member{node("a", 50), node("b", 10), node("c", 30)},
			want:    []string{"b", "c", "a"},
		},
		"share of the limit, not streams": {
			members: []fleet.Member{node("small", 60), node("big", 400, func(m *fleet.Member) { m.Load.Limit = 1000 })},
			want:    []string{"big", "small"},
		},
		"count": {
			members: []fleet.Member{node("a", 50), node("b", 10), node("c", 30)}, count: 2,
			want: []string{"b", "c"},
		},
		"handed out counts": {
			members: []fleet.Member{node("a", 10), node("b", 20)}, handed: map[string]float64{"a": 11},
			want: []string{"b", "a"},
		},
		"handed out counts for each asker": {
			members: []fleet.Member{node("a", 10), node("b", 20)}, handed: map[string]float64{"a": 3}, askers: 5,
			want: []string{"b", "a"},
		},
		"what was handed out wears off": {
			members: []fleet.Member{node("a", 10), node("b", 20)}, handed: map[string]float64{"a": 1.5}, askers: 5,
			want: []string{"a", "b"},
		},
		"handed out fills": {
			members: []fleet.Member{node("a", 99), node("b", 99)}, handed: map[string]float64{"a": 1},
			want: []string{"b"},
		},
		"useless ones are left out": {
			members: []fleet.Member{
				node("full", 100), node("draining", 1, draining), node("unready", 1, unready), node("silent", 1, silent),
				node("unheard", 0, neverHeard), node("limitless", 0, limitless), node("good", 99),
			},
			want: []string{"good"},
		},
		"degraded ones come last but come": {
			members: []fleet.Member{node("a", 1, leaderless), node("b", 2, kafkaless), node("c", 90)},
			want:    []string{"c", "a", "b"},
		},
		"degraded is better than full": {
			members: []fleet.Member{node("a", 100), node("b", 2, kafkaless, leaderless)},
			want:    []string{"b"},
		},
		"the least bad when all are bad": {
			members: []fleet.Member{
				node("silent", 0, silent), node("unready", 1, unready), node("draining", 1, draining),
				node("over", 130), node("full", 101), node("dead", 0, dead),
			},
			want: []string{"full", "over", "draining", "unready", "silent"},
		},
		"a report of 3 s is young enough": {
			members: []fleet.Member{node("a", 1, func(m *fleet.Member) { m.ReportedAt = rankNow.Add(-3 * time.Second) }), node("b", 2)},
			want:    []string{"a", "b"},
		},
		"without chance, names decide ties": {
			members: []fleet.Member{node("b", 1), node("a", 1)},
			want:    []string{"a", "b"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := slices.Clone(tt.members)
			k := known(tt.members, tt.handed)
			k.Askers = tt.askers
			got := rank(tt.members, k, tt.count)
			if diff := cmp.Diff(tt.want, ids(got)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(before, tt.members); diff != "" {
				t.Errorf("the input was changed: %s", diff)
			}
		})
	}
}

func TestNearTiesAreSpread(t *testing.T) {
	first := map[string]int{}
	members := []fleet.Member{node("a", 50), node("b", 51), node("c", 56)}
	k := fleet.Known{Askers: 5, Now: rankNow, Rnd: rand.New(rand.NewPCG(1, 2))}
	for range 1000 {
		first[rank(members, k, 1)[0].NodeID]++
	}
	if first["a"] < 550 || first["b"] < 100 || first["c"] != 0 {
		t.Errorf("first of 1000: %v; want mostly a, sometimes b, never c, which has 6 more while 5 nodes are asked", first)
	}
}

func anyRanked() *rapid.Generator[fleet.Member] {
	return rapid.Custom(func(t *rapid.T) fleet.Member {
		limit := rapid.Uint32Range(0, 200).Draw(t, "limit")
		return fleet.Member{
			NodeID:     fmt.Sprint("n", rapid.Uint16().Draw(t, "id")),
			Alive:      rapid.IntRange(0, 9).Draw(t, "alive") > 0,
			ReportedAt: rankNow.Add(-time.Duration(rapid.IntRange(0, 5000).Draw(t, "age")) * time.Millisecond),
			Load: fleet.Load{
				Sessions:   rapid.Uint32Range(0, limit+limit/4).Draw(t, "sessions"),
				Limit:      limit,
				Ready:      rapid.IntRange(0, 9).Draw(t, "ready") > 0,
				Draining:   rapid.IntRange(0, 9).Draw(t, "draining") == 0,
				KafkaAway:  rapid.IntRange(0, 9).Draw(t, "kafka") == 0,
				Leaderless: rapid.IntRange(0, 9).Draw(t, "leader") == 0,
			},
		}
	})
}

func takesAgents(m fleet.Member, handed float64) bool {
	return m.Alive && m.Load.Ready && !m.Load.Draining && rankNow.Sub(m.ReportedAt) <= 3*time.Second && m.Fill(handed) < 1
}

func healthy(m fleet.Member) bool { return !m.Load.KafkaAway && !m.Load.Leaderless }

func TestRankLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := rapid.SliceOfNDistinct(anyRanked(), 0, 20, func(m fleet.Member) string { return m.NodeID }).Draw(t, "members")
		k := fleet.Known{
			Askers: rapid.SampledFrom([]float64{1, 2, 8}).Draw(t, "askers"), Now: rankNow,
			Rnd: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)),
		}
		handed := map[string]float64{}
		for _, m := range members {
			handed[m.NodeID] = float64(rapid.IntRange(0, 20).Draw(t, "handed")) // by all askers
		}
		k.HandedOut = func(i int) float64 { return handed[members[i].NodeID] / k.Askers }
		count := rapid.IntRange(0, 25).Draw(t, "count")
		got := rank(members, k, count)

		alive := slices.ContainsFunc(members, func(m fleet.Member) bool { return m.Alive })
		able := slices.ContainsFunc(members, func(m fleet.Member) bool { return takesAgents(m, handed[m.NodeID]) })
		if alive != (len(got) > 0) {
			t.Fatalf("alive %v, but %d listed", alive, len(got))
		}
		if count > 0 && len(got) > count {
			t.Fatalf("%d listed, asked for %d", len(got), count)
		}
		for i, m := range got {
			if !m.Alive {
				t.Fatalf("%s is dead", m.NodeID)
			}
			if able && !takesAgents(m, handed[m.NodeID]) {
				t.Fatalf("%s is listed while others can take agents", m.NodeID)
			}
			if i == 0 || !able {
				continue
			}
			prev := got[i-1]
			if healthy(m) && !healthy(prev) {
				t.Fatalf("%s is healthy, but behind %s", m.NodeID, prev.NodeID)
			}
			if healthy(m) == healthy(prev) && prev.Fill(handed[prev.NodeID]) > m.Fill(handed[m.NodeID]+k.Askers) {
				t.Fatalf("%s is listed before the emptier %s", prev.NodeID, m.NodeID)
			}
		}
		if count == 0 && able {
			for _, m := range members {
				if takesAgents(m, handed[m.NodeID]) && !slices.Contains(ids(got), m.NodeID) {
					t.Fatalf("%s is missing", m.NodeID)
				}
			}
		}
	})
}

// BenchmarkRank is most of what an answer of service discovery costs.
func BenchmarkRank(b *testing.B) {
	for _, nodes := range []int{5, 50, 200} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			members, handed := make([]fleet.Member, nodes), make([]fleet.HandOuts, nodes)
			for i := range members {
				members[i] = node(fmt.Sprint("n", i), uint32(i*37%nodes))
				members[i].Load.Limit = 20_000
			}
			k := fleet.Known{
				HandedOut: func(i int) float64 { return handed[i].Outstanding() },
				Askers:    float64(nodes), Now: rankNow, Rnd: rand.New(rand.NewPCG(1, 2)),
			}
			for b.Loop() {
				handed[fleet.Rank(members, k, 10)[0]].Add(rankNow)
			}
		})
	}
}
