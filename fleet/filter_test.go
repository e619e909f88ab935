// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"muster/fleet"
)

var filterDoc = map[string]any{
	"hostname": "web-1", "cpu": 0.5, "nproc": 4.0, "tags": []string{"web", "prod"}, "empty": []string{}, "on": true,
	"plugins.name": []any{"driver", "scanner"}, "seen": float64(time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC).Unix()),
}

func field(name string) any { return filterDoc[name] }

func TestFilterMatches(t *testing.T) {
	rule := func(key, op, value string) string {
		return `{"key":"` + key + `","rules":[{"operator":"` + op + `","value":` + value + `}]}`
	}
	for _, tt := range []struct {
		keys, condition string
		want            bool
	}{
		{rule("hostname", "$eq", `"web-1"`), "", true},
		{rule("hostname", "$eq", `"web"`), "", false},
		{rule("hostname", "$ne", `"web"`), "", true},
		{rule("hostname", "$regex", `"^web-[0-9]$"`), "", true},
		{rule("hostname", "$regex", `"(?i)WEB"`), "", true},
		{rule("nproc", "$eq", `4`), "", true},
		{rule("nproc", "$eq", `"4"`), "", false},
		{rule("nproc", "$gt", `4`), "", false},
		{rule("nproc", "$gte", `4`), "", true},
		{rule("nproc", "$lt", `4.5`), "", true},
		{rule("nproc", "$gt", `"a"`), "", false},
		{rule("nproc", "$lte", `4`), "", true},
		{rule("nproc", "$in", `[1,4]`), "", true},
		{rule("nproc", "$nin", `[1,4]`), "", false},
		{rule("tags", "$eq", `"prod"`), "", true},
		{rule("tags", "$ne", `"prod"`), "", false},
		{rule("tags", "$in", `["db","web"]`), "", true},
		{rule("tags", "$nin", `["db"]`), "", true},
		{rule("tags", "$regex", `"^pr"`), "", true},
		{rule("empty", "$eq", `null`), "", false},
		{rule("empty", "$ne", `"x"`), "", true},
		{rule("plugins.name", "$eq", `"scanner"`), "", true},
		{rule("none", "$eq", `null`), "", true},
		{rule("none", "$in", `[null]`), "", true},
		{rule("none", "$ne", `"x"`), "", true},
		{rule("none", "$gt", `0`), "", false},
		{rule("none", "$regex", `""`), "", false},
		{rule("on", "$eq", `true`), "", true},
		{rule("seen", "$time", `{"start":"2026-03-14 09:26","end":"2026-03-14 09:27"}`), "", true},
		{rule("seen", "$time", `{"start":"2026-03-14 09:27"}`), "", false},
		{rule("seen", "$time", `{"end":"2026-03-14 09:26"}`), "", false},
		{rule("nproc", "$eq", `5`) + "," + rule("cpu", "$lt", `1`), "$or", true},
		{rule("nproc", "$eq", `5`) + "," + rule("cpu", "$lt", `1`), "$and", false},
		{rule("nproc", "$eq", `5`) + "," + rule("cpu", "$gt", `1`), "$nor", true},
		{`{"key":"nproc","condition":"$or","rules":[{"operator":"$lt","value":1},{"operator":"$gt","value":3}]}`, "", true},
		{`{"key":"nproc","condition":"$nor","rules":[{"operator":"$lt","value":1},{"operator":"$gt","value":3}]}`, "", false},
		{"", "", true},
		{"", "$or", true},
		{"", "$nor", true},
	} {
		var f fleet.Filter
		text := `{"filter":[` + tt.keys + `],"condition":"` + tt.condition + `"}`
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			t.Fatal(err)
		}
		m, err := f.Compile(time.UTC)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := m.Match(field); got != tt.want {
			t.Errorf("%s matches: %v, want %v", text, got, tt.want)
		}
	}
}

func TestFilterTimeIsLocal(t *testing.T) {
	f := fleet.Filter{Keys: []fleet.FilterKey{{Key: "seen", Rules: []fleet.FilterRule{{
		Operator: "$time", Value: map[string]any{"start": "2026-03-14 17:26", "end": "2026-03-14 17:27"},
	}}}}}
	m, err := f.Compile(time.FixedZone("east", 8*3600))
	if err != nil || !m.Match(field) {
		t.Errorf("17:26 eight hours east of 09:26 UTC: %v, no match", err)
	}
}

func TestFilterRefusals(t *testing.T) {
	one := func(op string, value any) fleet.Filter {
		return fleet.Filter{Keys: []fleet.FilterKey{{Key: "k", Rules: []fleet.FilterRule{{Operator: op, Value: value}}}}}
	}
	for name, f := range map[string]fleet.Filter{
		"$where is none of":       one("$where", "x"),
		"takes a list":            one("$in", "x"),
		"takes a text":            one("$regex", 1.0),
		"not a regular":           one("$regex", "("),
		"bytes long":              one("$regex", strings.Repeat("x", fleet.MaxFilterRegexBytes+1)),
		"must look like":          one("$time", map[string]any{"start": "yesterday"}),
		"neither a start":         one("$time", map[string]any{}),
		"$time takes":             one("$time", "now"),
		"$eq takes":               one("$eq", map[string]any{"$gt": 1.0}),
		"may hold texts":          one("$in", []any{[]any{}}),
		"elements, at most":       one("$in", make([]any, fleet.MaxFilterValues+1)),
		"is not the name":         {Keys: []fleet.FilterKey{{Key: "$where"}}},
		"none of $and, $or, $nor": {Condition: "$xor"},
		"has no rules":            {Keys: []fleet.FilterKey{{Key: "k"}}},
		"of the field, or":        {Keys: []fleet.FilterKey{{Key: "k", Rules: []fleet.FilterRule{}}}},
		"keys, at most":           {Keys: make([]fleet.FilterKey, fleet.MaxFilterKeys+1)},
		"rules, at most":          {Keys: []fleet.FilterKey{{Key: "k", Rules: make([]fleet.FilterRule, fleet.MaxFilterRules+1)}}},
	} {
		_, err := f.Compile(time.UTC)
		want := strings.ReplaceAll(name, "$where is", `"$where" is`)
		if !errors.Is(err, fleet.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("Compile: %v, want a refusal with %q", err, want)
		}
	}
}

func TestFilterEquals(t *testing.T) {
	f := fleet.Filter{Keys: []fleet.FilterKey{{Key: "task_id", Rules: []fleet.FilterRule{{Operator: "$eq", Value: "t1"}}}}}
	if v, ok := f.Equals("task_id"); !ok || v != "t1" {
		t.Errorf("Equals = %q, %v, want t1", v, ok)
	}
	if _, ok := f.Equals("agent_id"); ok {
		t.Error("Equals knows a field that the filter does not name")
	}
	f.Condition = "$or"
	if _, ok := f.Equals("task_id"); ok {
		t.Error("Equals takes one side of an $or for the whole")
	}
}

// scalars are what fields and rules hold in the laws below; few, so that they
// often meet.
func scalars() *rapid.Generator[any] {
	return rapid.OneOf(
		rapid.Just[any](nil), rapid.Map(rapid.IntRange(-1, 2), func(i int) any { return float64(i) }),
		rapid.Map(rapid.SampledFrom([]string{"", "a", "b"}), func(s string) any { return s }),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
	)
}

func values() *rapid.Generator[any] {
	return rapid.OneOf(scalars(), rapid.Map(rapid.SliceOfN(scalars(), 0, 3), func(l []any) any { return l }))
}

// TestFilterLaws holds the operators and conditions against each other.
func TestFilterLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value, want, other := values().Draw(t, "value"), scalars().Draw(t, "want"), scalars().Draw(t, "other")
		match := func(condition string, rules ...fleet.FilterRule) bool {
			f := fleet.Filter{Keys: []fleet.FilterKey{{Key: "k", Rules: rules, Condition: condition}}}
			m, err := f.Compile(time.UTC)
			if err != nil {
				t.Fatal(err)
			}
			return m.Match(func(string) any { return value })
		}
		rule := func(op string, v any) fleet.FilterRule { return fleet.FilterRule{Operator: op, Value: v} }
		eq := match("", rule("$eq", want))
		laws := map[string][2]bool{
			"$ne is not $eq":           {match("", rule("$ne", want)), !eq},
			"$in of one is $eq":        {match("", rule("$in", []any{want})), eq},
			"$in of two is $or":        {match("", rule("$in", []any{want, other})), match("$or", rule("$eq", want), rule("$eq", other))},
			"$nin is not $in":          {match("", rule("$nin", []any{want, other})), !match("", rule("$in", []any{want, other}))},
			"$gte is $gt or $eq":       {match("", rule("$gte", want)), eq || match("", rule("$gt", want))},
			"$lte is $lt or $eq":       {match("", rule("$lte", want)), eq || match("", rule("$lt", want))},
			"$nor is not $or":          {match("$nor", rule("$eq", want), rule("$gt", other)), !match("$or", rule("$eq", want), rule("$gt", other))},
			"$and of the same is once": {match("$and", rule("$eq", want), rule("$eq", want)), eq},
		}
		for law, sides := range laws {
			if sides[0] != sides[1] {
				t.Errorf("%s does not hold for %v with %v and %v", law, value, want, other)
			}
		}
	})
}

// TestCompareValuesIsAnOrder: without that, sorting by a field could fail.
func TestCompareValuesIsAnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := values().Draw(t, "a"), values().Draw(t, "b"), values().Draw(t, "c")
		sign := func(x int) int { return min(1, max(-1, x)) }
		if sign(fleet.CompareValues(a, b)) != -sign(fleet.CompareValues(b, a)) {
			t.Errorf("%v and %v: both ways the same", a, b)
		}
		if fleet.CompareValues(a, b) <= 0 && fleet.CompareValues(b, c) <= 0 && fleet.CompareValues(a, c) > 0 {
			t.Errorf("%v <= %v <= %v, but not the first and last", a, b, c)
		}
	})
}
