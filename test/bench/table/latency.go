// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"fmt"
	"time"
)

const (
	quietRate   = 200 // records a second of all agents
	stampedEach = 20  // messages, at half of saturation
)

// latencyRow measures the time from an agent's sending a record to its arrival
// at the broker, on a quiet node and on a busy one.
func latencyRow(ctx context.Context, e *Env) ([]Figure, error) {
	b, err := e.broker()
	if err != nil {
		return nil, err
	}
	s, err := e.muster(ctx, b)
	if err != nil {
		return nil, err
	}
	if e.saturated == 0 { // that row was not asked for
		got, err := e.throughput(ctx, "saturated", s, b, loadOptions{agents: throughputAgents, batch: 100})
		if err != nil {
			return nil, err
		}
		e.saturated = got.perSecond()
	}
	if err := b.Ask("look", nil); err != nil {
		return nil, err
	}
	quiet, err := e.latency(ctx, "quiet", s, b, loadOptions{agents: throughputAgents, batch: 1, rate: quietRate, numbered: 1})
	if err != nil {
		return nil, err
	}
	busy, err := e.latency(ctx, "half of saturation", s, b,
		loadOptions{agents: throughputAgents, batch: 100, rate: e.saturated / 2, numbered: stampedEach})
	if err != nil {
		return nil, err
	}
	quiet[1].Reach, busy[1].Reach = 100, 250
	busy[1].Note = fmt.Sprintf("%s records/s", number(e.saturated/2))
	return append(quiet, busy...), nil
}

// latency returns the figures p50 and p99.
func (e *Env) latency(ctx context.Context, what string, s *server, b *brokerChild, o loadOptions) ([]Figure, error) {
	figures := []Figure{
		{Name: "record to Kafka, " + what + ", p50", Unit: "ms", Info: true},
		{Name: "record to Kafka, " + what + ", p99", Unit: "ms"},
	}
	l, err := e.load(s, o)
	if err != nil {
		return nil, err
	}
	if err := l.connected(ctx, connectWithin); err != nil {
		return nil, err
	}
	if err := pause(ctx, warmUp); err != nil {
		return nil, err
	}
	if _, err := b.stats(); err != nil { // delays start anew
		return nil, err
	}
	for round := range e.opts.Rounds {
		got, err := e.window(ctx, fmt.Sprintf("%s-%d", what, round+1), s, b, e.opts.Window)
		if err != nil {
			return nil, err
		}
		// The window's own readings take the delays from before it.
		e.log.Info("measured", "what", what, "records_per_second", number(got.perSecond()), "p99_ms", number(float64(got.delays.DelayP99)/1e3),
			"longest_ms", number(float64(got.delays.DelayMax)/1e3), "of", got.delays.Delays)
		figures[0].Muster = append(figures[0].Muster, float64(got.delays.DelayP50)/1e3)
		figures[1].Muster = append(figures[1].Muster, float64(got.delays.DelayP99)/1e3)
	}
	return figures, l.end()
}

// drained waits until the broker has got that many different numbered records,
// or gets no more for a while; it returns what it has.
func (e *Env) drained(ctx context.Context, b *brokerChild, want int64) (int64, error) {
	const patience = 30 * time.Second
	last, changed := int64(-1), time.Now()
	for {
		s, err := b.stats()
		if err != nil {
			return 0, err
		}
		if s.Unique >= want {
			return s.Unique, nil
		}
		if s.Unique != last {
			last, changed = s.Unique, time.Now()
		}
		if time.Since(changed) > patience {
			return s.Unique, nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
	}
}
