// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"net/http"
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
			Summary: "This node's account of itself, and the cluster as it sees it.", Response: apiv1.Status{},
		},
		{
			Method: http.MethodGet, Path: "/v1/nodes", Access: read, handle: a.v1Nodes, events: a.v1WatchNodes,
			Summary: "The cluster's nodes, by name; dead ones too. With Accept: text/event-stream, and without a query, a stream: first the event nodes, " +
				"with a page that holds them all, then an event node for each change, and a comment each 15 s; ids count from 1 in each stream. " +
				"Its nodes are not asked: they lack term, follows and certificate_end. A node has 64 streams at most. The event end, with the member detail, says why " +
				"the node ends one: it stops, or the token is not good any more.",
			Query: apiv1.PageQuery{}, Response: apiv1.Page[apiv1.Node]{}, Events: apiv1.NodeChange{},
		},
		{
			Method: http.MethodGet, Path: "/v1/nodes/:id", Access: read, handle: a.v1Node,
			Summary: "One node, by its name or server ID.", Query: pathID{}, Response: apiv1.Node{},
		},
		{
			Method: http.MethodGet, Path: "/v1/nodes/:id/state", Access: read, handle: a.v1NodeState,
			Summary: "How far any node has applied the replicated log, and the hash of its state; it is asked, for at most 2 s.", Query: pathID{}, Response: apiv1.NodeState{},
		},
		{
			Method: http.MethodDelete, Path: "/v1/nodes/:id", Access: permit(fleet.PermAdmin), handle: a.v1RemoveNode,
			Summary: "Remove a node from the cluster for good, by its name or server ID. A live one is only removed with ?force=true: its agents go to other nodes, and all refuse it from then on.",
			Query: struct {
				pathID
				apiv1.RemoveNodeQuery
			}{}, Response: apiv1.RemovedNode{},
		},
	}
}

func (a *API) v1Status(w http.ResponseWriter, _ *http.Request, _ *call) error {
	health, report, store := a.health(), a.opts.Native.Report(), a.opts.State.Status.Status()
	cluster, err := a.clusterStatus(store)
	if err != nil {
		return err
	}
	degraded := health.Degraded
	if !health.Ready {
		degraded = health.Reasons
	}
	s := apiv1.Status{
		Node: a.opts.Node.Name, Version: a.opts.Node.Version,
		StartedAt: report.StartedAt.UTC(), UptimeSeconds: int64(a.opts.Now().Sub(report.StartedAt) / time.Second),
		Ready: health.Ready, Degraded: nonNil(degraded),
		Cluster: cluster,
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

// clusterStatus is the cluster as this node sees it.
func (a *API) clusterStatus(store fleet.StoreStatus) (apiv1.Cluster, error) {
	views, err := a.nodeViews()
	if err != nil {
		return apiv1.Cluster{}, err
	}
	c := apiv1.Cluster{ID: store.ClusterID, Term: store.Term, Role: roleNone, Quarantined: store.Quarantined}
	for _, v := range views {
		if v.server.ID == "" {
			continue
		}
		c.Members++
		if v.server.Leader {
			c.Leader = v.name()
		}
		if v.self {
			c.Role = v.role()
		}
	}
	count := countVoters(views, "")
	c.Voters, c.VotersAlive, c.Quorum = count.all, count.alive, count.quorum()
	return c, nil
}
