// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"strings"

	"muster/internal/apiclient"
	"muster/internal/apiv1"
)

// nodeCmd is `muster node`.
type nodeCmd struct {
	clientFlags
	List    nodeListCmd    `cmd:"" help:"List the nodes."`
	Show    nodeShowCmd    `cmd:"" help:"Show one node."`
	Watch   nodeWatchCmd   `cmd:"" help:"Print a line for each change of a node, until Ctrl-C."`
	State   nodeStateCmd   `cmd:"" help:"Show how far nodes have applied the replicated log, and compare the hashes of their states."`
	Drain   nodeDrainCmd   `cmd:"" help:"Empty a node before maintenance, and say when it is safe to stop."`
	Undrain nodeUndrainCmd `cmd:"" help:"Let a node take agents again."`
	Remove  nodeRemoveCmd  `cmd:"" help:"Remove a node from the cluster for good."`
}

// nodes fetches all nodes; a cluster has tens.
func (a *app) nodes() (apiv1.Page[apiv1.Node], error) {
	var page apiv1.Page[apiv1.Node]
	err := a.call(http.MethodGet, fmt.Sprintf("/v1/nodes?limit=%d", apiv1.MaxPageLimit), nil, &page)
	return page, err
}

type nodeListCmd struct {
	listFlags
}

// Run lists the nodes.
func (c *nodeListCmd) Run(a *app) error {
	nodes, err := list[apiv1.Node](a, "/v1/nodes", nil, c.Limit)
	if err != nil {
		return err
	}
	t := &table{head: []string{"NAME", "ROLE", "STATE", "LOAD", "AGENTS", "LIMIT", "SHARE", "RECORDS/S", "CPU", "MEMORY", "REPORT", "VERSION", "ZONE", "FOR AGENTS", "SERVER ID"}}
	for _, n := range nodes {
		t.add(n.Name, n.Role, nodeState(n), loadBar(n), count(uint64(n.Load.Sessions)), count(uint64(n.Load.Limit)), shareOf(n), count(uint64(n.Load.RecordsPerSecond)),
			percent(n.Load.CPUPermille), percent(n.Load.MemoryPermille), a.age(n.ReportedAt), dash(n.Version), dash(n.Zone), dash(n.Addresses.Agents), dash(n.ServerID))
	}
	return a.show(nodes, t)
}

func nodeState(n apiv1.Node) string {
	state := n.State
	if n.Draining && state != "draining" {
		state += ",draining"
	}
	if len(n.Degraded) > 0 {
		state += ",degraded"
	}
	return state
}

func percent(permille uint16) string { return fmt.Sprintf("%.0f%%", float64(permille)/10) }

// loadBar shows how much of its limit a node holds, always as wide.
func loadBar(n apiv1.Node) string {
	const width = 10
	if n.State == "dead" || n.Load.Limit == 0 {
		return "-"
	}
	part := float64(n.Load.Sessions) / float64(n.Load.Limit)
	full := min(width, int(part*width+0.5))
	return fmt.Sprintf("[%s%s] %3.0f%%", strings.Repeat("#", full), strings.Repeat("-", width-full), min(999, part*100))
}

// shareOf is what a node holds of what it should.
func shareOf(n apiv1.Node) string {
	if n.State == "dead" || n.FairShare <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*float64(n.Load.Sessions)/n.FairShare)
}

type nodeShowCmd struct {
	Name string `arg:"" help:"The node's name or server ID."`
}

// Run shows one node.
func (c *nodeShowCmd) Run(a *app) error {
	var n apiv1.Node
	if err := a.call(http.MethodGet, apiclient.Path("v1", "nodes", c.Name), nil, &n); err != nil {
		return err
	}
	t := &table{}
	t.add("Name", n.Name)
	t.add("Server ID", dash(n.ServerID))
	state := []string{n.State}
	if n.Draining && n.State != "draining" {
		state = append(state, "it is to be empty (muster node undrain ends that)")
	}
	t.add("State", strings.Join(append(state, n.Degraded...), "; "))
	role := n.Role
	if n.Term > 0 {
		role += fmt.Sprintf(", term %d, follows %s", n.Term, dash(n.Follows))
	}
	t.add("Role", role)
	t.add("Version", fmt.Sprintf("%s, format %d, started %s", dash(n.Version), n.Format, a.age(n.StartedAt)))
	t.add("Zone", dash(n.Zone))
	t.add("Agents", fmt.Sprintf("%s of at most %s %s", count(uint64(n.Load.Sessions)), count(uint64(n.Load.Limit)), loadBar(n)))
	share := "it should hold none"
	if n.FairShare > 0 {
		share = fmt.Sprintf("%s of the %s that it should hold", shareOf(n), count(uint64(n.FairShare+0.5)))
	}
	t.add("Share", share)
	t.add("Records", fmt.Sprintf("%s/s, %s not yet in Kafka, which is %s", count(uint64(n.Load.RecordsPerSecond)), count(uint64(n.Load.KafkaBacklog)), n.Kafka))
	t.add("Load", fmt.Sprintf("CPU %s, memory %s, spool %s", percent(n.Load.CPUPermille), percent(n.Load.MemoryPermille), percent(n.Load.SpoolPermille)))
	t.add("Applied", fmt.Sprintf("%d, %d behind", n.Applied, n.Lag))
	t.add("Certificate", "ends "+a.until(n.CertificateEnd))
	t.add("Report", a.age(n.ReportedAt))
	stop := "yes"
	if !n.SafeToStop {
		stop = "no: " + strings.Join(n.WhyNot, "; ")
	}
	t.add("Safe to stop", stop)
	for _, addr := range []struct{ name, addr string }{
		{"agents", n.Addresses.Agents}, {"http", n.Addresses.HTTP}, {"https", n.Addresses.HTTPS}, {"sd", n.Addresses.SD}, {"node", n.Addresses.Node},
	} {
		t.add("Address: "+addr.name, dash(addr.addr))
	}
	return a.show(n, t)
}

type nodeStateCmd struct {
	Names []string `arg:"" optional:"" name:"node" help:"Names or server IDs; all live nodes when left out."`
}

// Run asks each node through the one that --addr names, and fails if one does
// not answer or if two differ.
func (c *nodeStateCmd) Run(a *app) error {
	names := c.Names
	if len(names) == 0 {
		page, err := a.nodes()
		if err != nil {
			return err
		}
		for _, n := range page.Items {
			if n.State != "dead" {
				names = append(names, n.ServerID)
			}
		}
	}
	states := []apiv1.NodeState{}
	var failed error
	for _, name := range names {
		var s apiv1.NodeState
		if err := a.call(http.MethodGet, apiclient.Path("v1", "nodes", name, "state"), nil, &s); err != nil {
			failed = err
			continue
		}
		states = append(states, s)
	}
	t := &table{head: []string{"NODE", "SERVER ID", "APPLIED", "STATE", "HASH"}}
	for _, s := range states {
		ready := "ready"
		if !s.Ready {
			ready = "not-ready"
		}
		t.add(s.Node, s.ServerID, fmt.Sprint(s.Applied), ready, dash(s.Hash))
	}
	if len(states) > 0 || a.flags.Output != "table" {
		if err := a.show(states, t); err != nil {
			return err
		}
	}
	if differ := compareStates(states); differ != nil {
		return differ
	}
	return failed
}

// compareStates is an error if two nodes differ at the same index, where they
// must not.
func compareStates(states []apiv1.NodeState) error {
	seen := map[uint64]apiv1.NodeState{}
	for _, s := range states {
		other, ok := seen[s.Applied]
		if ok && s.Hash != other.Hash && s.Hash != "" && other.Hash != "" {
			return fmt.Errorf("%s and %s differ at index %d: one of them is damaged; the one that is quarantined says so in its log and /readyz", other.Node, s.Node, s.Applied)
		}
		seen[s.Applied] = s
	}
	return nil
}

type nodeRemoveCmd struct {
	Name  string `arg:"" help:"The node's name or server ID."`
	Force bool   `help:"Remove it although it is alive: its agents go to other nodes, and all nodes refuse it from then on."`
}

// Run removes a node.
func (c *nodeRemoveCmd) Run(a *app) error {
	path := apiclient.Path("v1", "nodes", c.Name)
	if c.Force {
		path += "?force=true"
	}
	var out apiv1.RemovedNode
	if err := a.call(http.MethodDelete, path, nil, &out); err != nil {
		return err
	}
	return a.done(out, "Node %s is removed; the cluster has %s. %s", out.Node, plural(out.Voters, "voter"), out.Next)
}
