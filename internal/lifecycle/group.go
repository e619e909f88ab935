// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Group runs named goroutines that live and end together. The zero value is
// not usable; call NewGroup. It is safe for concurrent use.
type Group struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	once sync.Once
	err  error
}

// NewGroup returns a Group whose goroutines see a context that ends when the
// parent does, when one of them returns an error, or when Stop is called.
func NewGroup(parent context.Context) *Group {
	ctx, cancel := context.WithCancelCause(parent)
	return &Group{ctx: ctx, cancel: cancel}
}

// Context is the one that the goroutines see.
func (g *Group) Context() context.Context { return g.ctx }

// Go runs fn. An error other than context.Canceled ends the whole group, and
// Wait returns the first such error with the name in front.
func (g *Group) Go(name string, fn func(ctx context.Context) error) {
	g.wg.Go(func() {
		err := fn(g.ctx)
		if err == nil || (errors.Is(err, context.Canceled) && g.ctx.Err() != nil) {
			return
		}
		g.once.Do(func() {
			g.err = fmt.Errorf("%s: %w", name, err)
			g.cancel(g.err)
		})
	})
}

// Stop asks every goroutine to end, without waiting.
func (g *Group) Stop() { g.cancel(context.Canceled) }

// Wait blocks until every goroutine has returned, and returns the first error.
func (g *Group) Wait() error {
	g.wg.Wait()
	g.cancel(context.Canceled)
	return g.err
}
