// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"errors"
	"time"

	"muster/fleet"
)

// proposal is what became of a write to the store.
type proposal int

const (
	proposalTaken   proposal = iota
	proposalRefused          // the same write would be refused again
	proposalLater            // the same write may succeed later
)

// propose makes one attempt at a write, within proposeTimeout.
func propose(ctx context.Context, write func(ctx context.Context) error) (proposal, error) {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	err := write(ctx)
	var refusal *fleet.Refusal
	switch {
	case err == nil, errors.Is(err, fleet.ErrNotVisible): // it stands, though not here yet
		return proposalTaken, nil
	case errors.As(err, &refusal):
		return proposalRefused, err
	}
	return proposalLater, err
}

// pause waits; false means that ctx has ended before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
