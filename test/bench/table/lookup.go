// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"fmt"

	"muster/test/bench/lookup"
)

// lookupRow measures a look-up in service discovery, the floor and Muster in turn.
func lookupRow(ctx context.Context, e *Env) ([]Figure, error) {
	b, err := e.broker()
	if err != nil {
		return nil, err
	}
	s, err := e.muster(ctx, b)
	if err != nil {
		return nil, err
	}
	var ready struct{ Addr string }
	c, err := e.child(&ready, "constant")
	if err != nil {
		return nil, err
	}
	sd := Figure{Name: "SD look-up, kept connections", Unit: "µs CPU", Reach: 10}
	var rate []float64
	for round := range e.opts.Rounds {
		floor, _, err := e.lookups(ctx, "sd", &server{Process: c.Process}, b, ready.Addr)
		if err != nil {
			return nil, err
		}
		got, perSecond, err := e.lookups(ctx, fmt.Sprintf("sd-%d", round+1), s, b, s.node.sd)
		if err != nil {
			return nil, err
		}
		sd.Floor, sd.Muster, rate = append(sd.Floor, floor), append(sd.Muster, got), append(rate, perSecond)
	}
	sd.Note = fmt.Sprintf("8 connections, one node in the answer; %s a second", number(median(rate)))
	return []Figure{sd}, nil
}

// lookups is the CPU of a server for each look-up, in µs, and how many it answers
// a second.
func (e *Env) lookups(ctx context.Context, name string, s *server, b *brokerChild, addr string) (each, rate float64, err error) {
	c, err := e.child(nil, "lookup", "--addr", addr)
	if err != nil {
		return 0, 0, err
	}
	if err := pause(ctx, warmUp); err != nil {
		return 0, 0, err
	}
	var before, after lookup.Stats
	if err := c.Ask("stats", &before); err != nil {
		return 0, 0, err
	}
	got, err := e.window(ctx, name, s, b, e.opts.Window)
	if err != nil {
		return 0, 0, err
	}
	if err := c.Ask("stats", &after); err != nil {
		return 0, 0, err
	}
	n := float64(after.Answers - before.Answers)
	return got.cpu / n * 1e6, n / got.seconds, c.End()
}
