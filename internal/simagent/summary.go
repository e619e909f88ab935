// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent

import (
	"fmt"
	"strings"
	"sync/atomic"
)

// counters count since New, over all agents. Their fields are Summary's.
type counters struct {
	agentCounters
	recordCounters
	networkCounters
	commandCounters
}

type agentCounters struct {
	connected, finished, unclean, exits, restarts atomic.Int64
}

type recordCounters struct {
	made, sent, others, dropped, failed, messages atomic.Int64
}

type networkCounters struct {
	lookups, lookupFailures, dials, dialFailures atomic.Int64
	streams, reconnects, bytesOut, bytesIn       atomic.Int64
}

type commandCounters struct {
	configs, wiped, updates, tasks, tasksDropped, uploads, uploadFails atomic.Int64
}

// Summary is what a fleet has done so far.
type Summary struct {
	Agents   AgentSummary   `json:"agents"`
	Records  RecordSummary  `json:"records"`
	Network  NetworkSummary `json:"network"`
	Commands CommandSummary `json:"commands"`
}

// AgentSummary counts agents and what became of them.
type AgentSummary struct {
	Total     int64 `json:"total"`
	Connected int64 `json:"connected"` // with an open stream now
	Finished  int64 `json:"finished"`  // sent all that they had to
	Unclean   int64 `json:"unclean"`   // closed their stream, and the server did not end it in time
	Exits     int64 `json:"exits"`     // ends of an agent's process, by a task, an update or seven failures
	Restarts  int64 `json:"restarts"`
}

// RecordSummary counts records.
type RecordSummary struct {
	Made     int64 `json:"made"`    // data records, the dropped ones included
	Sent     int64 `json:"sent"`    // data records handed to gRPC: what a reader should find
	Other    int64 `json:"other"`   // heartbeats and replies handed to gRPC
	Dropped  int64 `json:"dropped"` // the buffer was full, or the agent ended
	Failed   int64 `json:"failed"`  // of any type: their stream had ended already
	Messages int64 `json:"messages"`
}

// NetworkSummary counts what went over the network.
type NetworkSummary struct {
	SDLookups     int64 `json:"sd_lookups"`
	SDFailures    int64 `json:"sd_failures"`
	Dials         int64 `json:"dials"`
	DialFailures  int64 `json:"dial_failures"`
	StreamsOpened int64 `json:"streams_opened"`
	Reconnects    int64 `json:"reconnects"` // streams after an agent's first
	BytesSent     int64 `json:"bytes_sent"` // gRPC messages, compressed
	BytesReceived int64 `json:"bytes_received"`
}

// CommandSummary counts what agents were told.
type CommandSummary struct {
	Configs       int64 `json:"configs"`
	PluginsWiped  int64 `json:"plugins_wiped"` // configs that were empty: all plugins are removed
	Updates       int64 `json:"updates"`       // of the agent itself
	Tasks         int64 `json:"tasks"`
	TasksDropped  int64 `json:"tasks_dropped"` // for a plugin that is missing or busy
	Uploads       int64 `json:"uploads"`
	UploadsFailed int64 `json:"uploads_failed"`
}

func (c *counters) summary(agents int) Summary {
	return Summary{
		Agents: AgentSummary{
			Total: int64(agents), Connected: c.connected.Load(), Finished: c.finished.Load(),
			Unclean: c.unclean.Load(), Exits: c.exits.Load(), Restarts: c.restarts.Load(),
		},
		Records: RecordSummary{
			Made: c.made.Load(), Sent: c.sent.Load(), Other: c.others.Load(),
			Dropped: c.dropped.Load(), Failed: c.failed.Load(), Messages: c.messages.Load(),
		},
		Network: NetworkSummary{
			SDLookups: c.lookups.Load(), SDFailures: c.lookupFailures.Load(),
			Dials: c.dials.Load(), DialFailures: c.dialFailures.Load(),
			StreamsOpened: c.streams.Load(), Reconnects: c.reconnects.Load(),
			BytesSent: c.bytesOut.Load(), BytesReceived: c.bytesIn.Load(),
		},
		Commands: CommandSummary{
			Configs: c.configs.Load(), PluginsWiped: c.wiped.Load(), Updates: c.updates.Load(),
			Tasks: c.tasks.Load(), TasksDropped: c.tasksDropped.Load(),
			Uploads: c.uploads.Load(), UploadsFailed: c.uploadFails.Load(),
		},
	}
}

// String is four lines for a terminal, without a newline at the end.
func (s Summary) String() string {
	var b strings.Builder
	a, r, n, c := s.Agents, s.Records, s.Network, s.Commands
	fmt.Fprintf(&b, "agents    %d: %d connected, %d finished (%d unclean), %d exits, %d restarts\n",
		a.Total, a.Connected, a.Finished, a.Unclean, a.Exits, a.Restarts)
	fmt.Fprintf(&b, "records   %d sent in %d messages with %d others; %d dropped, %d failed\n",
		r.Sent, r.Messages, r.Other, r.Dropped, r.Failed)
	fmt.Fprintf(&b, "network   %d SD look-ups (%d failed), %d dials (%d failed), %d streams (%d reconnects), %s out, %s in\n",
		n.SDLookups, n.SDFailures, n.Dials, n.DialFailures, n.StreamsOpened, n.Reconnects, size(n.BytesSent), size(n.BytesReceived))
	fmt.Fprintf(&b, "commands  %d configs (%d empty), %d updates, %d tasks (%d dropped), %d uploads (%d failed)",
		c.Configs, c.PluginsWiped, c.Updates, c.Tasks, c.TasksDropped, c.Uploads, c.UploadsFailed)
	return b.String()
}

func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
