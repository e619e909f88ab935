// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"muster/test/bench/table"
)

// runCmd prints the table.
type runCmd struct {
	Muster  string        `default:"bin/muster" help:"The program under test."`
	Rows    []string      `help:"Rows to measure (default: all that do not take long)."`
	Long    bool          `help:"Measure all rows."`
	Rounds  int           `default:"3" help:"How often what is noisy is measured."`
	Window  time.Duration `default:"6s" help:"How long each measurement of throughput takes."`
	Profile string        `placeholder:"DIR" help:"Write profiles of the node there; it is run with pprof, by this program."`
	Strict  bool          `help:"Fail when a figure is not within reach."`
}

// Run is called by kong.
func (c *runCmd) Run(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	machine := table.NewMachine()
	figures, err := table.Measure(ctx, table.Options{
		Self: self, Muster: c.Muster, Rows: c.Rows, Long: c.Long, Rounds: c.Rounds, Window: c.Window, Profile: c.Profile,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if printed := table.Print(os.Stdout, figures); printed != nil {
		return errors.Join(err, printed)
	}
	fmt.Printf("\n%s\n", machine.String(c.Muster))
	if err != nil {
		return err
	}
	missed := 0
	for i := range figures {
		if !figures[i].Passes() {
			missed++
		}
	}
	if c.Strict && missed > 0 {
		return fmt.Errorf("%d figures are not within reach", missed)
	}
	return nil
}
