// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/alecthomas/kong"

	"muster/internal/gcpace"
	"muster/node"
)

// serverCmd runs a node.
type serverCmd struct {
	File string      `name:"config" placeholder:"FILE" help:"YAML file; its keys are the flags' names. Flags beat MUSTER_* variables, which beat the file."`
	Node node.Config `embed:""`
}

// BeforeResolve lets the environment and the file answer for flags that were
// not given; kong calls it.
func (c *serverCmd) BeforeResolve(ctx *kong.Context) error {
	file := os.Getenv(envName("config"))
	var known []*kong.Flag
	for _, p := range ctx.Path {
		if p.Command != nil {
			known = p.Command.Flags
		}
		if p.Flag != nil && p.Flag.Name == "config" {
			file, _ = ctx.FlagValue(p.Flag).(string)
		}
	}
	r, err := newResolver(known, os.LookupEnv, file)
	if err != nil {
		return err
	}
	ctx.AddResolver(r)
	return nil
}

// Run serves until a signal comes.
func (c *serverCmd) Run(a *app) error {
	c.Node.AdminPassword = os.Getenv("MUSTER_ADMIN_PASSWORD")
	n, err := node.New(c.Node, node.Env{Logger: newLogger(a.err, c.Node.Log), Build: buildInfo()})
	if err != nil {
		return err
	}
	return paced(a.ctx, n.Run)
}

// paced runs with little garbage held, unless the operator has set how much.
func paced(ctx context.Context, run func(context.Context) error) error {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return run(ctx)
	}
	pace, stop := context.WithCancel(ctx)
	var pacing sync.WaitGroup
	pacing.Go(func() { _ = gcpace.Run(pace) })
	defer pacing.Wait()
	defer stop()
	return run(ctx)
}

func newLogger(w io.Writer, c node.LogConfig) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo // kong has checked it already
	}
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

func buildInfo() node.Build { return node.Build{Version: buildVersion()} }

// printf writes for people; a terminal that is gone is no reason to fail.
func (a *app) printf(format string, args ...any) { _, _ = fmt.Fprintf(a.out, format, args...) }
