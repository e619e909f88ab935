// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"go.yaml.in/yaml/v3"

	"muster/internal/apiclient"
)

// table is what a person reads: aligned columns, or, without a head, names and
// values.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(cells []string) {
		for i, c := range cells {
			cells[i] = oneLine(c)
		}
		_, _ = fmt.Fprintln(tw, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
	}
	if len(t.head) > 0 {
		line(t.head)
	}
	for _, r := range t.rows {
		line(r)
	}
	return tw.Flush()
}

// oneLine keeps what an agent or a user wrote from breaking the table or
// steering the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || (r >= 0x7f && r < 0xa0) {
			return ' '
		}
		return r
	}, s)
}

// show prints the answer v as the flags ask: as JSON or YAML, or the table.
func (a *app) show(v any, t *table) error {
	switch a.flags.Output {
	case "json":
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	case "yaml":
		return writeYAML(a.out, v)
	}
	return t.write(a.out)
}

// done prints what was changed: v for programs, a sentence for people.
func (a *app) done(v any, format string, args ...any) error {
	if a.flags.Output != "table" {
		return a.show(v, nil)
	}
	_, err := fmt.Fprintf(a.out, format+"\n", args...)
	return err
}

// writeYAML prints v with the names and the order of its JSON: JSON is YAML,
// so it is read as such and written in the other style.
func writeYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	plainStyle(&doc)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return enc.Close()
}

func plainStyle(n *yaml.Node) {
	empty := len(n.Content) == 0 && n.Kind != yaml.ScalarNode
	// A string stays quoted where it would read as something else; yaml sees
	// to that for a node with its tag set.
	if !empty {
		n.Style = 0
	}
	for _, c := range n.Content {
		plainStyle(c)
	}
}

// listFlags are those of commands that print a list.
type listFlags struct {
	Limit int `help:"The most lines to print; 0 prints all." default:"1000" placeholder:"N"`
}

// list fetches a list, up to the limit, and tells on the error stream when
// there is more.
func list[T any](a *app, path string, query url.Values, limit int) ([]T, error) {
	if limit < 0 {
		return nil, usage("--limit %d is negative", limit)
	}
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ask := limit
	if limit > 0 {
		ask++
	}
	items, err := apiclient.Collect[T](a.ctx, client, path, query, ask)
	if err != nil {
		return nil, err
	}
	if limit > 0 && len(items) > limit {
		items = items[:limit]
		_, _ = fmt.Fprintf(a.err, "muster: these are the first %d; --limit 0 prints all\n", limit)
	}
	return items, nil
}

// age is how long ago t was, in its largest unit.
func (a *app) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return duration(a.now().Sub(t)) + " ago"
}

// until is how far away t is.
func (a *app) until(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	if left := t.Sub(a.now()); left > 0 {
		return "in " + duration(left)
	}
	return a.age(t)
}

func duration(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = max(d, 0); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d.Round(time.Second)/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", d.Round(time.Minute)/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%dh", d.Round(time.Hour)/time.Hour)
	}
	return fmt.Sprintf("%dd", d.Round(day)/day)
}

// size is a number of bytes in binary units.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// count is a number with its thousands apart.
func count[N int | int64 | uint64](n N) string {
	s := strconv.FormatUint(uint64(max(n, 0)), 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// plural counts things: "1 agent", "2 agents".
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return count(n) + " " + thing + "s"
}

// dash stands for nothing in a column.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// few joins at most three values and counts the rest.
func few(values []string) string {
	if len(values) <= 3 {
		return dash(strings.Join(values, ","))
	}
	return fmt.Sprintf("%s,+%d", strings.Join(values[:3], ","), len(values)-3)
}
