// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/alecthomas/kong"
	"golang.org/x/sync/errgroup"

	"muster/test/simfleet"
)

type commandLine struct {
	Nodes  []int  `default:"5,50,200" help:"Numbers of nodes."`
	Agents int    `default:"1000000" help:"Number of agents."`
	Seeds  int    `default:"2" help:"Runs of each, with the seeds 1, 2, ..."`
	Plot   string `help:"File to draw the first runs into, as SVG."`
}

func main() {
	var c commandLine
	kong.Parse(&c, kong.Name("simulate"))
	if err := c.run(); err != nil {
		fmt.Fprintln(os.Stderr, "simulate:", err)
		os.Exit(1)
	}
}

func (c *commandLine) run() error {
	results := make([]simfleet.Result, len(c.Nodes)*c.Seeds)
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range results {
		group.Go(func() error {
			opts := simfleet.Options{Nodes: c.Nodes[i/c.Seeds], Agents: c.Agents, Seed: uint64(i%c.Seeds + 1)}
			results[i] = simfleet.Tell(opts)
			fmt.Fprintf(os.Stderr, "%d nodes, seed %d: done\n", opts.Nodes, opts.Seed)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := simfleet.WriteTable(os.Stdout, results); err != nil {
		return err
	}
	if c.Plot == "" {
		return nil
	}
	file, err := os.Create(c.Plot)
	if err != nil {
		return err
	}
	if err := simfleet.WritePlot(file, results); err != nil {
		return err
	}
	return file.Close()
}
