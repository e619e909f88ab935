// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"time"

	"muster/internal/lifecycle"
	"muster/internal/simagent"
	"muster/node"
)

// simCmd runs simulated agents against nodes that run elsewhere.
type simCmd struct {
	SD          []string      `name:"sd" placeholder:"URL" help:"Service discoveries, asked in order at each connect."`
	Addr        []string      `placeholder:"HOST:PORT" help:"Addresses to try when service discovery gives none."`
	RandomSD    bool          `name:"random-sd" help:"Start each look-up at a random --sd."`
	Agents      int           `default:"20" placeholder:"N" help:"Agents."`
	Rate        float64       `default:"10" placeholder:"N" help:"Records a second of each agent; 0: as fast as they are taken, with --records."`
	Batch       int           `placeholder:"N" help:"Records in a message at most (default: all that wait)."`
	Records     uint64        `placeholder:"N" help:"Records of each agent, then it ends (default: no end)."`
	Duration    time.Duration `placeholder:"TIME" help:"End after this time (default: no end)."`
	Ramp        time.Duration `placeholder:"TIME" help:"Spread the agents' starts over this time."`
	Compression string        `default:"snappy" enum:"snappy,gzip,zstd,none" help:"${enum}."`
	Cert        string        `required:"" placeholder:"FILE" help:"Client certificate (muster pki agent-bundle makes one)."`
	Key         string        `required:"" placeholder:"FILE" help:"Its key."`
	CA          string        `name:"ca" required:"" placeholder:"FILE" help:"CA of the server's certificate."`
	Seed        uint64        `default:"1" placeholder:"N" help:"The same seed makes the same agents."`
	Systemd     bool          `help:"Restart agents 45 s after their end, as systemd does."`
	JSON        bool          `name:"json" help:"Print the summary as JSON."`
	Verbose     bool          `short:"v" help:"Show what agents log."`
}

// Run runs the agents until all are finished, the time is over or a signal
// comes, and prints what they did.
func (c *simCmd) Run(a *app) error {
	if len(c.SD) == 0 && len(c.Addr) == 0 {
		return usage("give --sd or --addr: where should the agents connect?")
	}
	tlsConfig, err := simagent.LoadTLS(c.Cert, c.Key, c.CA)
	if err != nil {
		return err
	}
	level := "error"
	if c.Verbose {
		level = "info"
	}
	sim, err := simagent.New(simagent.Options{
		SD: c.SD, RandomSD: c.RandomSD, Addrs: c.Addr, TLS: tlsConfig, Agents: c.Agents,
		Load: simagent.Load{
			Rate: c.Rate, Batch: c.Batch, Records: c.Records, Duration: c.Duration, Ramp: c.Ramp,
		},
		Compression: c.Compression, Seed: c.Seed, Systemd: c.Systemd,
		Plugins: simPlugins(),
		Logger:  newLogger(a.err, node.LogConfig{Format: "text", Level: level}),
	})
	if err != nil {
		return err
	}
	group := lifecycle.NewGroup(a.ctx)
	group.Go("agents", func(ctx context.Context) error {
		defer group.Stop()
		return sim.Run(ctx)
	})
	group.Go("show", func(ctx context.Context) error {
		a.watchSim(ctx, sim, c.JSON)
		return nil
	})
	err = group.Wait()
	if c.JSON {
		out, _ := json.MarshalIndent(sim.Summary(), "", "  ")
		a.printf("%s\n", out)
	} else {
		a.printf("%s\n", sim.Summary())
	}
	return err
}

// simPlugins run on every simulated agent from the start.
func simPlugins() []simagent.Plugin {
	return []simagent.Plugin{{Name: "driver", Version: "1.0.0.1"}, {Name: "collector", Version: "1.0.0.1"}}
}

// watchSim prints a line a second, unless the output is for a program.
func (a *app) watchSim(ctx context.Context, sim *simagent.Fleet, quiet bool) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s := sim.Summary(); !quiet {
			a.printf("connected %d/%d  records sent %s  dropped %s  reconnects %s\n",
				s.Agents.Connected, s.Agents.Total, count(s.Records.Sent), count(s.Records.Dropped), count(s.Network.Reconnects))
		}
	}
}
