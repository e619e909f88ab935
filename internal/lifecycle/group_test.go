// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"context"
	"errors"
	"testing"

	"muster/internal/lifecycle"
)

func TestOneFailureEndsAll(t *testing.T) {
	boom := errors.New("boom")
	g := lifecycle.NewGroup(t.Context())
	ended := make(chan struct{})
	g.Go("waits", func(ctx context.Context) error {
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	})
	g.Go("fails", func(context.Context) error { return boom })
	err := g.Wait()
	if !errors.Is(err, boom) || err.Error() != "fails: boom" {
		t.Fatalf("Wait = %v, want fails: boom", err)
	}
	<-ended
}

func TestStopIsNotAnError(t *testing.T) {
	g := lifecycle.NewGroup(t.Context())
	g.Go("waits", func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	g.Stop()
	if err := g.Wait(); err != nil {
		t.Fatalf("Wait = %v, want nil", err)
	}
}
