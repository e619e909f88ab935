// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "promcheck:", err)
		os.Exit(1) //nolint:gocritic // nothing else is to be undone
	}
}

func run(ctx context.Context, args []string) error {
	usage := errors.New("usage: promcheck rules ALERTS TESTS | promcheck live -dashboard FILE -rules FILE URL")
	if len(args) == 0 {
		return usage
	}
	switch args[0] {
	case "rules":
		if len(args) != 3 {
			return usage
		}
		return testRules(ctx, os.Stdout, args[1], args[2])
	case "live":
		flags := flag.NewFlagSet("live", flag.ContinueOnError)
		dashboard := flags.String("dashboard", "", "the dashboard's JSON")
		rules := flags.String("rules", "", "the alert rules")
		every := flags.Duration("every", 500*time.Millisecond, "time between two scrapes")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		if flags.NArg() == 0 {
			return usage
		}
		return live(ctx, *dashboard, *rules, *every, flags.Args())
	}
	return usage
}
