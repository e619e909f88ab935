// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package apiv1

import "time"

// Agent is an agent, online or not: what the inventory knows, and, when its
// stream is live, what it said last.
type Agent struct {
	ID             string            `json:"id"`
	Number         uint32            `json:"number,omitempty" description:"Dense number, never reused; absent until the inventory has the agent."`
	State          string            `json:"state" enum:"running,abnormal,offline"`
	Hostname       string            `json:"hostname"`
	Version        string            `json:"version"`
	Product        string            `json:"product"`
	IntranetIPv4   []string          `json:"intranet_ipv4"`
	ExtranetIPv4   []string          `json:"extranet_ipv4"`
	IntranetIPv6   []string          `json:"intranet_ipv6"`
	ExtranetIPv6   []string          `json:"extranet_ipv6"`
	Tags           []string          `json:"tags"`
	Node           string            `json:"node" description:"The node that holds, or last held, its stream."`
	FirstSeen      time.Time         `json:"first_seen,omitzero"`
	LastSeen       time.Time         `json:"last_seen,omitzero"`
	Plugins        []Plugin          `json:"plugins"`
	Facts          map[string]string `json:"facts" description:"Heartbeat fields that seldom change."`
	ConfigRevision uint64            `json:"config_revision" description:"Of the config last written to its stream, 0 if none was."`
	DesiredConfig  DesiredConfig     `json:"desired_config"`
	Session        *Session          `json:"session,omitempty" description:"The live stream, whichever node holds it; absent when no node that answered does."`
}

// DesiredConfig tells which config an agent should run.
type DesiredConfig struct {
	Revision uint64 `json:"revision" description:"0: nothing is sent."`
	Own      bool   `json:"own" description:"True when it was set for this agent, not by default."`
	Items    int    `json:"items"`
}

// Session is an agent's live stream.
type Session struct {
	RemoteAddr  string         `json:"remote_addr"`
	ConnectedAt time.Time      `json:"connected_at"`
	HeartbeatAt time.Time      `json:"heartbeat_at,omitzero"`
	Records     uint64         `json:"records" description:"Records received on the stream."`
	Heartbeat   map[string]any `json:"heartbeat" description:"The fields of the last heartbeat."`
}

// Plugin is a plugin of an agent.
type Plugin struct {
	Name     string    `json:"name"`
	Version  string    `json:"version"`
	LastSeen time.Time `json:"last_seen,omitzero"`
}

// AgentQuery chooses agents of a list.
type AgentQuery struct {
	State    string `query:"state" enum:"running,abnormal,offline" description:"Only agents in this state."`
	Tag      string `query:"tag" description:"Only agents that carry this tag."`
	Hostname string `query:"hostname" description:"Only agents whose host name begins so."`
	Q        string `query:"q" description:"Only agents whose ID, host name or an address contains this."`
}

// TagChange adds and removes tags of one agent.
type TagChange struct {
	Add    []string `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
}

// TagAgents adds one tag to agents and takes it from others, named by ID.
type TagAgents struct {
	Add    []string `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
}

// TagResult tells what a change of tags did.
type TagResult struct {
	Changed int      `json:"changed" description:"Agents whose tags are different now."`
	Unknown []string `json:"unknown" description:"IDs that no agent has; they were skipped."`
}

// Tag is a tag and how many agents carry it.
type Tag struct {
	Tag    string `json:"tag"`
	Agents int    `json:"agents"`
}

// ConfigItem is one component that an agent should run.
type ConfigItem struct {
	Name        string   `json:"name"`
	Type        string   `json:"type,omitempty"`
	Version     string   `json:"version,omitempty"`
	SHA256      string   `json:"sha256,omitempty" description:"Hex, of the file that download_url gives."`
	Signature   string   `json:"signature,omitempty" description:"Hex SHA-256 of the main file of a tar.gz."`
	DownloadURL []string `json:"download_url,omitempty"`
	Detail      string   `json:"detail,omitempty"`
}

// DefaultConfig is what an agent gets that has no config of its own.
type DefaultConfig struct {
	Type     string       `json:"type,omitempty"`
	Version  string       `json:"version,omitempty"`
	Config   []ConfigItem `json:"config"`
	Revision uint64       `json:"revision,omitempty" description:"Of the last change; absent if there never was one. Ignored in a PUT."`
}
