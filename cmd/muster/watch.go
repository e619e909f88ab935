// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"muster/internal/apiclient"
	"muster/internal/apiv1"
)

type nodeWatchCmd struct{}

// changePresent is what a node is shown as that was there in the beginning.
const changePresent = "present"

// Run prints the nodes, then their changes, until the stream ends.
func (c *nodeWatchCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	w := nodeWatcher{app: a, agents: map[string]uint32{}}
	for event, err := range client.Events(a.ctx, "/v1/nodes") {
		if a.ctx.Err() != nil { // Ctrl-C is how this ends
			return nil
		}
		if err == nil {
			err = w.event(event)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// nodeWatcher prints what a stream of nodes says.
type nodeWatcher struct {
	*app
	agents map[string]uint32 // as last printed, by server ID
	width  int               // of names
}

func (w *nodeWatcher) event(e apiclient.Event) error {
	var err error
	switch e.Name {
	case "nodes":
		var page apiv1.Page[apiv1.Node]
		if err = json.Unmarshal(e.Data, &page); err != nil {
			break
		}
		for _, n := range page.Items {
			w.width = max(w.width, len(oneLine(n.Name)))
		}
		for _, n := range page.Items {
			if err := w.print(apiv1.NodeChange{Change: changePresent, Node: n}); err != nil {
				return err
			}
		}
		return nil
	case "node":
		var change apiv1.NodeChange
		if err = json.Unmarshal(e.Data, &change); err == nil {
			return w.print(change)
		}
	case "end":
		var end apiv1.StreamEnd
		if err = json.Unmarshal(e.Data, &end); err == nil {
			return fmt.Errorf("the node has ended the stream: %s", end.Detail)
		}
	}
	if err != nil {
		return fmt.Errorf("an event %s is not what this client understands; is %s a Muster node of about this version? %w", oneLine(e.Name), w.flags.Addr, err)
	}
	return nil // of a later release
}

// print prints one change. For people, a change of load is one of agents.
func (w *nodeWatcher) print(c apiv1.NodeChange) error {
	n := c.Node
	switch w.flags.Output {
	case "json": // one a line
		return json.NewEncoder(w.out).Encode(c)
	case "yaml":
		_, _ = fmt.Fprintln(w.out, "---")
		return writeYAML(w.out, c)
	}
	before, known := w.agents[n.ServerID]
	if c.Change == "load" && known && before == n.Load.Sessions {
		return nil
	}
	w.agents[n.ServerID] = n.Load.Sessions
	agents := ""
	if n.State != "dead" {
		agents = plural(int(n.Load.Sessions), "agent") + ", "
	}
	if share := shareOf(n); share != "-" {
		agents += share + " of its share, "
	}
	state := nodeState(n)
	if n.SafeToStop {
		state += ", safe to stop"
	}
	if len(n.Degraded) > 0 {
		state += " (" + strings.Join(n.Degraded, "; ") + ")"
	}
	line := fmt.Sprintf("%s  %-*s  %-7s  %-17s  %s%s", w.now().Format("15:04:05"), w.width, oneLine(n.Name), c.Change, loadBar(n), agents, state)
	_, err := fmt.Fprintln(w.out, oneLine(line))
	return err
}
