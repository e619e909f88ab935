// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"muster/test/bench/table"
)

// soakCmd holds agents for a long time.
type soakCmd struct {
	Muster   string        `default:"bin/muster" help:"The program under test."`
	Agents   int           `default:"15000" help:"How many agents."`
	Rate     float64       `default:"5000" help:"Records a second of all agents."`
	Duration time.Duration `default:"20m" help:"How long, after all agents are connected."`
	Every    time.Duration `default:"10s" help:"Time between two samples."`
	Profile  string        `placeholder:"DIR" help:"Write profiles of the node there at the end."`
}

// Run is called by kong.
func (c *soakCmd) Run(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	machine := table.NewMachine()
	err = table.Soak(ctx, table.SoakOptions{
		Self: self, Muster: c.Muster, Agents: c.Agents, Rate: c.Rate, Duration: c.Duration, Every: c.Every, Profile: c.Profile,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)), Out: os.Stdout,
	})
	fmt.Println(machine.String(c.Muster))
	if err == nil {
		fmt.Println("PASS")
	}
	return err
}
