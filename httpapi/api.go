// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"

	"muster/internal/lifecycle"
)

// Time limits of a connection. A request's own is Options.RequestTimeout.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	drainTimeout      = 10 * time.Second
	maxHeaderBytes    = 32 << 10
)

// API answers HTTP requests. It is safe for concurrent use.
type API struct {
	opts     Options
	log      *slog.Logger
	metrics  *metrics
	throttle *loginThrottle
	strays   *strayTokens
	touched  *touches
	leader   *leaderQuestion
	turns
	numbers *lru[numbered]
	bounds
	routes   []Route
	fixed    map[style]fixedHeaders
	bodies   sync.Pool // of *[]byte, for answers that are put together by hand
	streams  streams
	handlers map[Listener]http.Handler
}

// bounds are those of one search.
type bounds struct {
	hands int // goroutines
	walk  int // maxAgentScan, but in tests
}

// New checks the options and the route table. It panics when a route does not
// declare who may call it and where: that is a programmer's error.
func New(opts Options) (*API, error) {
	opts.setDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	a := &API{
		opts: opts, log: opts.Logger,
		metrics:  newMetrics(opts.Registerer),
		throttle: newLoginThrottle(), strays: newStrayTokens(), touched: newTouches(),
		bounds:   bounds{walk: maxAgentScan, hands: max(1, min(runtime.GOMAXPROCS(0)/2, maxHands))},
		numbers:  newLRU[numbered](numbersKept),
		leader:   newLeaderQuestion(opts.Cluster),
		fixed:    newFixedHeaders(),
		bodies:   sync.Pool{New: func() any { return new([]byte) }},
		handlers: make(map[Listener]http.Handler),
		streams:  streams{slots: make(chan struct{}, maxStreams)},
	}
	a.turns = newTurns(&opts)
	a.routes = a.table()
	checkTable(a.routes)
	for _, l := range []Listener{ListenerSD, ListenerHTTP, ListenerHTTPS} {
		a.handlers[l] = a.router(l)
	}
	return a, nil
}

// Handler answers the requests of one kind of listener.
func (a *API) Handler(l Listener) http.Handler {
	h, ok := a.handlers[l]
	if !ok {
		panic(fmt.Sprintf("httpapi: %d is not one kind of listener", l))
	}
	return h
}

// Serve answers requests on ln until ctx ends, then lets those that are under
// way finish for at most 10 s. It closes ln. tlsConfig is nil for plain HTTP.
func (a *API) Serve(ctx context.Context, kind Listener, ln net.Listener, tlsConfig *tls.Config) error {
	srv := a.server(kind, tlsConfig)
	srv.BaseContext = func(net.Listener) context.Context { return withStopping(ctx) }
	g := lifecycle.NewGroup(ctx)
	if kind == ListenerSD && tlsConfig == nil {
		q := a.newQuick(ln, kind)
		g.Go("answer look-ups", q.run)
		ln = q
	}
	g.Go("serve", func(context.Context) error {
		var err error
		if tlsConfig != nil {
			err = srv.ServeTLS(ln, "", "")
		} else {
			err = srv.Serve(ln)
		}
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("serve http on %s: %w", ln.Addr(), err)
	})
	g.Go("drain", func(ctx context.Context) error {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if err := srv.Shutdown(drain); err != nil {
			a.log.Warn("http requests cut off at shutdown", "error", err)
			return srv.Close()
		}
		return nil
	})
	return g.Wait()
}

func (a *API) server(kind Listener, tlsConfig *tls.Config) *http.Server {
	return &http.Server{
		Handler:           a.Handler(kind),
		TLSConfig:         tlsConfig,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       a.opts.RequestTimeout,
		WriteTimeout:      2 * a.opts.RequestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
}

// Routes returns the route table.
func (a *API) Routes() []Route { return slices.Clone(a.routes) }
