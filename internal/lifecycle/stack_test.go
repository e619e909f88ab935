// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"muster/internal/lifecycle"
)

func TestStackStopsInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := lifecycle.NewStack()
		var ended []string
		for _, name := range []string{"store", "log", "http"} {
			s.Start(name, func(ctx context.Context) error {
				<-ctx.Done()
				time.Sleep(time.Second) // a slow part must be waited for
				ended = append(ended, name)
				return nil
			})
		}
		if err := s.Stop(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		if want := []string{"http", "log", "store"}; !slices.Equal(ended, want) {
			t.Fatalf("ended in order %v, want %v", ended, want)
		}
	})
}

func TestStackReportsFailureAndStuckPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := lifecycle.NewStack()
		release := make(chan struct{})
		s.Start("stuck", func(context.Context) error { <-release; return nil })
		s.Start("weak", func(context.Context) error { return errors.New("boom") })
		if err := <-s.Failed(); err.Error() != "weak: boom" {
			t.Fatalf("Failed = %v", err)
		}
		err := s.Stop(time.Second)
		if err == nil || !strings.Contains(err.Error(), "stuck: did not stop within 1s") {
			t.Fatalf("Stop = %v", err)
		}
		close(release)
	})
}
