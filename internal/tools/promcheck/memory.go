// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// sample is one value of a series; at is in milliseconds.
type sample struct {
	at    int64
	value float64
}

// The methods of chunks.Sample.
func (s sample) T() int64                      { return s.at }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.value }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }

// memory holds series for the engine: few, and not for long. It is safe for
// concurrent use.
type memory struct {
	mu     sync.Mutex
	series map[string]*series // by their labels
}

type series struct {
	labels  labels.Labels
	samples []chunks.Sample
}

func newMemory() *memory { return &memory{series: make(map[string]*series)} }

// add appends a sample; those of one series come in order.
func (m *memory) add(l labels.Labels, at int64, value float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := l.String()
	s := m.series[key]
	if s == nil {
		s = &series{labels: l}
		m.series[key] = s
	}
	s.samples = append(s.samples, sample{at, value})
}

// names are those of all metrics seen.
func (m *memory) names() map[string]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]bool)
	for _, s := range m.series {
		out[s.labels.Get(model.MetricNameLabel)] = true
	}
	return out
}

// Querier implements storage.Queryable.
func (m *memory) Querier(from, to int64) (storage.Querier, error) {
	return &querier{memory: m, from: from, to: to}, nil
}

type querier struct {
	memory   *memory
	from, to int64
}

// Select implements storage.Querier.
func (q *querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	q.memory.mu.Lock()
	defer q.memory.mu.Unlock()
	var found []storage.Series
	for _, s := range q.memory.series {
		if slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.labels.Get(m.Name)) }) {
			continue
		}
		first, _ := slices.BinarySearchFunc(s.samples, q.from, compareAt)
		last, _ := slices.BinarySearchFunc(s.samples, q.to+1, compareAt)
		if first < last {
			found = append(found, storage.NewListSeries(s.labels, s.samples[first:last]))
		}
	}
	slices.SortFunc(found, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return &seriesSet{series: found, at: -1}
}

func compareAt(s chunks.Sample, at int64) int { return int(s.T() - at) }

// LabelValues is not asked for by the engine.
func (q *querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

// LabelNames is not asked for by the engine.
func (q *querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

// Close implements storage.Querier.
func (q *querier) Close() error { return nil }

type seriesSet struct {
	series []storage.Series
	at     int
}

// The methods of storage.SeriesSet.
func (s *seriesSet) Next() bool                        { s.at++; return s.at < len(s.series) }
func (s *seriesSet) At() storage.Series                { return s.series[s.at] }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }

// engine evaluates expressions on a memory.
type engine struct {
	*memory
	parser parser.Parser
	promql *promql.Engine
}

func newEngine() *engine {
	p := parser.NewParser(parser.Options{})
	return &engine{memory: newMemory(), parser: p, promql: promql.NewEngine(promql.EngineOpts{
		Logger: slog.New(slog.DiscardHandler), MaxSamples: 50_000_000, Timeout: time.Minute,
		EnableAtModifier: true, EnableNegativeOffset: true, Parser: p,
	})}
}

// at evaluates an expression at one time; a scalar is a vector of one.
func (e *engine) at(ctx context.Context, expr string, when time.Time) (promql.Vector, error) {
	q, err := e.promql.NewInstantQuery(ctx, e.memory, nil, expr, when)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, res.Err
	}
	switch v := res.Value.(type) {
	case promql.Vector:
		return slices.Clone(v), nil // its memory is used again
	case promql.Scalar:
		return promql.Vector{{T: v.T, F: v.V}}, nil
	}
	return nil, fmt.Errorf("%q gives a %s", expr, res.Value.Type())
}

// metricsOf are the names of the metrics that an expression asks for.
func (e *engine) metricsOf(expr string) ([]string, error) {
	tree, err := e.parser.ParseExpr(expr)
	if err != nil {
		return nil, err
	}
	var names []string
	parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
		if v, ok := n.(*parser.VectorSelector); ok {
			names = append(names, v.Name)
		}
		return nil
	})
	return names, nil
}
