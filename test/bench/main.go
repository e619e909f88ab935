// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// commandLine is one binary for all processes of a benchmark.
type commandLine struct {
	Run      runCmd      `cmd:"" help:"Print the table."`
	Soak     soakCmd     `cmd:"" help:"Hold many agents for a long time and see whether anything grows."`
	Agents   agentsCmd   `cmd:"" help:"Be the load; commands on standard input: stats, stop."`
	Broker   brokerCmd   `cmd:"" help:"Be the broker; commands: stats, look, blind, refuse, hang, return, slow DURATION."`
	Floor    floorCmd    `cmd:"" help:"Be the floor."`
	Steps    stepsCmd    `cmd:"" help:"Measure the floor's steps against a broker."`
	Lookup   lookupCmd   `cmd:"" help:"Ask service discovery over and over; commands: stats."`
	Constant constantCmd `cmd:"" help:"Be the floor of a look-up."`
	Node     nodeCmd     `cmd:"" help:"Be a Muster node as muster server is, with pprof besides."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	parsed := kong.Parse(&commandLine{}, kong.Name("bench"), kong.BindTo(ctx, (*context.Context)(nil)))
	err := parsed.Run()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
