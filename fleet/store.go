// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

// Table names a part of the replicated state that can be watched.
type Table string

// The tables.
const (
	TableUsers   Table = "users"
	TableTokens  Table = "tokens"
	TableKeys    Table = "keys"
	TableAgents  Table = "agents"  // inventory
	TableDesired Table = "desired" // default config, agents' own config, tags
	TableTasks   Table = "tasks"   // tasks created, run, cancelled or ended; not results
)

// StoreStatus is the state of a node's part in the replicated store.
type StoreStatus struct {
	ServerID  string `json:"server_id"`
	ClusterID string `json:"cluster_id"`
	Role      string `json:"role"` // leader, follower, candidate, shutdown
	Leader    string `json:"leader"`
	Term      uint64 `json:"term"`
	Applied   uint64 `json:"applied"` // index of the last command applied here
	LastIndex uint64 `json:"last_index"`
	// LogTime is the largest stamp applied, in Unix seconds.
	LogTime int64 `json:"log_time"`
	// Hash is the logical hash of the state at Applied, in hex.
	Hash   string `json:"hash"`
	Format int    `json:"format"`
	// Current tells whether this node may push config and tasks to its agents.
	Current bool `json:"current"`
	// LeaderContactAgeMS is how long ago the leader was heard, 0 on the leader.
	LeaderContactAgeMS int64 `json:"leader_contact_age_ms"`
	Agents             int   `json:"agents"`
	StateBytes         int64 `json:"state_bytes"`
	// Quarantined says why this node's state is not trusted: it differs from the
	// leader's at the same index. Empty is the rule.
	Quarantined string `json:"quarantined,omitempty"`
}

// TagCount is a tag and how many agents carry it.
type TagCount struct {
	Tag    string `json:"tag"`
	Agents int    `json:"agents"`
}
