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
	List   nodeListCmd   `cmd:"" help:"List the nodes."`
	Show   nodeShowCmd   `cmd:"" help:"Show one node."`
	State  nodeStateCmd  `cmd:"" help:"Show how far nodes have applied the replicated log, and compare the hashes of their states."`
	Remove nodeRemoveCmd `cmd:"" help:"Remove a node from the cluster for good."`
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
	t := &table{head: []string{"NAME", "ROLE", "STATE", "AGENTS", "LIMIT", "RECORDS/S", "CPU", "MEMORY", "REPORT", "VERSION", "ZONE", "FOR AGENTS", "SERVER ID"}}
	for _, n := range nodes {
		t.add(n.Name, n.Role, nodeState(n), count(uint64(n.Load.Sessions)), count(uint64(n.Load.Limit)), count(uint64(n.Load.RecordsPerSecond)),
			percent(n.Load.CPUPermille), percent(n.Load.MemoryPermille), a.age(n.ReportedAt), dash(n.Version), dash(n.Zone), dash(n.Addresses.Agents), dash(n.ServerID))
	}
	return a.show(nodes, t)
}

func nodeState(n apiv1.Node) string {
	state := n.State
	if len(n.Degraded) > 0 {
		state += ",degraded"
	}
	return state
}

func percent(permille uint16) string { return fmt.Sprintf("%.0f%%", float64(permille)/10) }

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
	t.add("State", strings.Join(append([]string{n.State}, n.Degraded...), "; "))
	role := n.Role
	if n.Term > 0 {
		role += fmt.Sprintf(", term %d, follows %s", n.Term, dash(n.Follows))
	}
	t.add("Role", role)
	t.add("Version", fmt.Sprintf("%s, format %d, started %s", dash(n.Version), n.Format, a.age(n.StartedAt)))
	t.add("Zone", dash(n.Zone))
	t.add("Agents", fmt.Sprintf("%s of at most %s", count(uint64(n.Load.Sessions)), count(uint64(n.Load.Limit))))
	t.add("Records", fmt.Sprintf("%s/s, %s not yet in Kafka, which is %s", count(uint64(n.Load.RecordsPerSecond)), count(uint64(n.Load.KafkaBacklog)), n.Kafka))
	t.add("Load", fmt.Sprintf("CPU %s, memory %s, spool %s", percent(n.Load.CPUPermille), percent(n.Load.MemoryPermille), percent(n.Load.SpoolPermille)))
	t.add("Applied", fmt.Sprintf("%d, %d behind", n.Applied, n.Lag))
	t.add("Certificate", "ends "+a.until(n.CertificateEnd))
	t.add("Report", a.age(n.ReportedAt))
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
