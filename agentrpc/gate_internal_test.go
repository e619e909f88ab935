// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func stays() bool { return false }

func TestGateLetsFewIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{slots: make(chan struct{}, 2), timeout: time.Second}
		inside := make([]passage, 2)
		for i := range inside {
			inside[i].begin(g)
			inside[i].reads() // waiting for the first bytes takes no slot
			if entered, err := inside[i].hasRead(stays); !entered || err != nil {
				t.Fatal(entered, err)
			}
		}
		waits := make(chan error, 1)
		var left passage
		left.begin(g)
		var waiting sync.WaitGroup
		waiting.Go(func() {
			_, err := left.hasRead(func() bool { return true })
			waits <- err
		})
		synctest.Wait()
		inside[1].reads() // makes room for it
		waiting.Wait()
		if err := <-waits; !errors.Is(err, errGone) || len(g.slots) != 1 {
			t.Errorf("an agent that is gone: %v, %d slots taken", err, len(g.slots))
		}
		inside[1].begin(g)
		if entered, err := inside[1].hasRead(stays); !entered || err != nil {
			t.Fatal(entered, err)
		}
		<-time.After(2 * time.Second)
		var late passage
		late.begin(g)
		start := time.Now()
		if g.crowded() {
			t.Error("crowded before anybody had to wait")
		}
		if _, err := late.hasRead(stays); !errors.Is(err, errBusy) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		late.end() // it has no slot to give back
		if <-time.After(time.Second - 1); !g.crowded() {
			t.Error("not crowded within a second of the wait")
		}
		if <-time.After(1); g.crowded() {
			t.Error("crowded though nobody waits")
		}

		// A connection that waits for more bytes gives its slot back, once.
		inside[0].reads()
		inside[0].end()
		if len(g.slots) != 1 {
			t.Fatalf("%d slots taken, want 1", len(g.slots))
		}
		if entered, err := inside[0].hasRead(stays); entered || err != nil {
			t.Error("a connection came in twice", err)
		}
		inside[1].end()
		if len(g.slots) != 0 {
			t.Errorf("%d slots taken at the end", len(g.slots))
		}
	})
}
