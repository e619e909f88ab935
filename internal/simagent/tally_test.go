// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"muster/internal/agentpb"
	"muster/internal/simagent"
)

func numbered(run string, seq uint64) []byte {
	body, err := proto.Marshal(&agentpb.Item{Fields: map[string]string{
		"exe": "/bin/true", "sim_run": run, "sim_seq": strconv.FormatUint(seq, 10),
	}})
	if err != nil {
		panic(err)
	}
	return body
}

// TestTallyAgainstModel feeds random deliveries and compares with plain counting.
func TestTallyAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tally := simagent.NewTally("r")
		type model struct {
			seen map[uint64]int
			last uint64
			late uint64
		}
		agents := map[string]*model{}
		for range rapid.IntRange(0, 200).Draw(t, "deliveries") {
			id := fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "agent"))
			seq := rapid.Uint64Range(1, 150).Draw(t, "seq")
			run := rapid.SampledFrom([]string{"r", "r", "r", "other"}).Draw(t, "run")
			if tally.Add(id, numbered(run, seq)) != (run == "r") {
				t.Fatalf("run %q: taken or not, wrongly", run)
			}
			if run != "r" {
				continue
			}
			m := agents[id]
			if m == nil {
				m = &model{seen: map[uint64]int{}}
				agents[id] = m
			}
			if m.seen[seq] == 0 && seq < m.last {
				m.late++
			}
			m.seen[seq]++
			m.last = max(m.last, seq)
		}
		expected := rapid.Uint64Range(0, 200).Draw(t, "expected")
		tally.Expect("0", expected)
		var total simagent.Counts
		for id, m := range agents {
			want := simagent.Counts{Received: uint64(len(m.seen)), OutOfOrder: m.late}
			end := m.last
			if id == "0" {
				end = max(end, expected)
			}
			want.Lost = end - want.Received
			var lost []uint64
			for seq := uint64(1); seq <= end; seq++ {
				if m.seen[seq] == 0 {
					lost = append(lost, seq)
				}
			}
			for _, n := range m.seen {
				want.Duplicates += uint64(n - 1)
			}
			if got := tally.Agent(id); got != want {
				t.Fatalf("agent %s: %+v, want %+v", id, got, want)
			}
			if got := tally.LostNumbers(id, 1000); !slices.Equal(got, lost) {
				t.Fatalf("agent %s: lost %v, want %v", id, got, lost)
			}
			if missing := slices.Contains(tally.Missing(10), id); missing != (want.Lost > 0) {
				t.Fatalf("agent %s is among the missing: %v", id, missing)
			}
			total.Received += want.Received
		}
		if got := tally.Total(); got.Received != total.Received {
			t.Fatalf("total %+v, want %d received", got, total.Received)
		}
	})
}

func TestTallyPassesOverOthers(t *testing.T) {
	tally := simagent.NewTally("")
	for name, body := range map[string][]byte{
		"empty":      nil,
		"garbage":    []byte("\xff\xff\xff"),
		"zero":       numbered("r", 0),
		"huge":       numbered("r", 1<<40),
		"not a body": []byte("hello, world"),
	} {
		if tally.Add("a", body) {
			t.Errorf("%s was counted", name)
		}
	}
	if got := tally.Total(); got != (simagent.Counts{}) {
		t.Errorf("total %+v", got)
	}
}

func BenchmarkTally(b *testing.B) {
	tally := simagent.NewTally("r")
	body := numbered("r", 4711)
	b.ReportAllocs()
	for b.Loop() {
		tally.Add("agent", body)
	}
}

// FuzzTally: what the generated code reads as a numbered record is one, and
// nothing else is.
func FuzzTally(f *testing.F) {
	f.Add(numbered("r", 1))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		taken := simagent.NewTally("").Add("a", body)
		var item agentpb.Item
		if taken && proto.Unmarshal(body, &item) == nil && item.GetFields()["sim_seq"] == "" {
			t.Fatalf("counted %q, which has no number", body)
		}
	})
}
