// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"fmt"
	"time"

	"muster/test/bench/floor"
)

const (
	throughputAgents = 200
	warmUp           = 2 * time.Second
	connectWithin    = 60 * time.Second
)

// cpuRow measures what a million records cost, and how many are taken, the floor
// and Muster in turn so that noise hits both.
func cpuRow(ctx context.Context, e *Env) ([]Figure, error) {
	b, err := e.broker()
	if err != nil {
		return nil, err
	}
	bottom, err := e.floor(b)
	if err != nil {
		return nil, err
	}
	muster, err := e.muster(ctx, b)
	if err != nil {
		return nil, err
	}
	const unit = "CPU s / 1M records"
	cpu100 := Figure{Name: "100 records a message, saturated", Unit: unit, Reach: 1.6, OfFloor: 1.2}
	cpu10 := Figure{Name: "10 a message, 20,000 records/s", Unit: unit, Reach: 9}
	cpu1 := Figure{Name: "1 a message, saturated", Unit: unit, Reach: 3.2}
	rate := Figure{Name: "both cores shared, 100 a message", Unit: "records/s", Reach: 800_000, AtLeast: true}
	kinds := []struct {
		figure *Figure
		load   loadOptions
		rate   *Figure
	}{
		{&cpu100, loadOptions{agents: throughputAgents, batch: 100}, &rate},
		{&cpu10, loadOptions{agents: throughputAgents, batch: 10, rate: 20_000}, nil},
		{&cpu1, loadOptions{agents: throughputAgents, batch: 1}, nil},
	}
	for round := range e.opts.Rounds {
		for i, k := range kinds {
			for _, s := range []*server{bottom, muster} {
				into, rateInto := &k.figure.Muster, &rate.Muster
				if s == bottom {
					into, rateInto = &k.figure.Floor, &rate.Floor
				}
				got, err := e.throughput(ctx, fmt.Sprintf("cpu%d-%d", []int{100, 10, 1}[i], round+1), s, b, k.load)
				if err != nil {
					return nil, err
				}
				*into = append(*into, got.perMillion())
				if k.rate != nil {
					*rateInto = append(*rateInto, got.perSecond())
				}
			}
		}
	}
	e.saturated = median(rate.Muster)
	return []Figure{cpu100, cpu10, cpu1, rate}, nil
}

// throughput measures a server under a load, after it has warmed up.
func (e *Env) throughput(ctx context.Context, name string, s *server, b *brokerChild, o loadOptions) (span, error) {
	l, err := e.load(s, o)
	if err != nil {
		return span{}, err
	}
	if err := l.connected(ctx, connectWithin); err != nil {
		return span{}, err
	}
	if err := pause(ctx, warmUp); err != nil {
		return span{}, err
	}
	got, err := e.window(ctx, name, s, b, e.opts.Window)
	if err != nil {
		return got, err
	}
	stats, err := l.stats()
	if err != nil {
		return got, err
	}
	if stats.Ended > 0 || stats.Failures > 0 {
		return got, fmt.Errorf("%d streams ended (%s) and %d connects failed (%s)", stats.Ended, stats.Ending, stats.Failures, stats.Failure)
	}
	e.log.Info("measured", "what", name, "server", s.Name, "cpu_s_per_million", number(got.perMillion()), "records_per_second", number(got.perSecond()), "cores", number(got.cpu/got.seconds))
	return got, l.end()
}

// stepsRow measures parts of the floor alone.
func stepsRow(ctx context.Context, e *Env) ([]Figure, error) {
	b, err := e.broker()
	if err != nil {
		return nil, err
	}
	var figures []Figure
	for _, batch := range []string{"100", "10", "1"} {
		names := []string{"decode", "transcode", "produce"}
		got := make([]Figure, len(names))
		for i, name := range names {
			got[i] = Figure{Name: "step of the floor: " + name + ", " + batch + " a message", Unit: "CPU s / 1M records", Info: true}
		}
		for range e.opts.Rounds {
			var s floor.Steps
			c, err := e.child(&s, "steps", "--broker", b.Addr, "--batch", batch)
			if err != nil {
				return figures, err
			}
			if err := c.End(); err != nil {
				return figures, err
			}
			for i, v := range []float64{s.Decode, s.Transcode, s.Produce} {
				got[i].Floor = append(got[i].Floor, v)
			}
		}
		figures = append(figures, got...)
	}
	return figures, ctx.Err()
}
