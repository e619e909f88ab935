// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simfleet

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// The plot's measures, in pixels.
const (
	plotWidth   = 960
	plotHeight  = 180 // of a panel
	plotLeft    = 60
	plotTop     = 40
	plotBetween = 50

	// The ratios that the panels show.
	plotFrom = 0.5
	plotTo   = 1.5
)

// marks are what the panels call the phases.
var marks = map[string]string{
	Arriving: "arriving", Churn: "churn", OneDies: "1 dies", OneBack: "back", TenthDies: "10 % die",
	TenthBack: "back", Join: "joins", Drain: "drains", Undrain: "undrained", Storm: "storm", Steady: "steady hour",
}

// WritePlot draws, for the first run of each number of nodes, what the most and
// the least loaded node hold of their fair share, over time. The steady hour is
// cut short.
func WritePlot(w io.Writer, results []Result) error {
	groups := bySize(results)
	var b strings.Builder
	height := plotTop + len(groups)*(plotHeight+plotBetween)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n",
		plotLeft+plotWidth+20, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	fmt.Fprintf(&b, `<text x="%d" y="16" font-size="13">Sessions of the most (red) and the least loaded node (blue) over their fair share; seconds</text>`+"\n", plotLeft)
	for i, group := range groups {
		panel(&b, group[0], plotTop+i*(plotHeight+plotBetween))
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func panel(b *strings.Builder, r Result, top int) {
	last := r.Phases[len(r.Phases)-1]
	end := min(last.To, last.From+300)
	x := func(second int) float64 { return plotLeft + float64(second)*plotWidth/float64(end) }
	y := func(ratio float64) float64 {
		return float64(top) + (plotTo-min(max(ratio, plotFrom), plotTo))*plotHeight/(plotTo-plotFrom)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold">%d nodes, %d agents</text>`+"\n", plotLeft, top-16, r.Options.Nodes, r.Options.Agents)
	for _, ratio := range []float64{0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5} {
		fmt.Fprintf(b, `<path d="M%d %.1fh%d" stroke="#ccc"/><text x="%d" y="%.1f" text-anchor="end">%.2f</text>`+"\n",
			plotLeft, y(ratio), plotWidth, plotLeft-6, y(ratio)+4, ratio)
	}
	for i, p := range r.Phases {
		fmt.Fprintf(b, `<path d="M%.1f %dv%d" stroke="#999" stroke-dasharray="3 3"/><text x="%.1f" y="%d" fill="#555">%s</text>`+"\n",
			x(p.From), top, plotHeight, x(p.From)+2, top-4+i%2*12, marks[p.Name])
		fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="#555">%d</text>`+"\n", x(p.From), top+plotHeight+12+i%2*11, p.From)
	}
	line := func(color string, of func(Sample) float64) {
		fmt.Fprintf(b, `<polyline fill="none" stroke="%s" points="`, color)
		step := max(1, end/plotWidth) // the furthest from 1 of each pixel
		written, skipped := -1.0, ""
		for s := 0; s < min(end, len(r.Samples)); s += step {
			furthest := 1.0
			for _, sample := range r.Samples[s:min(s+step, len(r.Samples))] {
				if v := of(sample); (v-1)*(v-1) > (furthest-1)*(furthest-1) {
					furthest = v
				}
			}
			point := fmt.Sprintf("%.1f,%.1f ", x(r.Samples[s].Second), y(furthest))
			if math.Abs(y(furthest)-written) < 0.5 { // a flat stretch needs its ends only
				skipped = point
				continue
			}
			b.WriteString(skipped + point)
			written, skipped = y(furthest), ""
		}
		b.WriteString(skipped + `"/>` + "\n")
	}
	line("#c22", func(s Sample) float64 { return s.Most })
	line("#25c", func(s Sample) float64 { return s.Least })
}
