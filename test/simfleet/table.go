// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simfleet

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// column is a figure of a phase. what formats the least and the most of several runs.
type column struct {
	title string
	value func(p *Phase) float64
	form  string
}

// percent is of nothing when there is nothing, and so is not written.
func percent(part, of int) float64 {
	if of == 0 {
		return math.NaN()
	}
	return 100 * float64(part) / float64(of)
}

// seconds is percent's like for times, which are never 0.
func seconds(n int) float64 {
	if n == 0 {
		return math.NaN()
	}
	return float64(n) / float64(ticks)
}

func columns() []column {
	return []column{
		{"s", func(p *Phase) float64 { return float64(p.To - p.From) }, "%.0f"},
		{"most, worst second", func(p *Phase) float64 { return p.Worst }, "%.3f"},
		{"most, end", func(p *Phase) float64 { return p.Most }, "%.3f"},
		{"least, end", func(p *Phase) float64 { return p.Least }, "%.3f"},
		{"level after, s", func(p *Phase) float64 { return float64(p.Level) }, "%.0f"},
		{"report's age p50, s", func(p *Phase) float64 { return seconds(p.Age[0]) }, "%.2f"},
		{"p99", func(p *Phase) float64 { return seconds(p.Age[1]) }, "%.2f"},
		{"answers", func(p *Phase) float64 { return float64(p.Answers) }, "%.0f"},
		{"first could take it, %", func(p *Phase) float64 { return percent(p.FirstGood, p.Answers) }, "%.2f"},
		{"refused by first, %", func(p *Phase) float64 { return percent(p.Refused, p.Connected) }, "%.2f"},
		{"by all", func(p *Phase) float64 { return float64(p.Failures) }, "%.0f"},
		{"without a stream p99, s", func(p *Phase) float64 { return seconds(p.Without[1]) }, "%.1f"},
		{"longest", func(p *Phase) float64 { return seconds(p.Without[2]) }, "%.1f"},
		{"sent away", func(p *Phase) float64 { return float64(p.Shed) }, "%.0f"},
	}
}

// WriteTable writes a Markdown table of runs: a row for each phase of each number
// of nodes, with the least and the most of the seeds.
func WriteTable(w io.Writer, results []Result) error {
	var b strings.Builder
	cols := columns()
	b.WriteString("| nodes | what happens |")
	for _, c := range cols {
		b.WriteString(" " + c.title + " |")
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(cols)) + "\n")
	for _, group := range bySize(results) {
		for i := range group[0].Phases {
			fmt.Fprintf(&b, "| %d | %s |", group[0].Options.Nodes, group[0].Phases[i].Name)
			for _, c := range cols {
				var values []float64
				for _, r := range group {
					values = append(values, c.value(&r.Phases[i]))
				}
				if math.IsNaN(values[0]) {
					b.WriteString(" |")
					continue
				}
				least, most := fmt.Sprintf(c.form, slices.Min(values)), fmt.Sprintf(c.form, slices.Max(values))
				if least != most {
					least += " - " + most
				}
				b.WriteString(" " + least + " |")
			}
			b.WriteString("\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// bySize puts the runs of as many nodes together, the fewest nodes first.
func bySize(results []Result) [][]Result {
	sorted := slices.Clone(results)
	slices.SortStableFunc(sorted, func(a, b Result) int { return cmp.Compare(a.Options.Nodes, b.Options.Nodes) })
	var groups [][]Result
	for i, r := range sorted {
		if i == 0 || r.Options.Nodes != sorted[i-1].Options.Nodes {
			groups = append(groups, nil)
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], r)
	}
	return groups
}
