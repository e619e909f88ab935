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
	Cluster       Cluster       `json:"cluster"`
	Store         Store         `json:"store"`
	Agents        AgentCounts   `json:"agents"`
	Records       Ledger        `json:"records"`
	Kafka         Kafka         `json:"kafka"`
	Certificates  []Certificate `json:"certificates"`
	Listeners     []Listener    `json:"listeners"`
}

// Cluster is the cluster as the node that answers sees it.
type Cluster struct {
	ID          string `json:"id"`
	Leader      string `json:"leader" description:"Name of the node that leads, empty when none is known."`
	Term        uint64 `json:"term"`
	Role        string `json:"role" enum:"leader,voter,non-voter,none" description:"This node's; none: it is not a member yet, or was removed."`
	Members     int    `json:"members" description:"Voters and others."`
	Voters      int    `json:"voters"`
	VotersAlive int    `json:"voters_alive"`
	Quorum      int    `json:"quorum" description:"How many voters must be alive for the cluster to take writes."`
	Quarantined string `json:"quarantined,omitempty" description:"Why this node's state is not trusted: it differs from the leader's."`
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
	Recovered uint64            `json:"recovered" description:"Of those received: found in the spool at the start."`
	// SpooledBytes is disk.
	SpooledBytes int64 `json:"spooled_bytes" description:"Disk that the spool takes."`
	// PossibleDuplicates are counted among the others too.
	PossibleDuplicates uint64 `json:"possible_duplicates" description:"Of those received: sent again after an attempt without an answer, so perhaps twice in Kafka."`
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
