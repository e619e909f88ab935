// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
)

func newTestAdmission(most int, busy *atomic.Bool) *admission {
	count := func() prometheus.Counter { return prometheus.NewCounter(prometheus.CounterOpts{Name: "x"}) }
	return &admission{most: most, busy: busy.Load, refused: refusedQueries{full: count(), late: count()}}
}

func (a *admission) runs() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running
}

// As many as may run at once do: fewer from when the node is busy, and more again
// when it is not, in the order in which they came.
func TestAdmissionFollowsTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy atomic.Bool
		a := newTestAdmission(3, &busy)
		var running sync.WaitGroup
		var mu sync.Mutex
		var order []int
		leaves := make(map[int]func())
		ask := func(i int) {
			running.Go(func() {
				leave, err := a.enter(t.Context())
				if err != nil {
					t.Errorf("%d: %v", i, err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				order, leaves[i] = append(order, i), leave
			})
			synctest.Wait()
		}
		want := func(what string, in ...int) {
			t.Helper()
			if !slices.Equal(order, in) {
				t.Fatalf("%s: %v have come in, want %v", what, order, in)
			}
		}
		for i := range 4 {
			ask(i)
		}
		want("not busy", 0, 1, 2)
		busy.Store(true)
		ask(4)
		leaves[0]()
		leaves[0]() // once is enough
		leaves[1]()
		synctest.Wait()
		want("busy, one is there", 0, 1, 2)
		leaves[2]()
		synctest.Wait()
		want("busy, nobody was there", 0, 1, 2, 3)
		ask(5)
		busy.Store(false)
		leaves[3]()
		synctest.Wait()
		slices.Sort(order) // the last two came in together
		want("not busy any more", 0, 1, 2, 3, 4, 5)
		running.Wait()
	})
}

// A client that goes away leaves the queue, and no place is ever lost.
func TestAdmissionLosesNoPlace(t *testing.T) {
	var busy atomic.Bool
	a := newTestAdmission(2, &busy)
	var all sync.WaitGroup
	var inside, most atomic.Int64
	for range 60 { // fewer than may wait
		all.Go(func() {
			for range 50 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(300))*time.Microsecond)
				leave, err := a.enter(ctx)
				if err == nil {
					most.Store(max(most.Load(), inside.Add(1)))
					busy.Store(!busy.Load())
					inside.Add(-1)
					leave()
					leave()
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	all.Wait()
	for end := time.Now().Add(10 * time.Second); a.runs() > 0 && time.Now().Before(end); { // the rests
		<-time.After(time.Millisecond)
	}
	if a.runs() != 0 || a.waiting() != 0 || most.Load() > 2 {
		t.Errorf("%d run and %d wait at the end, up to %d ran at once", a.runs(), a.waiting(), most.Load())
	}
}

// While the node is busy queries leave it time to breathe.
func TestAdmissionRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy atomic.Bool
		a := newTestAdmission(3, &busy)
		for _, c := range []struct {
			busy       bool
			took, wait time.Duration
		}{
			{false, time.Minute, 0},
			{true, time.Second, 3 * time.Second},
			{true, 0, 0},
			{true, time.Second / 10, 300 * time.Millisecond},
			{false, time.Second, 0},
		} {
			busy.Store(c.busy)
			leave, err := a.enter(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			<-time.After(c.took)
			leave()
			began := time.Now()
			leave, err = a.enter(t.Context())
			if err != nil || time.Since(began) != c.wait {
				t.Errorf("%+v: %s, %v", c, time.Since(began), err)
			}
			leave()
			synctest.Wait()
		}
		busy.Store(true)
		leave, _ := a.enter(t.Context())
		<-time.After(time.Hour)
		leave()
		if <-time.After(maxRest - 1); a.runs() != 1 {
			t.Error("the longest rest is shorter than it should be")
		}
		<-time.After(1)
		synctest.Wait()
		if a.runs() != 0 {
			t.Error("the longest rest is longer than it should be")
		}
	})
}

// Nobody waits longer than he should, and no more than should.
func TestAdmissionIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy atomic.Bool
		a := newTestAdmission(1, &busy)
		leave, err := a.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var late atomic.Int64
		var all sync.WaitGroup
		for range maxQueriesWaiting {
			all.Go(func() {
				if _, err := a.enter(t.Context()); errors.Is(err, fleet.ErrUnavailable) && time.Since(began) == queryWait {
					late.Add(1)
				}
			})
		}
		synctest.Wait()
		if _, err := a.enter(t.Context()); !errors.Is(err, fleet.ErrUnavailable) || time.Since(began) > 0 {
			t.Errorf("one too many: %v after %s", err, time.Since(began))
		}
		all.Wait()
		if late.Load() != maxQueriesWaiting || a.waiting() != 0 {
			t.Errorf("%d were refused in time, %d wait", late.Load(), a.waiting())
		}
		leave()
		if leave, err = a.enter(t.Context()); err != nil {
			t.Error(err)
		}
		leave()
	})
}
