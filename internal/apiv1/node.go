// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package apiv1

import "time"

// Node is a member of the cluster, as the node that answers knows it.
type Node struct {
	Name          string    `json:"name"`
	ServerID      string    `json:"server_id" description:"Of its data directory: another one under the same name is another node."`
	State         string    `json:"state" enum:"ready,draining,not-ready,dead"`
	Draining      bool      `json:"draining" description:"An operator wants it empty, until undrain. A dead node keeps the mark: it stays empty when it comes back."`
	Degraded      []string  `json:"degraded" description:"What does not work as it should, in words."`
	Role          string    `json:"role" enum:"leader,voter,non-voter,none" description:"none: not a member of the cluster yet, or removed from it."`
	Term          uint64    `json:"term,omitempty" description:"By its own account; absent when it did not answer."`
	Follows       string    `json:"follows,omitempty" description:"The node that it takes for the leader, by its own account."`
	Applied       uint64    `json:"applied" description:"Index of the last command that it applied."`
	Lag           uint64    `json:"lag" description:"How many entries it is behind the node that has applied most; 0 for one that is not a member."`
	Kafka         string    `json:"kafka" enum:"ok,away,unknown"`
	Self          bool      `json:"self" description:"True for the node that answers."`
	Version       string    `json:"version"`
	Format        int       `json:"format" description:"The highest format of the replicated state that it can apply."`
	Zone          string    `json:"zone"`
	StartedAt     time.Time `json:"started_at,omitzero"`
	UptimeSeconds int64     `json:"uptime_seconds,omitempty" description:"Absent for a dead node."`
	// CertificateEnd is that of the certificate that it shows to other nodes.
	CertificateEnd time.Time `json:"certificate_end,omitzero" description:"When its certificate for other nodes ends; it renews it by itself before. Absent when it did not answer."`
	ReportedAt     time.Time `json:"reported_at,omitzero" description:"When its last load report came."`
	Load           NodeLoad  `json:"load"`
	// FairShare is not rounded, so that the shares of all nodes add up.
	FairShare  float64   `json:"fair_share" description:"The agents' streams that it should hold: those of all nodes, in proportion to the limits of the nodes that can take agents; 0 for the others."`
	SafeToStop bool      `json:"safe_to_stop" description:"It drains, holds no agent, and the cluster goes on without it."`
	WhyNot     []string  `json:"why_not" description:"What speaks against stopping it now, in words; empty when safe_to_stop."`
	Addresses  Addresses `json:"addresses"`
}

// NodeChange is one event of the stream of GET /v1/nodes.
type NodeChange struct {
	Change string `json:"change" enum:"joined,left,dead,state,load" description:"joined and left: the list. dead: it is not heard any more. state: what it is or can do. load: only numbers, at most once a second."`
	Node   Node   `json:"node" description:"As it is now; as it was, if it left."`
}

// StreamEnd is the last event of a stream that the node ends.
type StreamEnd struct {
	Detail string `json:"detail" description:"Why, and what to do about it."`
}

// NodeLoad is what a node reports each second.
type NodeLoad struct {
	Sessions         uint32 `json:"sessions" description:"Agents' streams that it holds."`
	Limit            uint32 `json:"limit" description:"The most streams that it takes."`
	RecordsPerSecond uint32 `json:"records_per_second"`
	KafkaBacklog     uint32 `json:"kafka_backlog" description:"Records not yet acknowledged by Kafka."`
	CPUPermille      uint16 `json:"cpu_permille"`
	MemoryPermille   uint16 `json:"memory_permille"`
	SpoolPermille    uint16 `json:"spool_permille"`
	Applied          uint64 `json:"applied" description:"Index of the last command that it applied."`
}

// Addresses are where a node is reached; empty for what it does not serve.
type Addresses struct {
	Agents string `json:"agents"`
	HTTP   string `json:"http"`
	HTTPS  string `json:"https"`
	SD     string `json:"sd"`
	Node   string `json:"node"`
}

// NodeState tells how far a node is, by its own account: two nodes that applied
// the same commands have the same hash.
type NodeState struct {
	Node     string `json:"node"`
	ServerID string `json:"server_id"`
	Applied  uint64 `json:"applied"`
	Hash     string `json:"hash,omitempty" description:"Logical hash of the state at applied."`
	Term     uint64 `json:"term,omitempty"`
	Ready    bool   `json:"ready" description:"Whether its state may be read."`
}

// RemovedNode is a node that is no longer a member.
type RemovedNode struct {
	Node     string `json:"node"`
	ServerID string `json:"server_id,omitempty"`
	Voters   int    `json:"voters" description:"How many are left."`
	Next     string `json:"next" description:"What to do with its machine, in words."`
}

// DrainQuery says how sure the caller is.
type DrainQuery struct {
	Force bool `query:"force" description:"Mark it although no other node can take agents: it keeps them until one can."`
}

// RemoveNodeQuery says how sure the caller is.
type RemoveNodeQuery struct {
	Force bool `query:"force" description:"Remove it although it is alive."`
}
