// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simfleet_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/test/simfleet"
)

// bound is what a phase must keep. Zero fields ask nothing.
type bound struct {
	worst, most, least float64
	level              int // seconds
	without            int // the longest, in seconds
	moves              bool
}

// TestManyNodes is the story of `make simulate`, with fewer agents.
func TestManyNodes(t *testing.T) {
	many := 50
	if raceDetector {
		many = 15 // it makes everything ten times slower
	}
	for _, opts := range []simfleet.Options{
		{Nodes: 5, Agents: 100_000}, {Nodes: 5, Agents: 20_000, Asked: 1}, {Nodes: many, Agents: 2_000 * many},
	} {
		t.Run(fmt.Sprintf("nodes=%d,asked=%d", opts.Nodes, opts.Asked), func(t *testing.T) {
			t.Parallel()
			bounds := map[string]bound{
				simfleet.Arriving:  {worst: 1.10, most: 1.05, least: 0.95, without: 3},
				simfleet.Churn:     {worst: 1.05, most: 1.05, least: 0.95, without: 3},
				simfleet.OneDies:   {worst: 1.05, most: 1.05, least: 0.95, without: 20},
				simfleet.OneBack:   {most: 1.05, least: 0.9, level: 300, without: 20, moves: true},
				simfleet.TenthDies: {most: 1.05, least: 0.95, without: 20},
				simfleet.TenthBack: {most: 1.05, least: 0.9, level: 300, without: 20, moves: true},
				simfleet.Join:      {most: 1.05, least: 0.9, level: 300, without: 20, moves: true},
				simfleet.Drain:     {most: 1.05, least: 0.95, without: 20, moves: true},
				simfleet.Undrain:   {most: 1.05, least: 0.9, level: 300, without: 20, moves: true},
				simfleet.Storm:     {most: 1.05, least: 0.95, without: 30},
				simfleet.Steady:    {worst: 1.05, most: 1.05, least: 0.95},
			}
			arriving := bounds[simfleet.Arriving]
			if opts.Nodes == many { // after ten seconds a node has a hundred agents
				arriving.worst = 1.20
			}
			if opts.Asked == 1 { // the first hundreds come unevenly, and some are moved
				arriving.without, arriving.moves = 20, true
			}
			bounds[simfleet.Arriving] = arriving
			opts.Quick, opts.Seed = true, 1
			phases := simfleet.Tell(opts).Phases
			if len(phases) != len(bounds) {
				t.Fatalf("%d phases, want %d", len(phases), len(bounds))
			}
			for i := range phases {
				check(t, &phases[i], bounds[phases[i].Name])
			}
		})
	}
}

func check(t *testing.T, p *simfleet.Phase, want bound) {
	t.Helper()
	switch {
	case want.worst > 0 && p.Worst > want.worst:
		t.Errorf("%s: in the worst second a node had %.3f of its share", p.Name, p.Worst)
	case p.Most > want.most || p.Least < want.least:
		t.Errorf("%s: in the end a node had %.3f of its share, another %.3f", p.Name, p.Most, p.Least)
	case want.level > 0 && (p.Level < 0 || p.Level > want.level):
		t.Errorf("%s: nine tenths of every share after %d s", p.Name, p.Level)
	case p.Without[2] > want.without*100:
		t.Errorf("%s: an agent was without a stream for %d s/100", p.Name, p.Without[2])
	case !want.moves && p.Shed > 0:
		t.Errorf("%s: %d agents were sent away", p.Name, p.Shed)
	case p.FirstGood*100 < p.Answers*99:
		t.Errorf("%s: of %d first addresses %d could take the agent", p.Name, p.Answers, p.FirstGood)
	case p.Lost > 0 && p.Name != simfleet.Churn:
		t.Errorf("%s: %d agents have no stream in the end", p.Name, p.Lost)
	}
}

func TestTheSameSeedGivesTheSameTable(t *testing.T) {
	table := func(seed uint64) string {
		var b bytes.Buffer
		results := []simfleet.Result{simfleet.Tell(simfleet.Options{Nodes: 4, Agents: 4_000, Seed: seed, Quick: true})}
		if err := simfleet.WriteTable(&b, results); err != nil {
			t.Fatal(err)
		}
		if err := simfleet.WritePlot(&b, results); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	one := table(1)
	if diff := cmp.Diff(one, table(1)); diff != "" {
		t.Error(diff)
	}
	if one == table(2) {
		t.Error("another seed gives the same")
	}
}
