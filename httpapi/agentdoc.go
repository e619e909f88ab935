// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"muster/fleet"
)

// elkeidTimeLayout is how Elkeid writes a moment.
const elkeidTimeLayout = "2006-01-02 15:04:05"

// agentDoc is an agent as one of Elkeid's heartbeat documents: its place in the
// inventory, its live stream if this node holds it, its desired config. Fields
// are worked out when they are asked for.
type agentDoc struct {
	a     *API
	agent fleet.Agent
	nodes map[string]string // node -> address of its HTTPS listener, or nil: not looked up yet

	session *fleet.Session
	looked  bool // session has been looked for
	unread  bool // agent holds no more than the ID yet
}

// stored is what the inventory says; an agent that is not in it yet is as new as
// its stream.
func (d *agentDoc) stored() *fleet.Agent {
	if !d.unread {
		return &d.agent
	}
	d.unread = false
	agent, err := d.a.opts.State.Agents.Agent(d.agent.AgentID)
	switch {
	case err == nil:
		d.agent = agent
	case isNotFound(err) && d.session != nil:
		d.agent = newcomer(*d.session)
	default:
		d.a.log.Warn("agent not read from the inventory", "agent_id", d.agent.AgentID, "error", err)
	}
	return &d.agent
}

// newcomer is an agent that has a stream and is not in the inventory yet.
func newcomer(s fleet.Session) fleet.Agent {
	report := fleet.AgentReport{Identity: s.Identity, Node: s.Node, SeenAt: s.SeenAt}
	return fleet.Agent{AgentReport: report, FirstSeen: s.ConnectedAt}
}

// docFields are the fields that every document has, beside those of the last
// heartbeat. An agent cannot overwrite them.
func docFields() []string {
	return []string{
		"agent_id", "agent_addr", "create_at", "hostname", "version", "product",
		"intranet_ipv4", "intranet_ipv6", "extranet_ipv4", "extranet_ipv6",
		"last_heartbeat_time", "last_heartbeat_time_format", "first_heartbeat_time", "first_heartbeat_time_format",
		"source_ip", "source_port", "status", "tags", "plugins", "config",
	}
}

func (d *agentDoc) live() *fleet.Session {
	if !d.looked {
		d.looked = true
		if s, ok := d.a.opts.Live.Sessions.Session(d.agent.AgentID); ok {
			d.session = &s
		}
	}
	return d.session
}

// identity is what the agent says about itself: the live stream's word is newer.
func (d *agentDoc) identity() fleet.Identity {
	if s := d.live(); s != nil {
		return s.Identity
	}
	return d.stored().Identity
}

// facts are the fields of the last heartbeat, or what the inventory keeps of it.
func (d *agentDoc) facts() map[string]string {
	if s := d.live(); s != nil && len(s.Heartbeat) > 0 {
		return s.Heartbeat
	}
	return d.stored().Facts
}

// document builds all of it.
func (d *agentDoc) document() map[string]any {
	fields := docFields()
	facts := d.facts()
	doc := make(map[string]any, len(fields)+len(facts))
	for name, value := range facts {
		doc[name] = fleet.HeartbeatValue(name, value)
	}
	for _, name := range fields {
		doc[name] = d.own(name)
	}
	return doc
}

// field is a fleet.Document: numbers are float64.
func (d *agentDoc) field(name string) any {
	if sub, ok := strings.CutPrefix(name, "plugins."); ok {
		return column(d.plugins(), sub)
	}
	if sub, ok := strings.CutPrefix(name, "config."); ok {
		return column(documentsOf(d.config()), sub)
	}
	if slices.Contains(docFields(), name) {
		switch v := d.own(name).(type) {
		case int64:
			return float64(v)
		case int:
			return float64(v)
		case string, []string:
			return v
		}
		return nil
	}
	if value, ok := d.facts()[name]; ok {
		return fleet.HeartbeatValue(name, value)
	}
	return nil
}

// own is the value of one of docFields.
func (d *agentDoc) own(name string) any {
	id := d.identity()
	switch name {
	case "agent_id":
		return d.agent.AgentID
	case "hostname":
		return id.Hostname
	case "version":
		return id.Version
	case "product":
		return id.Product
	case "intranet_ipv4":
		return nonNil(id.IntranetIPv4)
	case "intranet_ipv6":
		return nonNil(id.IntranetIPv6)
	case "extranet_ipv4":
		return nonNil(id.ExtranetIPv4)
	case "extranet_ipv6":
		return nonNil(id.ExtranetIPv6)
	case "tags":
		return nonNil(d.stored().Tags)
	case "plugins":
		return d.plugins()
	case "config":
		return nonNil(d.config())
	}
	return d.stream(name)
}

// stream is the value of those of docFields that come with time and place.
func (d *agentDoc) stream(name string) any {
	s := d.live()
	switch name {
	case "agent_addr":
		if s != nil {
			return s.RemoteAddr
		}
		return ""
	case "create_at":
		if s != nil {
			return s.ConnectedAt
		}
		return int64(0)
	case "last_heartbeat_time":
		return d.heartbeatAt()
	case "last_heartbeat_time_format":
		return d.a.formatTime(d.heartbeatAt())
	case "first_heartbeat_time":
		return d.stored().FirstSeen
	case "first_heartbeat_time_format":
		return d.a.formatTime(d.stored().FirstSeen)
	case "status":
		return string(fleet.StateOf(d.a.opts.Now().Unix(), d.seenAt(), d.facts()["state"]))
	case "source_ip":
		host, _ := d.source()
		return host
	case "source_port":
		_, port := d.source()
		return port
	}
	return nil
}

func (d *agentDoc) seenAt() int64 {
	if s := d.live(); s != nil {
		return s.SeenAt
	}
	return d.stored().SeenAt
}

func (d *agentDoc) heartbeatAt() int64 {
	s := d.live()
	switch {
	case s == nil:
		return d.stored().SeenAt
	case s.HeartbeatAt == 0:
		return s.SeenAt
	}
	return s.HeartbeatAt
}

// source is where the node that holds, or last held, the stream takes /command/
// and /conn/*.
func (d *agentDoc) source() (host string, port int) {
	var node string
	if s := d.live(); s != nil {
		node = s.Node
	} else {
		node = d.stored().Node
	}
	if d.nodes == nil {
		d.nodes = d.a.nodeAddrs()
	}
	host, text, err := net.SplitHostPort(d.nodes[node])
	if err != nil {
		return "", 0
	}
	port, _ = strconv.Atoi(text)
	return host, port
}

// nodeAddrs maps each member's name to the address of its HTTPS listener.
func (a *API) nodeAddrs() map[string]string {
	addrs := make(map[string]string)
	for _, m := range a.opts.Directory.Members.Members() {
		addrs[m.NodeID] = m.HTTPSAddr
	}
	return addrs
}

func (d *agentDoc) config() []fleet.ConfigItem {
	desired, err := d.a.opts.State.Config.Desired(d.agent.AgentID)
	if err != nil {
		d.a.log.Warn("desired config of an agent not read", "agent_id", d.agent.AgentID, "error", err)
		return nil
	}
	return desired.Config
}

// plugins are the last 1001 record of each plugin; of an agent without a
// stream, what the inventory keeps of them.
func (d *agentDoc) plugins() []map[string]any {
	if s := d.live(); s != nil {
		return pluginDocs(s.Plugins)
	}
	docs := make([]map[string]any, 0, len(d.stored().Plugins))
	for _, name := range slices.Sorted(maps.Keys(d.stored().Plugins)) {
		docs = append(docs, map[string]any{"name": name, "pversion": d.stored().Plugins[name]})
	}
	return docs
}

func pluginDocs(plugins map[string]fleet.PluginHeartbeat) []map[string]any {
	docs := make([]map[string]any, 0, len(plugins))
	for _, name := range slices.Sorted(maps.Keys(plugins)) {
		p := plugins[name]
		doc := make(map[string]any, len(p.Fields)+2)
		for field, value := range p.Fields {
			doc[field] = fleet.HeartbeatValue(field, value)
		}
		doc["name"], doc["last_heartbeat_time"] = name, p.At
		docs = append(docs, doc)
	}
	return docs
}

// documentsOf turns config items into documents that can be filtered on.
func documentsOf(items []fleet.ConfigItem) []map[string]any {
	docs := make([]map[string]any, 0, len(items))
	for _, it := range items {
		docs = append(docs, map[string]any{"name": it.Name, "type": it.Type, "version": it.Version, "sha256": it.SHA256})
	}
	return docs
}

// column lists one field of every document.
func column(docs []map[string]any, field string) any {
	values := make([]any, 0, len(docs))
	for _, doc := range docs {
		switch v := doc[field].(type) {
		case nil:
		case int64:
			values = append(values, float64(v))
		default:
			values = append(values, v)
		}
	}
	return values
}

// formatTime writes a moment in the node's time zone.
func (a *API) formatTime(unix int64) string {
	if unix == 0 {
		return ""
	}
	return time.Unix(unix, 0).In(a.opts.Now().Location()).Format(elkeidTimeLayout)
}
