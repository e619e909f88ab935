// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"muster/internal/apiclient"
	"muster/internal/apiv1"
)

// statusCmd is `muster status`.
type statusCmd struct {
	clientFlags
}

// Run prints the node's account of itself.
func (c *statusCmd) Run(a *app) error {
	var s apiv1.Status
	if err := a.call(http.MethodGet, "/v1/status", nil, &s); err != nil {
		return err
	}
	return a.show(s, a.statusTable(s))
}

func (a *app) statusTable(s apiv1.Status) *table {
	t := &table{}
	t.add("Node", fmt.Sprintf("%s, version %s, up %s", s.Node, s.Version, duration(a.now().Sub(s.StartedAt))))
	state := "starting or stopping: it takes no agents"
	switch {
	case s.Ready && len(s.Degraded) > 0:
		state = "ready, degraded: " + strings.Join(s.Degraded, "; ")
	case s.Ready:
		state = "ready"
	case len(s.Degraded) > 0:
		state += ": " + strings.Join(s.Degraded, "; ")
	}
	t.add("State", state)
	t.add("Cluster", s.Store.ClusterID)
	t.add("Store", storeLine(s.Store))
	agents := fmt.Sprintf("%s connected here", count(s.Agents.Connected))
	if s.Agents.Limit > 0 {
		agents += fmt.Sprintf(" (limit %s)", count(s.Agents.Limit))
	}
	t.add("Agents", fmt.Sprintf("%s, %s known", agents, count(s.Agents.Known)))
	t.add("Records", fmt.Sprintf("%.1f/s", s.Records.PerSecond))
	t.add("", ledgerLine(s.Records))
	t.add("Kafka", kafkaLine(s.Kafka))
	for i, c := range s.Certificates {
		t.add(first(i, "Certificates"), fmt.Sprintf("%s: ends %s (%s)", c.Name, a.until(c.NotAfter), c.NotAfter.UTC().Format("2006-01-02")))
	}
	for i, l := range s.Listeners {
		t.add(first(i, "Listeners"), fmt.Sprintf("%s %s", l.Name, l.Addr))
	}
	return t
}

// first names only the first of several lines.
func first(i int, name string) string {
	if i == 0 {
		return name
	}
	return ""
}

func storeLine(s apiv1.Store) string {
	line := fmt.Sprintf("%s, term %d, applied %d of %d, %s", s.Role, s.Term, s.Applied, s.LastIndex, size(s.StateBytes))
	switch {
	case s.Leader == "":
		line += ", NO LEADER: changes are refused until there is one"
	case s.Role != "leader":
		line += fmt.Sprintf(", leader %s heard %d ms ago", s.Leader, s.LeaderContactAgeMS)
	}
	if !s.Current {
		line += ", not current: pushes nothing to agents"
	}
	return line
}

func ledgerLine(l apiv1.Ledger) string {
	dropped := make([]string, 0, len(l.Dropped))
	var lost uint64
	for _, reason := range slices.Sorted(maps.Keys(l.Dropped)) {
		if n := l.Dropped[reason]; n > 0 {
			lost += n
			dropped = append(dropped, fmt.Sprintf("%s %s", reason, count(n)))
		}
	}
	line := fmt.Sprintf("%s received = %s delivered + %s pending + %s spooled + %s refused + %s dropped",
		count(l.Received), count(l.Delivered), count(l.Pending), count(l.Spooled), count(l.Refused), count(lost))
	if len(dropped) > 0 {
		line += " (" + strings.Join(dropped, ", ") + ")"
	}
	return line
}

func kafkaLine(k apiv1.Kafka) string {
	line := k.State
	if k.AwaySeconds > 0 {
		line += fmt.Sprintf(" for %d s", k.AwaySeconds)
	}
	line += ", topic " + dash(k.Topic) + " at " + dash(strings.Join(k.Brokers, ","))
	if k.Embedded {
		line += ", embedded"
	}
	if !k.Replicated && k.Embedded {
		line += ", not replicated"
	}
	if k.Detail != "" {
		line += ": " + k.Detail
	}
	return line
}

// nodeCmd is `muster node`.
type nodeCmd struct {
	clientFlags
	List nodeListCmd `cmd:"" help:"List the nodes."`
	Show nodeShowCmd `cmd:"" help:"Show one node."`
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
	t := &table{head: []string{"NAME", "STATE", "AGENTS", "LIMIT", "RECORDS/S", "CPU", "MEMORY", "REPORT", "VERSION", "ZONE", "FOR AGENTS"}}
	for _, n := range nodes {
		t.add(n.Name, nodeState(n), count(uint64(n.Load.Sessions)), count(uint64(n.Load.Limit)), count(uint64(n.Load.RecordsPerSecond)),
			percent(n.Load.CPUPermille), percent(n.Load.MemoryPermille), a.age(n.ReportedAt), dash(n.Version), dash(n.Zone), dash(n.Addresses.Agents))
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
	Name string `arg:"" help:"The node's name."`
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
	t.add("Version", fmt.Sprintf("%s, format %d, started %s", dash(n.Version), n.Format, a.age(n.StartedAt)))
	t.add("Zone", dash(n.Zone))
	t.add("Agents", fmt.Sprintf("%s of at most %s", count(uint64(n.Load.Sessions)), count(uint64(n.Load.Limit))))
	t.add("Records", fmt.Sprintf("%s/s, %s not yet in Kafka", count(uint64(n.Load.RecordsPerSecond)), count(uint64(n.Load.KafkaBacklog))))
	t.add("Load", fmt.Sprintf("CPU %s, memory %s, spool %s", percent(n.Load.CPUPermille), percent(n.Load.MemoryPermille), percent(n.Load.SpoolPermille)))
	t.add("Applied", count(n.Load.Applied))
	t.add("Report", a.age(n.ReportedAt))
	for _, addr := range []struct{ name, addr string }{
		{"agents", n.Addresses.Agents}, {"http", n.Addresses.HTTP}, {"https", n.Addresses.HTTPS}, {"sd", n.Addresses.SD}, {"node", n.Addresses.Node},
	} {
		t.add("Address: "+addr.name, dash(addr.addr))
	}
	return a.show(n, t)
}
