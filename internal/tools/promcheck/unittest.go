// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"go.yaml.in/yaml/v3"
)

// unitTests is a file of tests as promtool reads it, as far as it is used here.
type unitTests struct {
	RuleFiles          []string       `yaml:"rule_files"`
	EvaluationInterval model.Duration `yaml:"evaluation_interval"`
	Tests              []unitTest     `yaml:"tests"`
}

type unitTest struct {
	Name        string         `yaml:"name"`
	Interval    model.Duration `yaml:"interval"`
	InputSeries []struct {
		Series string `yaml:"series"`
		Values string `yaml:"values"`
	} `yaml:"input_series"`
	Alerts []alertTest `yaml:"alert_rule_test"`
	Exprs  []exprTest  `yaml:"promql_expr_test"`
}

// alertTest says which alerts of a rule fire, with all that they say.
type alertTest struct {
	EvalTime  model.Duration `yaml:"eval_time"`
	AlertName string         `yaml:"alertname"`
	Expected  []struct {
		Labels      map[string]string `yaml:"exp_labels"`
		Annotations map[string]string `yaml:"exp_annotations"`
	} `yaml:"exp_alerts"`
}

// exprTest says what an expression gives, as a rule which series ALERTS has.
type exprTest struct {
	EvalTime model.Duration `yaml:"eval_time"`
	Expr     string         `yaml:"expr"`
	Expected []struct {
		Labels string  `yaml:"labels"`
		Value  float64 `yaml:"value"`
	} `yaml:"exp_samples"`
}

// coverage tells which rules have fired in a test, and which have been silent in
// one that had all their metrics.
type coverage struct{ fired, silent map[string]bool }

// testRules runs the unit tests of a file of rules. Each rule has to fire in
// one test and to be silent in another.
func testRules(ctx context.Context, out io.Writer, rulesFile, testsFile string) error {
	rules, err := readRules(rulesFile)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(testsFile)
	if err != nil {
		return err
	}
	var file unitTests
	decoder := yaml.NewDecoder(bytes.NewReader(b))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		return fmt.Errorf("%s: %w", testsFile, err)
	}
	var errs []error
	checks := 0
	seen := coverage{make(map[string]bool), make(map[string]bool)}
	for _, test := range file.Tests {
		if err := test.run(ctx, rules, time.Duration(file.EvaluationInterval), seen); err != nil {
			errs = append(errs, fmt.Errorf("test %q:\n%w", test.Name, err))
		}
		checks += len(test.Alerts) + len(test.Exprs)
	}
	for _, r := range rules {
		if !seen.fired[r.Alert] || !seen.silent[r.Alert] {
			errs = append(errs, fmt.Errorf("%s: fires in a test: %v; is silent in one that has all its metrics: %v; both must be", r.Alert, seen.fired[r.Alert], seen.silent[r.Alert]))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%d alerts, %d tests with %d checks: all as expected\n", len(rules), len(file.Tests), checks)
	return err
}

// check is one of a test's, at its time.
type check struct {
	at  time.Duration
	run func(ctx context.Context, e *engine, now time.Time) error
}

// run feeds the series, steps the rules and makes the checks when they are due.
func (t *unitTest) run(ctx context.Context, rules []rulefmt.Rule, every time.Duration, seen coverage) error {
	e, start := newEngine(), time.Unix(0, 0).UTC()
	if err := t.feed(e, start, cmp.Or(time.Duration(t.Interval), every)); err != nil {
		return err
	}
	given := e.names()
	all, asked := make(map[string]*watched), make(map[string][]string)
	for _, r := range rules {
		names, err := e.metricsOf(r.Expr)
		if err != nil {
			return err
		}
		all[r.Alert], asked[r.Alert] = &watched{Rule: r, active: make(map[string]*alert)}, names
	}
	fired := make(map[string]bool)
	var errs []error
	due := t.checks(all)
	for now := start; len(due) > 0; now = now.Add(every) {
		for _, w := range all {
			if !slices.ContainsFunc(asked[w.Alert], func(m string) bool { return given[m] }) && !strings.Contains(w.Expr, "absent") {
				continue // it has nothing to look at: a day of time is long
			}
			if err := w.step(ctx, e, now); err != nil {
				return err
			}
			fired[w.Alert] = w.show(e, now) || fired[w.Alert]
		}
		for ; len(due) > 0 && now.Add(every).After(start.Add(due[0].at)); due = due[1:] {
			errs = append(errs, due[0].run(ctx, e, now))
		}
	}
	for name := range all {
		if fired[name] {
			seen.fired[name] = true
		} else if !slices.ContainsFunc(asked[name], func(m string) bool { return !given[m] }) {
			seen.silent[name] = true
		}
	}
	return errors.Join(errs...)
}

func (t *unitTest) feed(e *engine, start time.Time, interval time.Duration) error {
	for _, in := range t.InputSeries {
		l, values, err := e.parser.ParseSeriesDesc(in.Series + " " + in.Values)
		if err != nil {
			return fmt.Errorf("series %s: %w", in.Series, err)
		}
		for i, v := range values {
			if !v.Omitted {
				e.add(l, start.Add(time.Duration(i)*interval).UnixMilli(), v.Value)
			}
		}
	}
	return nil
}

// checks are those of the test in the order of time.
func (t *unitTest) checks(all map[string]*watched) []check {
	var due []check
	for _, a := range t.Alerts {
		due = append(due, check{time.Duration(a.EvalTime), func(context.Context, *engine, time.Time) error {
			if w := all[a.AlertName]; w != nil {
				return a.compare(w)
			}
			return fmt.Errorf("no alert has the name %s", a.AlertName)
		}})
	}
	for _, x := range t.Exprs {
		due = append(due, check{time.Duration(x.EvalTime), x.compare})
	}
	slices.SortStableFunc(due, func(a, b check) int { return cmp.Compare(a.at, b.at) })
	return due
}

// compare holds the alerts that fire against those that should.
func (t *alertTest) compare(w *watched) error {
	text := func(l, a map[string]string) string {
		return fmt.Sprintf("  %s %s", labels.FromMap(l), labels.FromMap(a))
	}
	var want, got []string
	for _, e := range t.Expected {
		l := map[string]string{labels.AlertName: t.AlertName}
		maps.Copy(l, e.Labels)
		want = append(want, text(l, e.Annotations))
	}
	for _, a := range w.active {
		if a.firing {
			got = append(got, text(a.labels, a.annotations))
		}
	}
	return difference(fmt.Sprintf("%s at %s", t.AlertName, t.EvalTime), want, got)
}

// compare holds the result of the expression against what it should be.
func (t *exprTest) compare(ctx context.Context, e *engine, now time.Time) error {
	vector, err := e.at(ctx, t.Expr, now)
	if err != nil {
		return fmt.Errorf("%s: %w", t.Expr, err)
	}
	var want, got []string
	for _, x := range t.Expected {
		l, err := e.parser.ParseMetric(x.Labels)
		if err != nil {
			return fmt.Errorf("%s: %w", x.Labels, err)
		}
		want = append(want, fmt.Sprintf("  %s %v", l, x.Value))
	}
	for _, s := range vector {
		got = append(got, fmt.Sprintf("  %s %v", s.Metric, s.F))
	}
	return difference(fmt.Sprintf("%s at %s", t.Expr, t.EvalTime), want, got)
}

func difference(what string, want, got []string) error {
	slices.Sort(want)
	slices.Sort(got)
	if slices.Equal(want, got) {
		return nil
	}
	return fmt.Errorf("%s: want\n%s\ngot\n%s", what, strings.Join(want, "\n"), strings.Join(got, "\n"))
}
