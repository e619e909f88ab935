// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
)

const (
	// queryWait bounds how long a query waits for its turn; it is also when the
	// client is told to try again.
	queryWait = 5 * time.Second
	// While the node is busy a turn is followed by a rest of restTimes as long as it
	// took, and maxRest at most: queries without end take a quarter of a processor.
	restTimes = 3
	maxRest   = 10 * time.Second
	// fewQueries run at once on any machine: one that waits 2 s for a node that hangs
	// does not hold up the others.
	fewQueries = 4
	// maxQueriesWaiting bounds those that wait; more are refused at once.
	maxQueriesWaiting = 64
)

// admission lets few of those requests run at once that look through much of the
// fleet, in the order in which they came: agents' handshakes, their streams and
// their look-ups need the processors, too, and cannot wait. While the node is
// short of them, one runs at a time, with rests between.
type admission struct {
	most    int // at once, while there is no shortage
	busy    func() bool
	refused refusedQueries

	mu      sync.Mutex
	running int
	queue   []chan struct{} // closed when it is that one's turn
}

// refusedQueries count by reason.
type refusedQueries struct{ full, late prometheus.Counter }

// turns are those of this node's clients and of the searches of other nodes.
type turns struct{ queries, searches *admission }

func newTurns(opts *Options) turns {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "muster_httpapi_queries_refused_total",
		Help: "Queries of the fleet, of clients and of other nodes, that were refused because few run at once: too many waited already (queue_full), or the turn did not come within 5 s (late).",
	}, []string{"reason"})
	count := refusedQueries{full: refused.WithLabelValues("queue_full"), late: refused.WithLabelValues("late")}
	t := turns{
		queries:  &admission{most: max(fewQueries, runtime.GOMAXPROCS(0)/2), busy: opts.Busy, refused: count},
		searches: &admission{most: searchesAtOnce, busy: opts.Busy, refused: count},
	}
	opts.Registerer.MustRegister(refused, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "muster_httpapi_queries_waiting",
		Help: "Queries of the fleet, of clients and of other nodes, that wait for their turn.",
	}, func() float64 { return float64(t.queries.waiting() + t.searches.waiting()) }))
	return t
}

// enter waits for a turn, for queryWait at most, and returns the function that
// ends it, which may be called more than once. The error is an answer.
func (a *admission) enter(ctx context.Context) (leave func(), err error) {
	most := a.atOnce()
	a.mu.Lock()
	if len(a.queue) == 0 && a.running < most {
		a.running++
		a.mu.Unlock()
		return a.turn(), nil
	}
	if len(a.queue) >= maxQueriesWaiting {
		a.mu.Unlock()
		a.refused.full.Inc()
		return nil, tooManyQueries(fmt.Sprintf("%d others wait already", maxQueriesWaiting))
	}
	came := make(chan struct{})
	a.queue = append(a.queue, came)
	a.mu.Unlock()
	timer := time.NewTimer(queryWait)
	defer timer.Stop()
	select {
	case <-came:
		return a.turn(), nil
	case <-timer.C:
		err = tooManyQueries(fmt.Sprintf("its turn did not come within %s", queryWait))
	case <-ctx.Done():
		err = fmt.Errorf("wait for other queries: %w", ctx.Err())
	}
	if !a.giveUp(came) { // it came just now
		return a.turn(), nil
	}
	if ctx.Err() == nil {
		a.refused.late.Inc()
	}
	return nil, err
}

// turn begins one; the function ends it.
func (a *admission) turn() (leave func()) {
	began := time.Now()
	return sync.OnceFunc(func() {
		if a.busy() {
			time.AfterFunc(min(restTimes*time.Since(began), maxRest), a.next)
			return
		}
		a.next()
	})
}

// next gives the turn that has ended to the next ones.
func (a *admission) next() {
	most := a.atOnce()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running--
	for len(a.queue) > 0 && a.running < most {
		a.running++
		close(a.queue[0])
		a.queue = slices.Delete(a.queue, 0, 1)
	}
}

// giveUp leaves the queue; false: the turn has come.
func (a *admission) giveUp(came chan struct{}) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.Index(a.queue, came)
	if i < 0 {
		return false
	}
	a.queue = slices.Delete(a.queue, i, i+1)
	return true
}

func (a *admission) atOnce() int {
	if a.busy() {
		return 1
	}
	return a.most
}

// waiting is how many wait.
func (a *admission) waiting() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.queue)
}

// tooManyQueries refuses a query for want of processor time.
func tooManyQueries(why string) error {
	return &special{
		outcome: outcome{fleet.ErrUnavailable, 503, "unavailable", 503, elkeidUnavailable, ""},
		detail:  "this node has no time for the query, because agents come first and few queries run at once: " + why + "; try again, or another node",
		retry:   queryWait,
	}
}

// inTurn has the requests of a heavy route wait for their turn. It begins when the
// body is there, and ends when the answer begins, which is computed by then: a
// client that sends or reads slowly holds up nobody.
func (a *API) inTurn(handle handlerFunc) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request, c *call) error {
		if _, err := readBody(r); err != nil {
			return err
		}
		leave, err := a.queries.enter(r.Context())
		if err != nil {
			return err
		}
		defer leave()
		return handle(&answer{ResponseWriter: w, before: leave}, r, c)
	}
}
