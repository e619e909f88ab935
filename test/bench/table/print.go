// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Figure is a line of the table: what was measured, several times, of the floor
// and of Muster.
type Figure struct {
	Name   string
	Unit   string
	Floor  []float64
	Muster []float64
	// Reach is what the figure should be; the verdict looks at the median.
	Reach   float64
	AtLeast bool
	// OfFloor is how many times the floor's figure it may be; 0: any.
	OfFloor float64
	// Info figures have nothing to reach.
	Info bool
	Note string
}

// Passes says whether the median is within reach.
func (f *Figure) Passes() bool {
	m := median(f.Muster)
	switch {
	case f.Info:
		return true
	case len(f.Muster) == 0:
		return false
	case f.AtLeast:
		return m >= f.Reach
	case f.OfFloor > 0 && len(f.Floor) > 0 && m > f.OfFloor*median(f.Floor):
		return false
	}
	return m <= f.Reach
}

func (f *Figure) verdict() string {
	switch {
	case f.Info:
		return ""
	case f.Passes():
		return "PASS"
	case f.AtLeast:
		return "under"
	}
	return "over"
}

func (f *Figure) reach() string {
	if f.Info {
		return ""
	}
	sign := "≤ "
	if f.AtLeast {
		sign = "≥ "
	}
	text := sign + number(f.Reach)
	if f.OfFloor > 0 {
		text += ", ≤ " + number(f.OfFloor) + " × floor"
	}
	return text
}

// Print writes the table as Markdown that is readable as it is: each figure as
// least-median-most of its runs.
func Print(w io.Writer, figures []Figure) error {
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	_, _ = fmt.Fprintln(t, "| figure\t| unit\t| floor\t| Muster\t| reach\t|\t| note\t|")
	_, _ = fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|---\t|---\t|---\t|")
	for i := range figures {
		f := &figures[i]
		note := f.Note
		if len(f.Floor) > 0 && len(f.Muster) > 0 {
			note = strings.TrimSuffix(fmt.Sprintf("%.2f × floor; %s", median(f.Muster)/median(f.Floor), note), "; ")
		}
		_, _ = fmt.Fprintf(t, "| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t|\n", f.Name, f.Unit, spread(f.Floor), spread(f.Muster), f.reach(), f.verdict(), note)
	}
	return t.Flush()
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// spread is least, median and most, or as many of them as differ.
func spread(v []float64) string {
	switch len(v) {
	case 0:
		return ""
	case 1:
		return number(v[0])
	}
	return number(slices.Min(v)) + " - " + number(median(v)) + " - " + number(slices.Max(v))
}

// number has three digits, and commas between thousands.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0.995:
		return fmt.Sprintf("%.3f", v)
	case v < 9.95:
		return fmt.Sprintf("%.2f", v)
	case v < 99.5:
		return fmt.Sprintf("%.1f", v)
	}
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
