// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"muster/internal/apiv1"
)

// statusCmd is `muster status`.
type statusCmd struct {
	clientFlags
}

// clusterStatus is what `muster status` knows: one node's account of itself, and
// all nodes.
type clusterStatus struct {
	apiv1.Status
	Nodes   []apiv1.Node `json:"nodes"`
	Missing []string     `json:"missing,omitempty"`
}

// Run prints the cluster, and the asked node's account of itself.
func (c *statusCmd) Run(a *app) error {
	var s clusterStatus
	if err := a.call(http.MethodGet, "/v1/status", nil, &s.Status); err != nil {
		return err
	}
	nodes, err := a.nodes()
	if err != nil {
		return err
	}
	s.Nodes = nodes.Items
	if nodes.PageInfo != nil {
		s.Missing = nodes.PageInfo.Missing
	}
	if a.flags.Output != "table" {
		return a.show(s, nil)
	}
	for i, part := range []*table{a.clusterTable(s), a.nodesTable(s.Nodes), a.statusTable(s.Status)} {
		if i > 0 {
			_, _ = fmt.Fprintln(a.out)
		}
		if err := part.write(a.out); err != nil {
			return err
		}
	}
	return nil
}

// clusterTable says who leads, how many voters are up, and what to do about
// what is wrong.
func (a *app) clusterTable(s clusterStatus) *table {
	c := s.Cluster
	leads := "NO LEADER: changes are refused until there is one"
	if c.Leader != "" {
		leads = fmt.Sprintf("%s leads, term %d", c.Leader, c.Term)
	}
	up := "are"
	if c.VotersAlive == 1 {
		up = "is"
	}
	t := &table{}
	t.add(fmt.Sprintf("Cluster %s: %s; %d of %s %s up, %d must be", dash(c.ID), leads, c.VotersAlive, plural(c.Voters, "voter"), up, c.Quorum))
	for _, line := range a.advice(s) {
		t.add("  ! " + line)
	}
	return t
}

const (
	// renewLate is how long before its end a node's certificate should have been
	// renewed.
	renewLate = 5 * 24 * time.Hour
	// farBehind is a lag that does not pass by itself in a second.
	farBehind = 1000
)

// advice says what is wrong with the cluster and what to do, the worst first.
func (a *app) advice(s clusterStatus) []string {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	c := s.Cluster
	switch {
	case c.VotersAlive < c.Quorum:
		say("the majority is lost: start the dead nodes with their data. Only if that is lost for good: stop the node of those that are left whose log goes furthest (/readyz of each says how far), and start it once with --recover --yes")
	case c.Leader == "":
		say("no leader is known to %s: there should be one in a few seconds; if not, see the logs of the voters", s.Node)
	case c.VotersAlive < c.Voters && c.VotersAlive == c.Quorum:
		say("if one more voter is lost, all changes are refused")
	}
	if c.Quarantined != "" {
		say("%s is quarantined: %s", s.Node, c.Quarantined)
	}
	for _, n := range s.Nodes {
		if n.State == "dead" && n.Role != "none" { // else it was removed, or its data directory was
			if c.VotersAlive < c.Quorum {
				say("%s is dead", n.Name) // nothing can be removed now
				continue
			}
			say("%s is dead: start it again, or, if it is lost for good: muster node remove %s", n.Name, nodeArg(n, s.Nodes))
		}
	}
	for _, n := range s.Nodes {
		switch {
		case n.State == "dead":
			continue
		case n.Role == "none":
			say("%s is not a member: if it was removed, stop it, else see its log for what it waits for", n.Name)
		case n.State == "not-ready":
			say("%s is not ready: its /readyz says why%s", n.Name, at(n.Addresses.HTTP))
		}
		for _, fault := range n.Degraded {
			say("%s: %s", n.Name, fault)
		}
		if n.Lag > farBehind {
			say("%s is %s entries behind; it catches up by itself", n.Name, count(n.Lag))
		}
		if !n.CertificateEnd.IsZero() && n.CertificateEnd.Sub(a.now()) < renewLate {
			say("%s: its certificate ends %s and is not renewed: see its log", n.Name, a.until(n.CertificateEnd))
		}
	}
	return lines
}

func at(addr string) string {
	if addr == "" {
		return ""
	}
	return ", at " + addr
}

// nodeArg names a node on a command line: by its server ID if others have its
// name too.
func nodeArg(n apiv1.Node, all []apiv1.Node) string {
	same := 0
	for _, other := range all {
		if other.Name == n.Name {
			same++
		}
	}
	if same > 1 {
		return n.ServerID
	}
	return n.Name
}

// nodesTable is a line for each node; the star stands at the one that was asked.
func (a *app) nodesTable(nodes []apiv1.Node) *table {
	t := &table{head: []string{"NODE", "ROLE", "STATE", "TERM", "APPLIED", "LAG", "AGENTS", "RECORDS/S", "KAFKA", "VERSION", "UPTIME", "CERTIFICATE ENDS"}}
	for _, n := range nodes {
		name := n.Name
		if n.Self {
			name += "*"
		}
		term, lag, agents, records, uptime := "-", "-", "-", "-", "-"
		if n.Term > 0 {
			term = strconv.FormatUint(n.Term, 10)
		}
		if n.Role != "none" {
			lag = strconv.FormatUint(n.Lag, 10)
		}
		if n.State != "dead" {
			agents, records = count(uint64(n.Load.Sessions)), count(uint64(n.Load.RecordsPerSecond))
		}
		if n.UptimeSeconds > 0 {
			uptime = duration(time.Duration(n.UptimeSeconds) * time.Second)
		}
		t.add(name, n.Role, nodeState(n), term, strconv.FormatUint(n.Applied, 10), lag,
			agents, records, n.Kafka, dash(n.Version), uptime, a.until(n.CertificateEnd))
	}
	return t
}

func (a *app) statusTable(s apiv1.Status) *table {
	t := &table{}
	t.add("Node", fmt.Sprintf("%s, version %s, up %s", s.Node, s.Version, duration(a.now().Sub(s.StartedAt))))
	state := "not ready"
	switch {
	case s.Ready && len(s.Degraded) > 0:
		state = "ready, degraded: " + strings.Join(s.Degraded, "; ")
	case s.Ready:
		state = "ready"
	case len(s.Degraded) > 0:
		state += ": " + strings.Join(s.Degraded, "; ")
	}
	t.add("State", state)
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
	if l.SpooledBytes > 0 {
		line += fmt.Sprintf("; the spool takes %d MiB of disk", (l.SpooledBytes+1<<20-1)>>20)
	}
	if l.Recovered > 0 {
		line += fmt.Sprintf("; %s of the received were found in it at the start", count(l.Recovered))
	}
	if l.PossibleDuplicates > 0 {
		line += fmt.Sprintf("; %s may be in Kafka twice", count(l.PossibleDuplicates))
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
