// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"muster/fleet"
	"muster/internal/apiv1"
)

// Native is what only the native API asks a node for.
type Native struct {
	// Report is asked at each GET /v1/status; it must not block. It is required.
	Report func() NodeReport
	// AgentCertificates issues certificates for agents; nil on a node that
	// cannot, which answers so.
	AgentCertificates AgentCertificates
}

// NodeReport is what a node says about itself beside its Health, its sessions
// and its part in the replicated store.
type NodeReport struct {
	StartedAt time.Time
	// AgentLimit is the most streams that the node takes.
	AgentLimit   int
	Records      apiv1.Ledger
	Kafka        apiv1.Kafka
	Certificates []apiv1.Certificate
	Listeners    []apiv1.Listener
}

func (a *API) v1NodeRoutes() []Route {
	read := permit(fleet.PermFleetRead)
	return []Route{
		{
			Method: http.MethodGet, Path: "/v1/status", Access: read, handle: a.v1Status,
			Summary: "This node's account of itself.", Response: apiv1.Status{},
		},
		{
			Method: http.MethodGet, Path: "/v1/nodes", Access: read, handle: a.v1Nodes,
			Summary: "The cluster's nodes, by name.", Query: apiv1.PageQuery{}, Response: apiv1.Page[apiv1.Node]{},
		},
		{
			Method: http.MethodGet, Path: "/v1/nodes/:id", Access: read, handle: a.v1Node,
			Summary: "One node, by its name.", Query: pathID{}, Response: apiv1.Node{},
		},
		{
			Method: http.MethodGet, Path: "/v1/nodes/:id/state", Access: read, handle: a.v1NodeState,
			Summary: "How far a node has applied the replicated log, and the hash of its state.", Query: pathID{}, Response: apiv1.NodeState{},
		},
	}
}

func (a *API) v1Status(w http.ResponseWriter, _ *http.Request, _ *call) error {
	health, report, store := a.opts.Health(), a.opts.Native.Report(), a.opts.State.Status.Status()
	degraded := health.Degraded
	if !health.Ready {
		degraded = health.Reasons
	}
	s := apiv1.Status{
		Node: a.opts.Node.Name, Version: a.opts.Node.Version,
		StartedAt: report.StartedAt.UTC(), UptimeSeconds: int64(a.opts.Now().Sub(report.StartedAt) / time.Second),
		Ready: health.Ready, Degraded: nonNil(degraded),
		Store: apiv1.Store{
			ServerID: store.ServerID, ClusterID: store.ClusterID, Role: store.Role, Leader: store.Leader, Term: store.Term,
			Applied: store.Applied, LastIndex: store.LastIndex, LogTime: at(store.LogTime), Hash: store.Hash, Format: store.Format,
			Current: store.Current, LeaderContactAgeMS: store.LeaderContactAgeMS, StateBytes: store.StateBytes,
		},
		Agents: apiv1.AgentCounts{
			Connected: a.opts.Live.Sessions.SessionCount(), Known: a.opts.State.Agents.AgentCount(), Limit: report.AgentLimit,
		},
		Records: report.Records, Kafka: report.Kafka,
		Certificates: nonNil(report.Certificates), Listeners: nonNil(report.Listeners),
	}
	if s.Records.Dropped == nil {
		s.Records.Dropped = map[string]uint64{}
	}
	s.Kafka.Brokers = nonNil(s.Kafka.Brokers)
	for i := range s.Certificates {
		s.Certificates[i].NotAfter = s.Certificates[i].NotAfter.UTC()
	}
	return respond(w, http.StatusOK, s)
}

func (a *API) v1Nodes(w http.ResponseWriter, r *http.Request, _ *call) error {
	values, err := listQuery(r)
	if err != nil {
		return err
	}
	limit, after, err := limitAfter(values)
	if err != nil {
		return err
	}
	members := slices.Clone(a.opts.Directory.Members.Members())
	slices.SortFunc(members, func(x, y fleet.Member) int { return strings.Compare(nodeKey(x), nodeKey(y)) })
	i := 0
	for after != "" && i < len(members) && nodeKey(members[i]) <= after {
		i++
	}
	p := keyPage(members[i:], limit, nodeKey)
	return respond(w, http.StatusOK, apiv1.Page[apiv1.Node]{Items: convert(p.Items, a.showNode), Next: p.Next})
}

// nodeKey tells apart a node and its predecessor of the same name, whose data
// directory is lost.
func nodeKey(m fleet.Member) string { return m.NodeID + "~" + m.ServerID }

func (a *API) v1Node(w http.ResponseWriter, _ *http.Request, c *call) error {
	m, err := a.member(c.param("id"))
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, a.showNode(m))
}

func (a *API) v1NodeState(w http.ResponseWriter, _ *http.Request, c *call) error {
	name := c.param("id")
	if name == a.opts.Node.Name {
		s := a.opts.State.Status.Status()
		return respond(w, http.StatusOK, apiv1.NodeState{Node: name, Applied: s.Applied, Hash: s.Hash})
	}
	m, err := a.member(name)
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, apiv1.NodeState{Node: name, Applied: m.Load.Applied})
}

// member finds a node by its name; of two with that name the one that lives.
func (a *API) member(name string) (fleet.Member, error) {
	var found fleet.Member
	for _, m := range a.opts.Directory.Members.Members() {
		if m.NodeID == name && (found.NodeID == "" || m.Alive && !found.Alive) {
			found = m
		}
	}
	if found.NodeID == "" {
		return fleet.Member{}, fleet.Refuse(fleet.CodeNotFound, "no node is called %q; GET /v1/nodes lists them", clip(name))
	}
	return found, nil
}

func (a *API) showNode(m fleet.Member) apiv1.Node {
	l := m.Load
	n := apiv1.Node{
		Name: m.NodeID, ServerID: m.ServerID, State: "ready", Degraded: []string{},
		Self: m.NodeID == a.opts.Node.Name && m.Alive, Version: m.Version, Format: m.Format, Zone: m.Zone,
		StartedAt: m.Started.UTC(), ReportedAt: m.ReportedAt.UTC(),
		Load: apiv1.NodeLoad{
			Sessions: l.Sessions, Limit: l.Limit, RecordsPerSecond: l.RecordsPerSecond, KafkaBacklog: l.KafkaBacklog,
			CPUPermille: l.CPUPermille, MemoryPermille: l.MemoryPermille, SpoolPermille: l.SpoolPermille, Applied: l.Applied,
		},
		Addresses: apiv1.Addresses{Agents: m.AgentAddr, HTTP: m.HTTPAddr, HTTPS: m.HTTPSAddr, SD: m.SDAddr, Node: m.NodeAddr},
	}
	switch {
	case !m.Alive:
		n.State = "dead"
	case l.Draining:
		n.State = "draining"
	case !l.Ready:
		n.State = "not-ready"
	}
	if l.KafkaAway {
		n.Degraded = append(n.Degraded, "kafka is away")
	}
	if l.Leaderless {
		n.Degraded = append(n.Degraded, "it hears no leader")
	}
	return n
}
