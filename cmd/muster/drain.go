// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"muster/internal/apiclient"
	"muster/internal/apiv1"
)

// drainPatience is how often in a row a node must be seen dead, or empty and not
// safe to stop, or no answer must come, until that counts.
const drainPatience = 5

type nodeDrainCmd struct {
	Name    string        `arg:"" help:"The node's name or server ID."`
	NoWait  bool          `help:"Do not wait until it is empty."`
	Timeout time.Duration `help:"How long to wait until it is empty." default:"30m" placeholder:"DURATION"`
	Every   time.Duration `help:"How often to look, and to say how far it is." default:"3s" placeholder:"DURATION"`
	Force   bool          `help:"Drain it although no other node can take agents."`
}

// Run drains a node and waits until it can be stopped.
func (c *nodeDrainCmd) Run(a *app) error {
	if c.Timeout <= 0 || c.Every <= 0 {
		return usage("--timeout and --every must be above 0")
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	path := apiclient.Path("v1", "nodes", c.Name, "drain")
	if c.Force {
		path += "?force=true"
	}
	var n apiv1.Node
	if err := client.Do(a.ctx, http.MethodPost, path, nil, &n); err != nil {
		return err
	}
	switch {
	case n.State == "dead":
		return a.done(n, "Node %s is dead: there is nothing to wait for. When it comes back it takes no agents, until: muster node undrain %s", n.Name, n.Name)
	case c.NoWait:
		return a.done(n, "Node %s empties itself; it holds %s. See how far it is: muster node show %s", n.Name, plural(int(n.Load.Sessions), "agent"), n.Name)
	}
	ctx, cancel := context.WithTimeout(a.ctx, c.Timeout)
	defer cancel()
	n, err = c.wait(ctx, a, client, n)
	switch {
	case err != nil:
		return err
	case n.SafeToStop:
		return a.done(n, "Node %s is empty and the cluster goes on without it: it is safe to stop it. When it is back: muster node undrain %s", n.Name, n.Name)
	case a.flags.Output != "table":
		if err := a.show(n, nil); err != nil {
			return err
		}
	}
	return fmt.Errorf("node %s is not safe to stop: %s. It stays without agents until: muster node undrain %s", n.Name, strings.Join(n.WhyNot, "; "), n.Name)
}

// wait looks at the node until it is safe to stop, or empty for so long that it
// is something else that is in the way.
func (c *nodeDrainCmd) wait(ctx context.Context, a *app, client *apiclient.Client, n apiv1.Node) (apiv1.Node, error) {
	path := apiclient.Path("v1", "nodes", n.ServerID) // its name may get another server ID
	empty, dead, silent := 0, 0, 0
	for {
		switch {
		case dead == drainPatience:
			return n, fmt.Errorf("node %s is dead now, before it was empty: its agents look for other nodes by themselves. When it comes back it takes none, until: muster node undrain %s", n.Name, n.Name)
		case !n.Draining:
			return n, fmt.Errorf("node %s is not drained any more: somebody has ended it (muster node undrain)", n.Name)
		case n.SafeToStop, empty == drainPatience:
			return n, nil
		}
		if silent == 0 && dead == 0 && a.flags.Output == "table" {
			_, _ = fmt.Fprintf(a.out, "%s: %s left\n", n.Name, plural(int(n.Load.Sessions), "agent"))
		}
		if err := pause(ctx, c.Every); err != nil {
			return n, c.stopped(a, n)
		}
		var next apiv1.Node
		if err := client.Do(ctx, http.MethodGet, path, nil, &next); err != nil {
			_, away := errors.AsType[*apiclient.Unreachable](err)
			if silent++; ctx.Err() != nil {
				return n, c.stopped(a, n)
			} else if silent >= drainPatience || !away && !apiclient.IsStatus(err, http.StatusServiceUnavailable) {
				return n, fmt.Errorf("node %s empties itself, but nobody says how far it is: %w", n.Name, err)
			}
			continue
		}
		n, silent = next, 0
		if dead++; n.State != "dead" {
			dead = 0
		}
		if empty++; n.Load.Sessions > 0 || dead > 0 {
			empty = 0
		}
	}
}

// stopped is the end of waiting, by the clock or by Ctrl-C.
func (c *nodeDrainCmd) stopped(a *app, n apiv1.Node) error {
	after := "after " + c.Timeout.String()
	if a.ctx.Err() != nil {
		after = "now that you interrupt"
	}
	return fmt.Errorf("node %s holds %s %s, and goes on emptying itself (%s). See how far it is: muster node show %s; end it: muster node undrain %s",
		n.Name, plural(int(n.Load.Sessions), "agent"), after, strings.Join(n.WhyNot, "; "), n.Name, n.Name)
}

// pause waits, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

type nodeUndrainCmd struct {
	Name string `arg:"" help:"The node's name or server ID."`
}

// Run ends the drain of a node.
func (c *nodeUndrainCmd) Run(a *app) error {
	var n apiv1.Node
	if err := a.call(http.MethodPost, apiclient.Path("v1", "nodes", c.Name, "undrain"), nil, &n); err != nil {
		return err
	}
	if n.State == "dead" {
		return a.done(n, "Node %s is dead; it takes agents when it comes back.", n.Name)
	}
	return a.done(n, "Node %s takes agents again; they come by themselves, within minutes.", n.Name)
}
