// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table_test

import (
	"bytes"
	"strings"
	"testing"

	"muster/test/bench/table"
)

func TestVerdicts(t *testing.T) {
	for name, tt := range map[string]struct {
		figure table.Figure
		want   string
	}{
		"within":             {table.Figure{Muster: []float64{1, 1.7, 1.2}, Reach: 1.6}, "| 1.00 - 1.20 - 1.70 | ≤ 1.60 | PASS |"},
		"over":               {table.Figure{Muster: []float64{1.7}, Reach: 1.6}, "| 1.70 | ≤ 1.60 | over |"},
		"over the floor":     {table.Figure{Floor: []float64{1}, Muster: []float64{1.3}, Reach: 1.6, OfFloor: 1.2}, "| 1.00 | 1.30 | ≤ 1.60, ≤ 1.20 × floor | over | 1.30 × floor |"},
		"enough":             {table.Figure{Muster: []float64{812_345}, Reach: 800_000, AtLeast: true}, "| 812,345 | ≥ 800,000 | PASS |"},
		"not enough":         {table.Figure{Muster: []float64{8}, Reach: 9, AtLeast: true}, "| under |"},
		"nothing lost":       {table.Figure{Muster: []float64{0, 0}}, "| 0 - 0 - 0 | ≤ 0 | PASS |"},
		"one lost":           {table.Figure{Muster: []float64{1}}, "| over |"},
		"nothing to reach":   {table.Figure{Muster: []float64{0.0123}, Info: true}, "| 0.012 | | | |"},
		"nothing measured":   {table.Figure{Reach: 1}, "| over |"},
		"a million and more": {table.Figure{Muster: []float64{1234567}, Info: true}, "| 1,234,567 |"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := table.Print(&out, []table.Figure{tt.figure}); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			got := strings.Join(strings.Fields(lines[len(lines)-1]), " ")
			if !strings.Contains(got, tt.want) {
				t.Errorf("line %q, want it to hold %q", got, tt.want)
			}
		})
	}
}
