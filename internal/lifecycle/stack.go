// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Stack runs parts that build on each other: started one after the other,
// stopped in reverse, each one waited for before the next is asked to end. It
// is used by one goroutine; only Failed may be read from others.
type Stack struct {
	failed chan error
	parts  []*part
}

type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// NewStack returns an empty Stack.
func NewStack() *Stack { return &Stack{failed: make(chan error, 1)} }

// Start runs a part until Stop reaches it. The part's context is its own: it
// ends when its turn to stop has come, not when a caller's context does.
func (s *Stack) Start(name string, run func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	s.parts = append(s.parts, p)
	go func() {
		defer close(p.done)
		err := run(ctx)
		if ctx.Err() != nil {
			if err != nil && !errors.Is(err, context.Canceled) {
				p.err = fmt.Errorf("%s: %w", name, err)
			}
			return
		}
		if err == nil {
			err = errors.New("ended by itself")
		}
		select {
		case s.failed <- fmt.Errorf("%s: %w", name, err):
		default: // the first failure is enough to stop everything
		}
	}()
}

// Failed yields the first error of a part that ended before it was asked to.
func (s *Stack) Failed() <-chan error { return s.failed }

// Stop ends the parts in reverse order. All share one deadline; a part that
// misses it is named in the error and left behind.
func (s *Stack) Stop(within time.Duration) error {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	var errs []error
	for _, p := range slices.Backward(s.parts) {
		p.cancel()
		select {
		case <-p.done:
			errs = append(errs, p.err)
			continue
		default:
		}
		select {
		case <-p.done:
			errs = append(errs, p.err)
		case <-deadline.C:
			deadline.Reset(0)
			errs = append(errs, fmt.Errorf("%s: did not stop within %s", p.name, within))
		}
	}
	s.parts = nil
	return errors.Join(errs...)
}
