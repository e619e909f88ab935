// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"muster/internal/pki"
	"muster/test/bench/agents"
	"muster/test/bench/broker"
	"muster/test/bench/control"
	"muster/test/bench/floor"
	"muster/test/bench/lookup"
)

// nothing is what a child answers that has nothing to say.
type nothing struct{}

// certificates are PEM files.
type certificates struct {
	CA   string `name:"ca" required:"" help:"Certificate of the other side's authority."`
	Cert string `required:"" help:"Own certificate."`
	Key  string `required:"" help:"Its key."`
}

func (c *certificates) load() (*tls.Config, error) {
	pair, err := pki.LoadPair(c.Cert, c.Key)
	if err != nil {
		return nil, err
	}
	authorities, err := pki.LoadCertificates(c.CA)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{*pair}, RootCAs: pki.Pool(authorities...), ClientCAs: pki.Pool(authorities...), MinVersion: tls.VersionTLS12}, nil
}

// serve answers the parent while work runs; both end with the other one.
func serve(ctx context.Context, ready any, handle control.Handler, work func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	var failure error
	wg.Go(func() {
		if failure = work(ctx); failure != nil {
			cancel()
		}
	})
	ended := make(chan error, 1)
	var parent sync.WaitGroup // not waited for: reading from a terminal cannot be ended
	parent.Go(func() { ended <- control.Serve(os.Stdin, os.Stdout, ready, handle) })
	select {
	case err := <-ended:
		cancel()
		wg.Wait()
		if failure != nil {
			return failure
		}
		return err
	case <-ctx.Done():
		wg.Wait()
		return failure
	}
}

// agentsCmd is the load.
type agentsCmd struct {
	Addr string   `help:"HOST:PORT for agents."`
	SD   []string `name:"sd" help:"Base URLs of service discoveries, in place of --addr: find the server, and give up, as stock agents do."`
	certificates
	First     int           `default:"0" help:"Index of the first agent."`
	Count     int           `default:"200" help:"How many agents."`
	Ramp      time.Duration `default:"1s" help:"Time over which they connect; 0: all at once."`
	Batch     int           `default:"0" help:"Records a message; 0: heartbeats only."`
	Rate      float64       `default:"0" help:"Records a second of all agents; 0: as many as are taken."`
	Numbered  int           `default:"0" help:"Number the records of every n-th message; 0: of none."`
	Heartbeat time.Duration `default:"60s" help:"Time between heartbeats of an agent."`
	Stay      bool          `help:"Do not connect again when a stream has ended."`
}

// Run is called by kong.
func (c *agentsCmd) Run(ctx context.Context) error {
	config, err := c.load()
	if err != nil {
		return err
	}
	load, err := agents.New(agents.Options{
		Addr: c.Addr, SD: c.SD, KeepLookups: true, TLS: config, First: c.First, Agents: c.Count, Ramp: c.Ramp, Batch: c.Batch, Rate: c.Rate,
		Numbered: c.Numbered, Heartbeat: c.Heartbeat, Stay: c.Stay,
	})
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	return serve(ctx, nothing{}, func(command, _ string) (any, error) {
		switch command {
		case "stats":
			return load.Stats(), nil
		case "stop":
			load.Stop()
			<-ended
			return load.Stats(), nil
		}
		return nil, fmt.Errorf("unknown command %q", command)
	}, func(ctx context.Context) error {
		defer close(ended)
		load.Run(ctx)
		return nil
	})
}

// brokerCmd is the broker.
type brokerCmd struct {
	Addr string `default:"127.0.0.1:0" help:"HOST:PORT to listen on."`
}

// address is what a server tells its parent.
type address struct {
	Addr string `json:"addr"`
}

// Run is called by kong.
func (c *brokerCmd) Run(ctx context.Context) error {
	b, err := broker.New(c.Addr)
	if err != nil {
		return err
	}
	return serve(ctx, address{b.Addr()}, func(command, argument string) (any, error) {
		switch command {
		case "stats":
			return b.Stats(), nil
		case "look":
			b.Look(true)
		case "blind":
			b.Look(false)
		case "refuse":
			b.Refuse()
		case "hang":
			b.Hang()
		case "return":
			return nothing{}, b.Return()
		case "slow":
			d, err := time.ParseDuration(argument)
			if err != nil {
				return nil, err
			}
			b.Slow(d)
		default:
			return nil, fmt.Errorf("unknown command %q", command)
		}
		return nothing{}, nil
	}, func(ctx context.Context) error {
		b.Run(ctx)
		return nil
	})
}

// floorCmd is the floor.
type floorCmd struct {
	Addr   string `default:"127.0.0.1:0" help:"HOST:PORT for agents."`
	Broker string `required:"" help:"HOST:PORT of the broker."`
	Pprof  string `placeholder:"HOST:PORT" help:"Where go tool pprof finds /debug/pprof."`
	certificates
}

// Run is called by kong.
func (c *floorCmd) Run(ctx context.Context) error {
	config, err := c.load()
	if err != nil {
		return err
	}
	if c.Pprof != "" {
		stop, err := servePprof(c.Pprof)
		if err != nil {
			return err
		}
		defer stop()
	}
	config.ClientAuth, config.SessionTicketsDisabled = tls.RequireAndVerifyClientCert, true
	l, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	var spoken atomic.Int64
	return serve(ctx, address{l.Addr().String()}, func(command, _ string) (any, error) {
		if command != "stats" {
			return nil, fmt.Errorf("unknown command %q", command)
		}
		return floor.Stats{Spoken: spoken.Load()}, nil
	}, func(ctx context.Context) error {
		return floor.Run(ctx, floor.Options{Listener: l, TLS: config, Broker: c.Broker, Spoken: &spoken})
	})
}

// stepsCmd measures the floor's steps.
type stepsCmd struct {
	Broker string `required:"" help:"HOST:PORT of the broker."`
	Batch  int    `default:"100" help:"Records a message."`
}

// Run is called by kong.
func (c *stepsCmd) Run(ctx context.Context) error {
	steps, err := floor.MeasureSteps(ctx, c.Broker, c.Batch)
	if err != nil {
		return err
	}
	return serve(ctx, steps, func(command, _ string) (any, error) {
		return nil, fmt.Errorf("unknown command %q", command)
	}, func(context.Context) error { return nil })
}

// lookupCmd asks service discovery.
type lookupCmd struct {
	Addr  string `required:"" help:"HOST:PORT of service discovery."`
	Conns int    `default:"8" help:"Connections, each asking again as soon as it was answered."`
}

// Run is called by kong.
func (c *lookupCmd) Run(ctx context.Context) error {
	load := lookup.New(c.Addr, c.Conns)
	return serve(ctx, nothing{}, func(command, _ string) (any, error) {
		if command != "stats" {
			return nil, fmt.Errorf("unknown command %q", command)
		}
		return load.Stats(), nil
	}, load.Run)
}

// constantCmd is the floor of a look-up.
type constantCmd struct {
	Addr string `default:"127.0.0.1:0" help:"HOST:PORT to listen on."`
}

// Run is called by kong.
func (c *constantCmd) Run(ctx context.Context) error {
	l, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return serve(ctx, address{l.Addr().String()}, func(command, _ string) (any, error) {
		return nil, fmt.Errorf("unknown command %q", command)
	}, func(ctx context.Context) error { return lookup.Floor(ctx, l) })
}
