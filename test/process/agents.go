// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"muster/internal/agentpb"
	"muster/internal/apiv1"
	"muster/internal/simagent"
)

// Agents are simulated agents in the test's own process.
type Agents struct {
	*simagent.Fleet
	t    testing.TB
	stop context.CancelFunc
	wg   sync.WaitGroup
	err  error
}

// AgentOptions say how many agents there are and what they do.
type AgentOptions struct {
	Agents int
	// Rate is data records a second and agent.
	Rate float64
	// Records is how many each makes in all, then it is finished; with Rate 0 as
	// fast as it can. Zero means no end.
	Records uint64
	Hooks   simagent.Hooks
}

// StartAgents starts agents that know the service discovery of every node. They
// are stopped with the test.
func (c *Cluster) StartAgents(opts AgentOptions) *Agents {
	c.t.Helper()
	tlsConfig := c.AgentTLS()
	var sd []string
	for _, n := range c.Nodes {
		sd = append(sd, n.SD)
	}
	fleet, err := simagent.New(simagent.Options{
		SD: sd, RandomSD: true, TLS: tlsConfig, Agents: opts.Agents, Seed: 1, Systemd: true,
		Load:    simagent.Load{Rate: opts.Rate, Records: opts.Records, Ramp: time.Second},
		Plugins: []simagent.Plugin{{Name: "driver", Version: "1.0.0.1"}, {Name: "collector", Version: "1.0.0.1"}},
		Hooks:   opts.Hooks, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	a := &Agents{Fleet: fleet, t: c.t}
	ctx, cancel := context.WithCancel(context.Background())
	a.stop = cancel
	a.wg.Go(func() { a.err = fleet.Run(ctx) })
	c.t.Cleanup(func() {
		cancel()
		a.wg.Wait()
	})
	return a
}

// AgentTLS returns the settings of a stock agent with a fleet certificate.
func (c *Cluster) AgentTLS() *tls.Config {
	c.t.Helper()
	token := filepath.Join(c.t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(c.Token()), 0o600); err != nil {
		c.t.Fatal(err)
	}
	bundle := c.Running()[0].Bundle(token)
	config, err := simagent.LoadTLS(filepath.Join(bundle, "client.crt"), filepath.Join(bundle, "client.key"), filepath.Join(bundle, "ca.crt"))
	if err != nil {
		c.t.Fatal(err)
	}
	return config
}

// Stop lets the agents send what they hold and end.
func (a *Agents) Stop() {
	a.t.Helper()
	a.stop()
	a.wg.Wait()
	if a.err != nil {
		a.t.Fatal(a.err)
	}
}

// Connected wants that many agents to have a stream.
func (a *Agents) Connected(want int) error {
	if s := a.Summary(); s.Agents.Connected != int64(want) {
		return fmt.Errorf("%d of %d agents have a stream", s.Agents.Connected, want)
	}
	return nil
}

// Finished wants all agents to have sent all that they had to.
func (a *Agents) Finished() error {
	if s := a.Summary(); s.Agents.Finished != s.Agents.Total {
		return fmt.Errorf("%d of %d agents are finished: %s", s.Agents.Finished, s.Agents.Total, s)
	}
	return nil
}

// Agents asks a node for all agents of the fleet, by ID.
func (n *Node) Agents(token string) (map[string]apiv1.Agent, error) {
	agents := make(map[string]apiv1.Agent)
	for after := ""; ; {
		var page apiv1.Page[apiv1.Agent]
		if err := n.get("/v1/agents?limit=1000&after="+after, token, &page); err != nil {
			return nil, err
		}
		for _, a := range page.Items {
			agents[a.ID] = a
		}
		if page.Next == "" {
			return agents, nil
		}
		after = page.Next
	}
}

// Tally reads all records of these agents from Kafka and holds them against
// what was sent.
func (c *Cluster) Tally(a *Agents) *simagent.Tally {
	c.t.Helper()
	tally := simagent.NewTally(a.RunID())
	c.Kafka.Read(func(m *agentpb.MQData) { tally.Add(m.GetAgentId(), m.GetBody()) })
	for _, id := range a.IDs() {
		tally.Expect(id, a.SentBy(id))
	}
	return tally
}
