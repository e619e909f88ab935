// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

// Exit codes. Scripts depend on them.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// roleNames are what the server knows; see fleet.Role.
const roleNames = "admin,operator,viewer,task-viewer,rule-editor,rule-reader,responder"

// commandLine is the whole command line.
type commandLine struct {
	Server serverCmd `cmd:"" help:"Run a node."`
	Dev    devCmd    `cmd:"" help:"Run nodes with an embedded Kafka and simulated agents on this machine."`
	Sim    simCmd    `cmd:"" help:"Run simulated agents against nodes that run elsewhere."`

	Status  statusCmd  `cmd:"" help:"Show a node's state."`
	Node    nodeCmd    `cmd:"" help:"The cluster's nodes."`
	Service serviceCmd `cmd:"" help:"What service discovery knows."`
	Agent   agentCmd   `cmd:"" help:"Agents, and the config that they get by default."`
	Tag     tagCmd     `cmd:"" help:"Tags of agents."`
	Task    taskCmd    `cmd:"" help:"Work for agents."`
	User    userCmd    `cmd:"" help:"Accounts."`
	Token   tokenCmd   `cmd:"" help:"API tokens: log in with 'muster token new'."`
	Key     keyCmd     `cmd:"" help:"AK/SK pairs, for Elkeid's routes between services."`
	PKI     pkiCmd     `cmd:"" name:"pki" help:"Certificates."`

	Version    versionCmd    `cmd:"" help:"Show the version of this program."`
	Completion completionCmd `cmd:"" help:"Write a completion script for a shell."`
}

// streams is what a command reads and writes, and its clock.
type streams struct {
	in       io.Reader
	out, err io.Writer
	now      func() time.Time
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr, now: time.Now})
	stop()
	os.Exit(code)
}

// run is main without the process: it returns the exit code.
func run(ctx context.Context, args []string, s streams) int {
	a := &app{ctx: ctx, streams: s}
	exited := -1
	parser, err := newParser(a, func(code int) {
		if exited < 0 {
			exited = code
		}
	})
	if err != nil {
		_, _ = fmt.Fprintln(s.err, "muster:", err)
		return exitFailed
	}
	parsed, err := parser.Parse(args)
	if exited >= 0 { // --help has been answered
		return exited
	}
	if err != nil {
		_, _ = fmt.Fprintf(s.err, "muster: %v (see: %s --help)\n", err, commandOf(err))
		return exitUsage
	}
	return a.report(parsed.Run(a))
}

// newParser builds the command line; exit is called when kong is done without
// a command to run.
func newParser(a *app, exit func(int)) (*kong.Kong, error) {
	return kong.New(&commandLine{},
		kong.Name("muster"),
		kong.Description("The back end of a fleet of host-security agents. Run a node, or ask one."),
		kong.Writers(a.out, a.err),
		kong.Exit(exit),
		kong.ValueFormatter(describe),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.BindTo(a.ctx, (*context.Context)(nil)),
		kong.Bind(a),
		kong.Vars{"roles": roleNames + ",0,1,2,3,4,5,6,7,8", "roleNames": roleNames},
	)
}

// describe is the help text of a flag. Kong shows the default in the flag's
// place for a value, unless that has a name; then it stands in the text.
func describe(v *kong.Value) string {
	text := kong.DefaultHelpValueFormatter(v)
	if v.Default == "" || v.Flag == nil || v.Flag.PlaceHolder == "" || strings.Contains(strings.ToLower(text), "default:") {
		return text
	}
	return strings.TrimSuffix(text, ".") + " (default: " + v.Default + ")."
}

// commandOf names the command that was meant, as far as it was understood.
func commandOf(err error) string {
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if node := parse.Context.Selected(); node != nil {
			return node.FullPath()
		}
	}
	return "muster"
}
