// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"muster/internal/agentpb"
	"muster/internal/simagent"
)

// Fleet is a running fleet of simulated agents.
type Fleet struct {
	*simagent.Fleet
	// Stop has each agent send what it holds and close its stream, and returns
	// what Run did. It may be called again.
	Stop func() error
}

// StartFleet starts simulated agents that find the nodes through their service
// discovery; they are stopped at the end of the test.
func (c *Cluster) StartFleet(agents int, change func(*simagent.Options)) *Fleet {
	c.T.Helper()
	host := c.Net.Host(AgentIP)
	opts := simagent.Options{
		RandomSD: true, Agents: agents, Seed: 1, TLS: c.Running()[0].FleetTLS(),
		Dial:   func(ctx context.Context, addr string) (net.Conn, error) { return host.DialContext(ctx, "tcp", addr) },
		HTTP:   &http.Transport{DialContext: host.DialContext, DisableKeepAlives: true},
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, n := range c.Nodes {
		opts.SD = append(opts.SD, "http://"+n.at(sdPort))
	}
	if change != nil {
		change(&opts)
	}
	theirs := opts.Hooks.OnCommand
	opts.Hooks.OnCommand = func(agentID string, command *agentpb.Command) {
		c.seen.command(agentID, nil, command)
		if theirs != nil {
			theirs(agentID, command)
		}
	}
	sim, err := simagent.New(opts)
	if err != nil {
		c.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	c.running.Go(func() { done <- sim.Run(ctx) })
	f := &Fleet{Fleet: sim, Stop: sync.OnceValue(func() error {
		cancel()
		return <-done
	})}
	c.later(func() {
		if err := f.Stop(); err != nil {
			c.T.Errorf("simulated agents: %v", err)
		}
	})
	return f
}
