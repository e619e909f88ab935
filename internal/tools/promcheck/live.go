// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/textparse"
)

// report is what live writes.
type report struct {
	Scrapes int           `json:"scrapes"`
	Failed  int           `json:"failed"` // scrapes
	Panels  []panelReport `json:"panels"`
	Alerts  []alertReport `json:"alerts"`
	Unknown []string      `json:"unknown"` // metrics that are asked for, and were never seen
	Metrics []string      `json:"metrics"` // seen
}

type panelReport struct {
	Title  string `json:"title"`
	Expr   string `json:"expr"`
	Series int    `json:"series"` // of the result
	Values int    `json:"values"` // those that are numbers
	Error  string `json:"error,omitempty"`
}

type alertReport struct {
	Name string `json:"name"`
	For  int64  `json:"for"` // milliseconds for which it must be true before it rings
	// At are the times (Unix milliseconds) at which it was looked at.
	At []int64 `json:"at"`
	// True are those at which its expression was true, whatever its `for` says.
	True  []int64 `json:"true"`
	Error string  `json:"error,omitempty"`
}

// dashboard is what is read of Grafana's model.
type dashboard struct {
	Panels []struct {
		Title       string `json:"title"`
		Type        string `json:"type"`
		Description string `json:"description"`
		Targets     []struct {
			Expr string `json:"expr"`
		} `json:"targets"`
	} `json:"panels"`
}

// live scrapes until standard input ends, then evaluates.
func live(ctx context.Context, dashboardFile, rulesFile string, every time.Duration, urls []string) error {
	b, err := os.ReadFile(dashboardFile)
	if err != nil {
		return err
	}
	var d dashboard
	if err := json.Unmarshal(b, &d); err != nil {
		return fmt.Errorf("%s: %w", dashboardFile, err)
	}
	rules, err := readRules(rulesFile)
	if err != nil {
		return err
	}
	w := &watch{engine: newEngine(), began: time.Now(), asked: make(map[string]bool)}
	if err := w.scrapeAll(ctx, every, urls); err != nil {
		return err
	}
	w.ended = time.Now()
	for _, p := range d.Panels {
		for _, t := range p.Targets {
			w.panel(ctx, p.Title, t.Expr)
		}
	}
	for _, rule := range rules {
		w.alert(ctx, rule)
	}
	seen := w.engine.names()
	for n := range w.asked {
		if !seen[n] {
			w.report.Unknown = append(w.report.Unknown, n)
		}
	}
	slices.Sort(w.report.Unknown)
	w.report.Metrics = slices.Sorted(maps.Keys(seen))
	return json.NewEncoder(os.Stdout).Encode(w.report)
}

// watch is what was seen, and what is found out about it.
type watch struct {
	engine       *engine
	began, ended time.Time
	asked        map[string]bool // metrics of panels and alerts
	report       report
}

// panel evaluates one expression at the end, and, if that gives nothing, at
// earlier times: trouble may be over.
func (w *watch) panel(ctx context.Context, title, expr string) {
	expr = substitute(expr, w.ended.Sub(w.began))
	out := panelReport{Title: title, Expr: expr}
	err := w.note(expr)
	for at := w.ended; err == nil && at.After(w.began) && out.Values == 0; at = at.Add(-time.Second) {
		v, failed := w.engine.at(ctx, expr, at)
		err, out.Series = failed, max(out.Series, len(v))
		for _, s := range v {
			if !math.IsNaN(s.F) {
				out.Values++
			}
		}
	}
	if err != nil {
		out.Error = err.Error()
	}
	w.report.Panels = append(w.report.Panels, out)
}

// alert tells when a rule's expression was true.
func (w *watch) alert(ctx context.Context, rule rulefmt.Rule) {
	out := alertReport{Name: rule.Alert, For: time.Duration(rule.For).Milliseconds()}
	err := w.note(rule.Expr)
	for at := w.began.Add(time.Second); err == nil && at.Before(w.ended); at = at.Add(500 * time.Millisecond) {
		v, failed := w.engine.at(ctx, rule.Expr, at)
		out.At = append(out.At, at.UnixMilli())
		if err = failed; len(v) > 0 {
			out.True = append(out.True, at.UnixMilli())
		}
	}
	if err != nil {
		out.Error = err.Error()
	}
	w.report.Alerts = append(w.report.Alerts, out)
}

func (w *watch) note(expr string) error {
	names, err := w.engine.metricsOf(expr)
	for _, n := range names {
		w.asked[n] = true
	}
	return err
}

// substitute puts values in the place of the dashboard's variables.
func substitute(expr string, seen time.Duration) string {
	whole := fmt.Sprintf("%ds", int(math.Ceil(seen.Seconds()))+1)
	return strings.NewReplacer("$__rate_interval", whole, "$__interval", whole, "$job", ".+", "$node", ".+").Replace(expr)
}

// scrapeAll scrapes at once, then at an interval, until standard input ends.
func (w *watch) scrapeAll(ctx context.Context, every time.Duration, urls []string) error {
	ended := make(chan error, 1)
	var input sync.WaitGroup // not waited for after ctx: only its end ends a read
	input.Go(func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		ended <- err
	})
	client := &http.Client{Timeout: 5 * time.Second}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for last := false; ; {
		for _, u := range urls {
			w.report.Scrapes++
			if err := scrape(ctx, client, w.engine, u); err != nil {
				w.report.Failed++
				fmt.Fprintln(os.Stderr, "promcheck:", err)
			}
		}
		if last {
			return nil
		}
		select {
		case <-tick.C:
		case err := <-ended:
			if err != nil {
				return err
			}
			last = true
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// scrape reads one node's metrics and gives them the labels that Prometheus would.
func scrape(ctx context.Context, client *http.Client, e *engine, target string) (err error) {
	now := time.Now().UnixMilli()
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	defer func() {
		up := 1.0
		if err != nil {
			up = 0
		}
		e.add(labels.FromStrings(model.MetricNameLabel, "up", "job", "muster", "instance", u.Host), now, up)
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", target, resp.Status)
	}
	return keep(e, body, resp.Header.Get("Content-Type"), u.Host, now)
}

// keep adds what a scrape has brought.
func keep(e *engine, body []byte, contentType, instance string, now int64) error {
	p, err := textparse.New(body, contentType, labels.NewSymbolTable(), textparse.ParserOptions{FallbackContentType: "text/plain"})
	if p == nil {
		return err
	}
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("metrics of %s: %w", instance, err)
		}
		if entry != textparse.EntrySeries {
			continue
		}
		var l labels.Labels
		p.Labels(&l)
		_, _, value := p.Series()
		b := labels.NewBuilder(l)
		b.Set("job", "muster")
		b.Set("instance", instance)
		e.add(b.Labels(), now, value)
	}
}
