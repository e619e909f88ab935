// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// hygiene are the rules of style that a program can check. What a linter
// knows already is in .golangci.yml instead.
var hygiene = map[string]func(*sourceTree) []violation{
	"Headers":          ruleHeaders,
	"PackageComments":  rulePackageComments,
	"Goroutines":       ruleGoroutines,
	"Init":             ruleInit,
	"Sleeps":           ruleSleeps,
	"Sizes":            ruleSizes,
	"Environment":      ruleEnvironment,
	"MetricNames":      ruleMetrics,
	"PackageVariables": rulePackageVars,
	"Sentinels":        ruleSentinels,
	"Paths":            rulePaths,
	"Links":            ruleLinks,
}

func TestHygiene(t *testing.T) {
	tree := repository(t)
	for _, name := range slices.Sorted(maps.Keys(hygiene)) {
		t.Run(name, func(t *testing.T) {
			reportFaults(t, hygiene[name](tree))
		})
	}
}

// TestHygieneBites breaks each rule in a small source, beside a source that
// looks much like it and keeps the rule.
func TestHygieneBites(t *testing.T) {
	tried := make(map[string]bool)
	for _, tt := range hygieneCases {
		tried[tt.rule] = true
		t.Run(tt.rule, func(t *testing.T) {
			reportFaults(t, hygiene[tt.rule](madeUp(t, tt.good)))
			var got []string
			for _, f := range hygiene[tt.rule](madeUp(t, tt.bad)) {
				got = append(got, f.at)
			}
			slices.Sort(got)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("faults of the bad source are at (-want +got):\n%s", diff)
			}
		})
	}
	for name := range hygiene {
		if !tried[name] {
			t.Errorf("no source breaks the rule %s: who knows whether it bites?", name)
		}
	}
}
