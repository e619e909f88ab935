// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/template"
)

// readRules parses a file of rules and checks that it holds alerts alone, each
// with what a person who is woken needs.
func readRules(file string) ([]rulefmt.Rule, error) {
	groups, errs := rulefmt.ParseFile(file, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var rules []rulefmt.Rule
	seen := make(map[string]bool)
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				errs = append(errs, fmt.Errorf("%s: %s is no alert", file, r.Record))
				continue
			}
			if seen[r.Alert] {
				errs = append(errs, fmt.Errorf("%s: %s is there twice", file, r.Alert))
			}
			seen[r.Alert] = true
			for _, name := range []string{"summary", "description"} {
				if r.Annotations[name] == "" {
					errs = append(errs, fmt.Errorf("%s: %s has no %s", file, r.Alert, name))
				}
			}
			if s := r.Labels["severity"]; s != "critical" && s != "warning" {
				errs = append(errs, fmt.Errorf("%s: %s has the severity %q", file, r.Alert, s))
			}
			rules = append(rules, r)
		}
	}
	return rules, errors.Join(errs...)
}

// alert is one that is pending or fires.
type alert struct {
	labels      map[string]string // alertname among them
	annotations map[string]string
	since       time.Time // its expression is true
	firing      bool
	lastTrue    time.Time
}

// watched is a rule and its alerts, by the labels that tell them apart.
type watched struct {
	rulefmt.Rule
	active map[string]*alert
	shown  map[string]labels.Labels // as ALERTS at the last step
}

// step evaluates the rule at a time, as Prometheus does: an alert fires when
// its expression was true at each step for the rule's time.
func (w *watched) step(ctx context.Context, e *engine, now time.Time) error {
	vector, err := e.at(ctx, w.Expr, now)
	if err != nil {
		return fmt.Errorf("%s: %w", w.Alert, err)
	}
	for _, s := range vector {
		a, err := w.describe(ctx, e, s, now)
		if err != nil {
			return err
		}
		key := labels.FromMap(a.labels).String()
		if old := w.active[key]; old != nil {
			a.since, a.firing = old.since, old.firing
		}
		a.lastTrue = now
		if now.Sub(a.since) >= time.Duration(w.For) {
			a.firing = true
		}
		w.active[key] = a
	}
	maps.DeleteFunc(w.active, func(_ string, a *alert) bool {
		kept := a.firing && w.KeepFiringFor > 0 && now.Sub(a.lastTrue) < time.Duration(w.KeepFiringFor)
		return a.lastTrue.Before(now) && !kept
	})
	return nil
}

// show adds the series that Prometheus writes about alerts, and tells whether one
// fires.
func (w *watched) show(e *engine, now time.Time) (firing bool) {
	before := w.shown
	w.shown = make(map[string]labels.Labels)
	for _, a := range w.active {
		state := "pending"
		if a.firing {
			state, firing = "firing", true
		}
		b := labels.NewBuilder(labels.FromMap(a.labels))
		b.Set(model.MetricNameLabel, "ALERTS")
		b.Set("alertstate", state)
		l := b.Labels()
		e.add(l, now.UnixMilli(), 1)
		w.shown[l.String()] = l
		delete(before, l.String())
	}
	for _, l := range before { // which are no more
		e.add(l, now.UnixMilli(), math.Float64frombits(value.StaleNaN))
	}
	return firing
}

// describe gives an element of the result its labels and texts.
func (w *watched) describe(ctx context.Context, e *engine, s promql.Sample, now time.Time) (*alert, error) {
	own := s.Metric.Map()
	data := template.AlertTemplateData(own, nil, "", s)
	var errs []error
	expand := func(texts map[string]string) map[string]string {
		out := make(map[string]string, len(texts))
		for name, text := range texts {
			x := template.NewTemplateExpander(ctx, "{{$labels := .Labels}}{{$value := .Value}}"+text, w.Alert, data, model.TimeFromUnixNano(now.UnixNano()),
				func(ctx context.Context, q string, at time.Time) (promql.Vector, error) { return e.at(ctx, q, at) }, nil, nil)
			said, err := x.Expand()
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %s: %w", w.Alert, name, err))
			}
			if strings.Contains(said, "<no value>") {
				errs = append(errs, fmt.Errorf("%s: %s names a label that is not there: %q", w.Alert, name, said))
			}
			out[name] = said
		}
		return out
	}
	a := &alert{since: now, annotations: expand(w.Annotations), labels: own}
	delete(a.labels, model.MetricNameLabel)
	maps.Copy(a.labels, expand(w.Labels))
	a.labels[labels.AlertName] = w.Alert
	return a, errors.Join(errs...)
}
