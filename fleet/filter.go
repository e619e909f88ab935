// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Limits of a filter.
const (
	MaxFilterKeys       = 64
	MaxFilterRules      = 64 // of one key
	MaxFilterValues     = 5000
	MaxFilterRegexBytes = 512
	maxFilterKeyBytes   = 128
)

// filterTimeLayout is how $time writes a moment. Source: Elkeid.
const filterTimeLayout = "2006-01-02 15:04"

// Filter chooses documents, in the JSON shape of Elkeid's lists. The zero value
// chooses all.
type Filter struct {
	Keys []FilterKey `json:"filter"`
	// Condition joins the keys: $and (also if empty), $or, $nor.
	Condition string `json:"condition"`
}

// FilterKey is what is asked of one field.
type FilterKey struct {
	Key   string       `json:"key"`
	Rules []FilterRule `json:"rules"` // at least one
	// Condition joins the rules: $and (also if empty), $or, $nor.
	Condition string `json:"condition"`
}

// FilterRule is one comparison: $eq, $ne, $gt, $gte, $lt, $lte with a value, $in
// and $nin with a list, $regex (RE2, anywhere in the text), $time with
// {"start","end"} for fields in Unix seconds.
type FilterRule struct {
	Operator string `json:"operator"`
	Value    any    `json:"value"`
}

// Document gives a field's value: a string, a float64, a bool, a list ([]string
// or []any), or nil where the document does not have it.
type Document func(field string) any

// Matcher is a filter made ready. It is safe for concurrent use.
type Matcher struct {
	keys []keyMatcher
	join joiner
}

type keyMatcher struct {
	key   string
	rules []func(value any) bool
	join  joiner
}

// joiner makes one answer of several; each is only asked while it matters.
type joiner func(n int, holds func(i int) bool) bool

// Compile checks the filter; an error names what is wrong with it. Moments of
// $time are in loc. A key without rules is refused: it would choose every
// document where its writer meant some.
func (f Filter) Compile(loc *time.Location) (*Matcher, error) {
	if len(f.Keys) > MaxFilterKeys {
		return nil, Invalid("filter", "has %d keys, at most %d are accepted", len(f.Keys), MaxFilterKeys)
	}
	join, err := parseCondition("condition", f.Condition)
	if err != nil {
		return nil, err
	}
	m := &Matcher{join: join}
	for _, k := range f.Keys {
		compiled, err := k.compile(loc)
		if err != nil {
			return nil, err
		}
		m.keys = append(m.keys, compiled)
	}
	return m, nil
}

// All tells whether every document matches, whatever it holds.
func (m *Matcher) All() bool { return len(m.keys) == 0 }

// Match tells whether the document is chosen. Comparisons are as MongoDB makes
// them, because clients know those: only values of one kind are compared, and a
// list matches if one of its elements does ($ne and $nin: if none does).
func (m *Matcher) Match(doc Document) bool {
	if m.All() {
		return true
	}
	return m.join(len(m.keys), func(i int) bool {
		k := m.keys[i]
		value := doc(k.key)
		return k.join(len(k.rules), func(j int) bool { return k.rules[j](value) })
	})
}

// Equals returns the only value that the field of a matching document can have,
// if the filter says so; for looking it up in place of searching.
func (f Filter) Equals(field string) (value string, ok bool) {
	if f.Condition != "" && f.Condition != "$and" {
		return "", false
	}
	for _, k := range f.Keys {
		if k.Key != field || (k.Condition != "" && k.Condition != "$and") {
			continue
		}
		for _, r := range k.Rules {
			if s, isText := r.Value.(string); isText && r.Operator == "$eq" {
				return s, true
			}
		}
	}
	return "", false
}

func parseCondition(field, c string) (joiner, error) {
	switch c {
	case "", "$and":
		return all, nil
	case "$or":
		return some, nil
	case "$nor":
		return func(n int, holds func(int) bool) bool { return !some(n, holds) }, nil
	}
	return nil, Invalid(field, "%.40q is none of $and, $or, $nor", c)
}

func all(n int, holds func(int) bool) bool {
	for i := range n {
		if !holds(i) {
			return false
		}
	}
	return true
}

func some(n int, holds func(int) bool) bool {
	for i := range n {
		if holds(i) {
			return true
		}
	}
	return false
}

func (k FilterKey) compile(loc *time.Location) (keyMatcher, error) {
	switch {
	case k.Key == "" || len(k.Key) > maxFilterKeyBytes || strings.HasPrefix(k.Key, "$"):
		return keyMatcher{}, Invalid("filter.key", "%.40q is not the name of a field", k.Key)
	case len(k.Rules) == 0:
		return keyMatcher{}, Invalid("filter.rules", "%.40q has no rules: say what is asked of the field, or leave the entry out", k.Key)
	case len(k.Rules) > MaxFilterRules:
		return keyMatcher{}, Invalid("filter.rules", "%.40q has %d rules, at most %d are accepted", k.Key, len(k.Rules), MaxFilterRules)
	}
	join, err := parseCondition("filter.condition", k.Condition)
	if err != nil {
		return keyMatcher{}, err
	}
	m := keyMatcher{key: k.Key, join: join}
	for _, r := range k.Rules {
		rule, err := r.compile(loc)
		if err != nil {
			if wrong, ok := errors.AsType[*Refusal](err); ok {
				err = Invalid(wrong.Field, "of %.40q: %s", k.Key, wrong.Detail)
			}
			return keyMatcher{}, err
		}
		m.rules = append(m.rules, rule)
	}
	return m, nil
}

func (r FilterRule) compile(loc *time.Location) (func(any) bool, error) {
	switch r.Operator {
	case "$eq", "$ne", "$gt", "$gte", "$lt", "$lte":
		return r.compileComparison()
	case "$in", "$nin":
		return r.compileSet()
	case "$regex":
		return r.compileRegex()
	case "$time":
		return r.compileTime(loc)
	}
	return nil, Invalid("filter.operator",
		"%.40q is none of $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $regex, $time", r.Operator)
}

func (r FilterRule) compileComparison() (func(any) bool, error) {
	want := r.Value
	if !isScalar(want) {
		return nil, Invalid("filter.value", "%s takes a text, a number, true, false or null", r.Operator)
	}
	order := func(holds func(int) bool) func(any) bool {
		return anyElement(func(v any) bool {
			c, same := compareKind(v, want)
			return same && holds(c)
		})
	}
	equal := order(func(c int) bool { return c == 0 })
	switch r.Operator {
	case "$eq":
		return equal, nil
	case "$ne":
		return func(v any) bool { return !equal(v) }, nil
	case "$gt":
		return order(func(c int) bool { return c > 0 }), nil
	case "$gte":
		return order(func(c int) bool { return c >= 0 }), nil
	case "$lt":
		return order(func(c int) bool { return c < 0 }), nil
	default: // $lte
		return order(func(c int) bool { return c <= 0 }), nil
	}
}

func (r FilterRule) compileSet() (func(any) bool, error) {
	values, ok := r.Value.([]any)
	if !ok {
		return nil, Invalid("filter.value", "%s takes a list", r.Operator)
	}
	if len(values) > MaxFilterValues {
		return nil, Invalid("filter.value", "has %d elements, at most %d are accepted", len(values), MaxFilterValues)
	}
	set := make(map[any]bool, len(values))
	for _, v := range values {
		if !isScalar(v) {
			return nil, Invalid("filter.value", "a list may hold texts, numbers, true, false and null only")
		}
		set[v] = true
	}
	in := anyElement(func(v any) bool { return isScalar(v) && set[v] })
	if r.Operator == "$nin" {
		return func(v any) bool { return !in(v) }, nil
	}
	return in, nil
}

func (r FilterRule) compileRegex() (func(any) bool, error) {
	text, ok := r.Value.(string)
	if !ok {
		return nil, Invalid("filter.value", "$regex takes a text")
	}
	if len(text) > MaxFilterRegexBytes {
		return nil, Invalid("filter.value", "the regular expression is %d bytes long, at most %d are accepted", len(text), MaxFilterRegexBytes)
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, Invalid("filter.value", "is not a regular expression of RE2: %v", err)
	}
	return anyElement(func(v any) bool {
		s, isText := v.(string)
		return isText && re.MatchString(s)
	}), nil
}

func (r FilterRule) compileTime(loc *time.Location) (func(any) bool, error) {
	span, ok := r.Value.(map[string]any)
	if !ok {
		return nil, Invalid("filter.value", `$time takes {"start":"2006-01-02 15:04","end":"2006-01-02 15:04"}`)
	}
	var bounds [2]*float64
	for i, name := range []string{"start", "end"} {
		v, given := span[name]
		if !given || v == "" || v == nil {
			continue
		}
		text, isText := v.(string)
		at, err := time.ParseInLocation(filterTimeLayout, text, loc)
		if !isText || err != nil {
			return nil, Invalid("filter.value", `%s of $time must look like "2006-01-02 15:04"`, name)
		}
		seconds := float64(at.Unix())
		bounds[i] = &seconds
	}
	if bounds[0] == nil && bounds[1] == nil {
		return nil, Invalid("filter.value", "$time has neither a start nor an end")
	}
	return anyElement(func(v any) bool {
		at, isNumber := v.(float64)
		return isNumber && (bounds[0] == nil || at >= *bounds[0]) && (bounds[1] == nil || at <= *bounds[1])
	}), nil
}

func isScalar(v any) bool {
	switch v.(type) {
	case nil, string, float64, bool:
		return true
	}
	return false
}

// anyElement asks of a value, or of each element if it is a list.
func anyElement(holds func(any) bool) func(any) bool {
	return func(v any) bool {
		switch list := v.(type) {
		case []string:
			return slices.ContainsFunc(list, func(s string) bool { return holds(s) })
		case []any:
			return slices.ContainsFunc(list, holds)
		}
		return holds(v)
	}
}

// compareKind orders two values of one kind; same is false for any others.
func compareKind(a, b any) (c int, same bool) {
	if kindRank(a) != kindRank(b) {
		return 0, false
	}
	return CompareValues(a, b), true
}

// CompareValues orders the values of a field for sorting: missing ones first,
// then numbers, texts, lists (by their first element), false and true.
func CompareValues(a, b any) int {
	if ra, rb := kindRank(a), kindRank(b); ra != rb {
		return ra - rb
	}
	switch x := a.(type) {
	case float64:
		return compareOrdered(x, b.(float64))
	case string:
		return strings.Compare(x, b.(string))
	case bool:
		return compareOrdered(boolRank(x), boolRank(b.(bool)))
	case []string, []any:
		return CompareValues(firstOf(a), firstOf(b))
	}
	return 0
}

func compareOrdered[T int | float64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func boolRank(b bool) int {
	if b {
		return 1
	}
	return 0
}

func kindRank(v any) int {
	switch v.(type) {
	case nil:
		return 0
	case float64:
		return 1
	case string:
		return 2
	case []string, []any:
		return 3
	case bool:
		return 4
	}
	return 5
}

// firstOf returns a list's first element, nil if it has none.
func firstOf(list any) any {
	switch l := list.(type) {
	case []string:
		if len(l) > 0 {
			return l[0]
		}
	case []any:
		if len(l) > 0 {
			return l[0]
		}
	}
	return nil
}
