// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package apiv1

import "time"

// Status is a node's account of itself.
type Status struct {
	Node          string        `json:"node"`
	Version       string        `json:"version"`
	StartedAt     time.Time     `json:"started_at"`
	UptimeSeconds int64         `json:"uptime_seconds"`
	Ready         bool          `json:"ready"`
	Degraded      []string      `json:"degraded" description:"What does not work as it should, in words."`
	Store         Store         `json:"store"`
	Agents        AgentCounts   `json:"agents"`
	Records       Ledger        `json:"records"`
	Kafka         Kafka         `json:"kafka"`
	Certificates  []Certificate `json:"certificates"`
	Listeners     []Listener    `json:"listeners"`
}

// Store is the node's part in the replicated store.
type Store struct {
	ServerID           string    `json:"server_id"`
	ClusterID          string    `json:"cluster_id"`
	Role               string    `json:"role" description:"leader, follower, candidate or shutdown"`
	Leader             string    `json:"leader" description:"The server ID of the leader, empty when there is none."`
	Term               uint64    `json:"term"`
	Applied            uint64    `json:"applied" description:"Index of the last command applied here."`
	LastIndex          uint64    `json:"last_index"`
	LogTime            time.Time `json:"log_time,omitzero" description:"The newest stamp applied."`
	Hash               string    `json:"hash" description:"Logical hash of the state at applied."`
	Format             int       `json:"format"`
	Current            bool      `json:"current" description:"Whether this node may push config and tasks now."`
	LeaderContactAgeMS int64     `json:"leader_contact_age_ms"`
	StateBytes         int64     `json:"state_bytes"`
}

// AgentCounts counts agents as a node sees them.
type AgentCounts struct {
	Connected int `json:"connected" description:"Streams that this node holds."`
	Known     int `json:"known" description:"Agents in the replicated inventory, online or not."`
	Limit     int `json:"limit,omitempty" description:"The most streams that this node takes."`
}

// Ledger accounts for every record since the process began:
// received = delivered + pending + spooled + refused + the sum of dropped.
type Ledger struct {
	PerSecond float64           `json:"per_second" description:"Records received, over the last seconds."`
	Received  uint64            `json:"received"`
	Delivered uint64            `json:"delivered" description:"Acknowledged by Kafka."`
	Pending   uint64            `json:"pending" description:"In memory."`
	Spooled   uint64            `json:"spooled" description:"On this node's disk."`
	Refused   uint64            `json:"refused" description:"Larger than Kafka takes: not delivered."`
	Dropped   map[string]uint64 `json:"dropped" description:"Lost, by reason."`
}

// Kafka is the state of the node's way to Kafka.
type Kafka struct {
	State       string   `json:"state" description:"ok, away or starting"`
	Brokers     []string `json:"brokers"`
	Topic       string   `json:"topic"`
	Embedded    bool     `json:"embedded" description:"True when a broker inside a node stands in for a cluster."`
	Replicated  bool     `json:"replicated" description:"False for an embedded broker: its node's disk is the only copy."`
	AwaySeconds int64    `json:"away_seconds,omitempty"`
	Detail      string   `json:"detail,omitempty" description:"The last fault, in words."`
}

// Certificate is one that the node presents.
type Certificate struct {
	Name     string    `json:"name"`
	NotAfter time.Time `json:"not_after"`
}

// Listener is an address that the node serves.
type Listener struct {
	Name string `json:"name"`
	Addr string `json:"addr"`
}

// Node is a member of the cluster, as the node that answers knows it.
type Node struct {
	Name       string    `json:"name"`
	ServerID   string    `json:"server_id" description:"Of its data directory: another one under the same name is another node."`
	State      string    `json:"state" enum:"ready,draining,not-ready,dead"`
	Degraded   []string  `json:"degraded" description:"What does not work as it should, in words."`
	Self       bool      `json:"self" description:"True for the node that answers."`
	Version    string    `json:"version"`
	Format     int       `json:"format" description:"The highest format of the replicated state that it can apply."`
	Zone       string    `json:"zone"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	ReportedAt time.Time `json:"reported_at,omitzero" description:"When its last load report came."`
	Load       NodeLoad  `json:"load"`
	Addresses  Addresses `json:"addresses"`
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

// NodeState tells how far a node is: two nodes that applied the same commands
// have the same hash.
type NodeState struct {
	Node    string `json:"node"`
	Applied uint64 `json:"applied"`
	Hash    string `json:"hash,omitempty" description:"Logical hash of the state at applied; absent for another node than the one that answers: ask that one."`
}
