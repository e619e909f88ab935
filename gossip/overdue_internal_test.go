// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"muster/fleet"
)

func anyName() *rapid.Generator[string] { return rapid.StringN(0, 255, 255) }

func TestQuestionsAndReportsComeThrough(t *testing.T) {
	opts := cmp.AllowUnexported(question{}, wanted{}, known{})
	rapid.Check(t, func(t *rapid.T) {
		q := question{asker: anyName().Draw(t, "asker")}
		for range rapid.IntRange(0, 4).Draw(t, "wanted") {
			q.nodes = append(q.nodes, wanted{anyName().Draw(t, "node"), rapid.Uint64().Draw(t, "sequence")})
		}
		b := encodeQuestion(q)
		got, err := decodeQuestion(b[1:])
		if diff := cmp.Diff(q, got, opts); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
		want := []known{}
		b = nil
		for range rapid.IntRange(1, 4).Draw(t, "reports") {
			k := known{
				node: anyName().Draw(t, "node"),
				load: fleet.Load{Sessions: rapid.Uint32().Draw(t, "sessions"), Sequence: rapid.Uint64().Draw(t, "sequence")},
				age:  time.Duration(rapid.IntRange(0, 65535).Draw(t, "age")) * time.Millisecond,
			}
			before := len(b)
			b = appendReport(b, k)
			if len(b)-before != reportBytes(k) {
				t.Fatalf("%d bytes, counted as %d", len(b)-before, reportBytes(k))
			}
			want = append(want, k)
		}
		reports, err := decodeReports(b)
		if diff := cmp.Diff(want, reports, opts); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
		cut := rapid.IntRange(1, len(b)-1).Draw(t, "cut")
		if reports, err = decodeReports(b[:cut]); err == nil && len(reports) >= len(want) || err != nil && !errors.Is(err, fleet.ErrInvalid) {
			t.Fatalf("cut after %d of %d bytes: %d reports, %v", cut, len(b), len(reports), err)
		}
	})
}

func TestAQuestionFitsAPacket(t *testing.T) {
	q := question{asker: "asker"}
	for i := range 1000 {
		q.nodes = append(q.nodes, wanted{fmt.Sprint(strings.Repeat("n", 50), i), 1})
	}
	b := encodeQuestion(q)
	got, err := decodeQuestion(b[1:])
	if err != nil || len(b) > maxBundleBytes || len(got.nodes) < 15 {
		t.Errorf("%d bytes, %d nodes, %v", len(b), len(got.nodes), err)
	}
}

// A report of another node is as old as that one says, and never replaces a
// newer one; what is overdue is asked for until it counts as silent.
func TestReportsOfOthers(t *testing.T) {
	v := newView(fleet.Member{NodeID: "self"}, ProfileLAN)
	for _, id := range []string{"a", "b", "quiet", "leaving"} {
		v.setAlive(fleet.Member{NodeID: id}, v.nodes["self"].addr)
	}
	at := func(ms int) time.Time { return testNow.Add(time.Duration(ms) * time.Millisecond) }
	for _, id := range []string{"self", "a", "b", "leaving"} {
		v.setLoad(id, fleet.Load{Sequence: 5}, at(0))
	}
	v.setLeaving("leaving")
	v.setLoad("b", fleet.Load{Sequence: 6}, at(1000))
	for _, tt := range []struct {
		ms   int
		want []wanted
	}{{1250, nil}, {1251, []wanted{{"a", 5}}}, {2251, []wanted{{"a", 5}, {"b", 6}}}, {3001, []wanted{{"b", 6}}}, {4001, nil}} {
		got := v.overdue(at(tt.ms), askAfter)
		slices.SortFunc(got, func(x, y wanted) int { return strings.Compare(x.node, y.node) })
		if !slices.Equal(got, tt.want) {
			t.Errorf("overdue after %d ms: %v, want %v", tt.ms, got, tt.want)
		}
	}
	asked := []wanted{{"a", 5}, {"b", 5}, {"self", 4}, {"quiet", 0}, {"leaving", 1}, {"nobody", 1}}
	opts := cmp.AllowUnexported(known{})
	if diff := cmp.Diff([]known{{"b", fleet.Load{Sequence: 6}, time.Second}, {"self", fleet.Load{Sequence: 5}, 2 * time.Second}}, v.newer(asked, at(2000)), opts); diff != "" {
		t.Error(diff)
	}
	if got := v.newer(asked, at(4001)); got != nil {
		t.Errorf("reports that are too old are told: %v", got)
	}
	if v.setLoad("a", fleet.Load{Sequence: 6}, at(500)); v.nodes["a"].member.ReportedAt != at(500) {
		t.Error("the age of a report of another node is lost")
	}
	if got := v.setLoad("a", fleet.Load{Sequence: 6}, at(2000)); got != reasonStale || v.nodes["a"].member.ReportedAt != at(500) {
		t.Error("the same report counts as new")
	}
}

// A death that memberlist tells is not believed while reports come, for a while.
func TestDoubtedDeaths(t *testing.T) {
	v := newView(fleet.Member{NodeID: "self"}, ProfileLAN)
	now := testNow
	report := func(id string) { v.setLoad(id, fleet.Load{Sequence: uint64(now.UnixMilli())}, now) }
	for _, id := range []string{"back", "dies", "deaf", "silent"} {
		v.setAlive(fleet.Member{NodeID: id}, v.nodes["self"].addr)
		report(id)
	}
	if got := v.setGone("silent", now.Add(fleet.MaxLoadAge+1)); got != fateDead {
		t.Fatalf("silent: %v", got)
	}
	if got := v.setGone("silent", now.Add(fleet.MaxLoadAge+1)); got != fateNone {
		t.Fatalf("silent, told twice: %v", got)
	}
	for _, id := range []string{"back", "dies", "deaf"} {
		if got := v.setGone(id, now); got != fateDoubted {
			t.Fatalf("%s: %v", id, got)
		}
	}
	if alive, dead := v.addresses(); len(alive) != 0 || len(dead) != 1 {
		t.Errorf("who is doubted is not called: %v, %v", alive, dead)
	}
	v.setAlive(fleet.Member{NodeID: "back"}, v.nodes["self"].addr)
	if alive, _ := v.addresses(); len(alive) != 1 {
		t.Error("who is back is called")
	}
	died := map[string]int{}
	for second := 1; second <= 150; second++ {
		now = now.Add(time.Second)
		report("back")
		report("deaf")
		for _, dead := range v.bury(now) {
			died[dead.Name] = second
		}
	}
	if diff := cmp.Diff(map[string]int{"dies": 4, "deaf": 121}, died); diff != "" {
		t.Errorf("dead after seconds: %s", diff)
	}
}
