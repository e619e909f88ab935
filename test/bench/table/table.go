// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"
)

// Options say what to measure.
type Options struct {
	Self   string // this program, for the other roles
	Muster string // the program under test
	// Rows are names of rows; empty means all that are not long.
	Rows []string
	Long bool // all rows
	// Rounds is how often what is noisy is measured, floor and Muster in turn.
	Rounds int
	// Window is how long each measurement of throughput takes.
	Window time.Duration
	// Profile is a directory for profiles; the node is then run with pprof, by this
	// program. Empty: none.
	Profile string
	Logger  *slog.Logger
}

func (o *Options) validate() error {
	for _, name := range o.Rows {
		if !slices.ContainsFunc(rows(), func(r row) bool { return r.name == name }) {
			return fmt.Errorf("Rows: there is no row %q; there are: %s", name, strings.Join(Names(), ", "))
		}
	}
	if o.Rounds < 1 || o.Window < time.Second {
		return fmt.Errorf("Rounds is %d and Window %s; at least 1 and 1s are needed", o.Rounds, o.Window)
	}
	if o.Profile != "" {
		if err := os.MkdirAll(o.Profile, 0o755); err != nil {
			return fmt.Errorf("Profile: %w", err)
		}
	}
	return nil
}

// row measures figures that belong together.
type row struct {
	name    string
	long    bool
	measure func(ctx context.Context, e *Env) ([]Figure, error)
}

func rows() []row {
	return []row{
		{"cpu", false, cpuRow},
		{"steps", false, stepsRow},
		{"idle", false, idleRow},
		{"beat", false, beatRow},
		{"storm", false, stormRow},
		{"push", false, pushRow},
		{"away10", false, away10Row},
		{"away40", false, away40Row},
		{"term", false, termRow},
		{"latency", false, latencyRow},
		{"sd", false, lookupRow},
		{"away300", true, awayLongRow},
		{"site", true, siteRow},
		{"site3", true, site3Row},
	}
}

// Names of the rows.
func Names() []string {
	var names []string
	for _, r := range rows() {
		names = append(names, r.name)
	}
	return names
}

// Measure measures all rows that were asked for. What could be measured is
// returned beside the error.
func Measure(ctx context.Context, opts Options) ([]Figure, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	e, err := newEnv(opts)
	if err != nil {
		return nil, err
	}
	var figures []Figure
	var errs []error
	for _, r := range rows() {
		if wanted := len(opts.Rows) == 0 && (!r.long || opts.Long) || slices.Contains(opts.Rows, r.name); !wanted {
			continue
		}
		began := time.Now()
		got, err := r.measure(ctx, e)
		e.end()
		figures = append(figures, got...)
		if err != nil {
			errs = append(errs, fmt.Errorf("row %s: %w", r.name, err))
		}
		if ctx.Err() != nil {
			break
		}
		opts.Logger.Info("row measured", "row", r.name, "took", time.Since(began).Round(time.Second), "error", err)
	}
	if len(errs) > 0 {
		opts.Logger.Info("logs are kept", "dir", e.dir)
		return figures, errors.Join(errs...)
	}
	return figures, e.close()
}
