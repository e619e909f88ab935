// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"muster/internal/simagent"
)

// Fleet is a running fleet of simulated agents.
type Fleet struct {
	*simagent.Fleet
	// Stop has each agent send what it holds and close its stream, and returns
	// what Run did. It may be called again.
	Stop func() error
}

// StartFleet starts simulated agents that find the node through its service
// discovery; they are stopped at the end of the test.
func (w *World) StartFleet(agents int, change func(*simagent.Options)) *Fleet {
	w.T.Helper()
	host := w.Net.Host(AgentIP)
	opts := simagent.Options{
		SD: []string{"http://" + SDAddr}, Agents: agents, Seed: 1, TLS: w.FleetTLS(),
		Dial:   func(ctx context.Context, addr string) (net.Conn, error) { return host.DialContext(ctx, "tcp", addr) },
		HTTP:   &http.Transport{DialContext: host.DialContext, DisableKeepAlives: true},
		Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&opts)
	}
	sim, err := simagent.New(opts)
	if err != nil {
		w.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	w.running.Go(func() { done <- sim.Run(ctx) })
	f := &Fleet{Fleet: sim, Stop: sync.OnceValue(func() error {
		cancel()
		return <-done
	})}
	w.later(func() {
		if err := f.Stop(); err != nil {
			w.T.Errorf("simulated agents: %v", err)
		}
	})
	return f
}
