// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"fmt"

	"muster/test/bench/lookup"
)

// lookupRow measures a look-up in service discovery.
func lookupRow(ctx context.Context, e *Env) ([]Figure, error) {
	b, err := e.broker()
	if err != nil {
		return nil, err
	}
	s, err := e.muster(ctx, b)
	if err != nil {
		return nil, err
	}
	c, err := e.child(nil, "lookup", "--addr", s.node.sd)
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, warmUp); err != nil {
		return nil, err
	}
	sd := Figure{Name: "SD look-up, kept connections", Unit: "µs CPU", Reach: 10}
	var rate []float64
	for round := range e.opts.Rounds {
		var before, after lookup.Stats
		if err := c.Ask("stats", &before); err != nil {
			return nil, err
		}
		got, err := e.window(ctx, fmt.Sprintf("sd-%d", round+1), s, b, e.opts.Window)
		if err != nil {
			return nil, err
		}
		if err := c.Ask("stats", &after); err != nil {
			return nil, err
		}
		n := float64(after.Answers - before.Answers)
		sd.Muster = append(sd.Muster, got.cpu/n*1e6)
		rate = append(rate, n/got.seconds)
	}
	sd.Note = fmt.Sprintf("8 connections, one node in the answer; %s a second", number(median(rate)))
	return []Figure{sd}, nil
}
