// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"muster/raftstore"
)

func TestGateLetsGroupsThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g raftstore.Gate
		must(t, g.Enter(t.Context()))
		var inside atomic.Int32
		var wg sync.WaitGroup
		release := make(chan struct{})
		for range 100 {
			wg.Go(func() {
				if err := g.Enter(t.Context()); err != nil {
					t.Error(err)
					return
				}
				inside.Add(1)
				<-release
				g.Leave()
			})
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantError(t, g.Enter(short), context.DeadlineExceeded)
		if inside.Load() != 0 {
			t.Fatal("somebody passed while the first group was inside")
		}
		g.Leave()
		synctest.Wait()
		if inside.Load() != 64 {
			t.Fatalf("%d are inside, want a group of 64", inside.Load())
		}
		close(release)
		wg.Wait()
		if inside.Load() != 100 {
			t.Fatalf("%d of 100 passed", inside.Load())
		}
		must(t, g.Enter(t.Context()))
		g.Leave()
	})
}
