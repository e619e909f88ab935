// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import "strings"

// MaxAgentIDBytes is the longest agent ID that is accepted.
const MaxAgentIDBytes = 128

// CheckAgentID refuses an ID that is not 1 to 128 bytes of printable ASCII
// without spaces.
func CheckAgentID(id string) error {
	if id == "" {
		return Invalid("agent_id", "is empty")
	}
	if len(id) > MaxAgentIDBytes {
		return Invalid("agent_id", "is %d bytes long, at most %d are accepted", len(id), MaxAgentIDBytes)
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return Invalid("agent_id", "byte %d is not printable ASCII", i)
		}
	}
	return nil
}

// Identity is what an agent says about itself with every message.
type Identity struct {
	AgentID      string   `json:"agent_id"`
	Hostname     string   `json:"hostname"`
	Version      string   `json:"version"`
	Product      string   `json:"product"`
	IntranetIPv4 []string `json:"intranet_ipv4"`
	ExtranetIPv4 []string `json:"extranet_ipv4"`
	IntranetIPv6 []string `json:"intranet_ipv6"`
	ExtranetIPv6 []string `json:"extranet_ipv6"`
}

// Clone returns a copy that shares no memory with i.
func (i Identity) Clone() Identity {
	list := func(in []string) []string {
		if in == nil {
			return nil
		}
		out := make([]string, len(in))
		for j, s := range in {
			out[j] = strings.Clone(s)
		}
		return out
	}
	return Identity{
		AgentID: strings.Clone(i.AgentID), Hostname: strings.Clone(i.Hostname),
		Version: strings.Clone(i.Version), Product: strings.Clone(i.Product),
		IntranetIPv4: list(i.IntranetIPv4), ExtranetIPv4: list(i.ExtranetIPv4),
		IntranetIPv6: list(i.IntranetIPv6), ExtranetIPv6: list(i.ExtranetIPv6),
	}
}

// AgentReport is what a node tells the replicated inventory about an agent
// whose stream it holds: at first sight, on change, at disconnect and hourly.
type AgentReport struct {
	Identity
	// Facts are the heartbeat fields of FactFields that are known.
	Facts map[string]string `json:"facts,omitempty"`
	// Plugins maps a plugin's name to its version.
	Plugins map[string]string `json:"plugins,omitempty"`
	// Node is the name of the node that holds, or last held, the stream.
	Node string `json:"node"`
	// SeenAt is when the agent was last heard, in Unix seconds.
	SeenAt int64 `json:"seen_at"`
}

// Agent is an agent as the replicated inventory knows it, online or not.
type Agent struct {
	AgentReport
	// Number is dense, starts at 1 and is never given to another agent.
	Number uint32 `json:"number"`
	// FirstSeen is in Unix seconds.
	FirstSeen int64 `json:"first_seen"`
	// Tags are sorted.
	Tags []string `json:"tags"`
}

// Session is a snapshot of an agent's live stream, with its last heartbeat.
type Session struct {
	Identity
	// Epoch orders the sessions of one agent: the newest has the largest.
	Epoch uint64 `json:"epoch"`
	// RemoteAddr is the host:port that the stream comes from.
	RemoteAddr string `json:"remote_addr"`
	// Node is the name of the node that holds the stream.
	Node string `json:"node"`
	// ConnectedAt and SeenAt (last message) are in Unix seconds.
	ConnectedAt int64 `json:"connected_at"`
	SeenAt      int64 `json:"seen_at"`
	// HeartbeatAt is when the last 1000 record came, 0 before the first.
	HeartbeatAt int64 `json:"heartbeat_at"`
	// Heartbeat holds the fields of the last 1000 record.
	Heartbeat map[string]string `json:"heartbeat"`
	// Plugins holds the last 1001 record of each plugin, by name.
	Plugins map[string]PluginHeartbeat `json:"plugins"`
	// ConfigRevision is the desired config last written to the stream, 0 if none was.
	ConfigRevision uint64 `json:"config_revision"`
	// Records counts the records received on the stream.
	Records uint64 `json:"records"`
}

// PluginHeartbeat is the last 1001 record of one plugin.
type PluginHeartbeat struct {
	At     int64             `json:"at"` // Unix seconds
	Fields map[string]string `json:"fields"`
}
