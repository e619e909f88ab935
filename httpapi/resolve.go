// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"muster/fleet"
)

// An agent's first report reaches the inventory within 0.2 s of its stream's
// begin. A request that names it before that waits.
const (
	arrivalTimeout = 2 * time.Second
	arrivalPoll    = 20 * time.Millisecond
)

// resolveAgents parts the IDs that a client wrote into those of the inventory
// and those that nobody has, each in the given order. IDs that have a stream to
// a node but are not in the inventory yet are waited for, for arrivalTimeout
// together at most; one that has not arrived by then is unknown.
func (a *API) resolveAgents(ctx context.Context, ids []string) (known, unknown []string, err error) {
	missing, err := a.notStored(ctx, ids)
	if err != nil || len(missing) == 0 {
		return ids, nil, err
	}
	live, err := a.ask().sessions(ctx, missing)
	if err != nil {
		return nil, nil, err
	}
	arriving := slices.DeleteFunc(slices.Clone(missing), func(id string) bool {
		_, ok := live[id]
		return !ok
	})
	if len(arriving) > 0 {
		if err := a.awaitStored(ctx, arriving); err != nil {
			return nil, nil, err
		}
		if missing, err = a.notStored(ctx, missing); err != nil {
			return nil, nil, err
		}
	}
	gone := setOf(missing)
	known = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return gone[id] })
	return known, missing, nil
}

// notStored are those of the IDs that the inventory does not have.
func (a *API) notStored(ctx context.Context, ids []string) ([]string, error) {
	var missing []string
	for i, id := range ids {
		if i%scanBatch == 0 && ctx.Err() != nil {
			return nil, fmt.Errorf("look up agents: %w", ctx.Err())
		}
		_, err := a.opts.State.Agents.Agent(id)
		switch {
		case errors.Is(err, fleet.ErrNotFound):
			missing = append(missing, id)
		case err != nil:
			return nil, fmt.Errorf("look up agent: %w", err)
		}
	}
	return missing, nil
}

// awaitStored returns once the inventory has all the IDs, or after
// arrivalTimeout. The end of ctx is an error.
func (a *API) awaitStored(ctx context.Context, ids []string) error {
	late := time.NewTimer(arrivalTimeout)
	defer late.Stop()
	poll := time.NewTicker(arrivalPoll)
	defer poll.Stop()
	for len(ids) > 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for agents that have just connected: %w", ctx.Err())
		case <-late.C:
			return nil
		case <-poll.C:
		}
		var err error
		if ids, err = a.notStored(ctx, ids); err != nil {
			return err
		}
	}
	return nil
}
