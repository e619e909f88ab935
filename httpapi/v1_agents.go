// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"muster/fleet"
	"muster/internal/apiv1"
)

// maxAgentScan bounds the agents that one page of a filtered list looks at:
// the page ends there, with fewer items than asked for and a next.
const maxAgentScan = 20_000

// agentScanChunk is how many IDs are read at once where few agents pass.
const agentScanChunk = 1000

func (a *API) v1AgentRoutes() []Route {
	read, write := permit(fleet.PermFleetRead), permit(fleet.PermFleetWrite)
	return []Route{
		{
			Method: http.MethodGet, Path: "/v1/agents", Access: read, handle: a.v1Agents,
			Summary: "Agents by ID, online or not. A page of a filtered list may hold fewer than limit, even none, and still have a next.",
			Query: struct {
				apiv1.PageQuery
				apiv1.AgentQuery
			}{}, Response: apiv1.Page[apiv1.Agent]{},
		},
		{
			Method: http.MethodGet, Path: "/v1/agents/:id", Access: read, handle: a.v1Agent,
			Summary: "One agent.", Query: pathID{}, Response: apiv1.Agent{},
		},
		{
			Method: http.MethodPost, Path: "/v1/agents/:id/tags", Access: write, handle: withBody(a.v1TagAgent),
			Summary: "Add and remove tags of one agent.", Query: pathID{}, Request: apiv1.TagChange{}, Response: apiv1.Agent{},
		},
		{
			Method: http.MethodPost, Path: "/v1/agents/:id/reset", Access: write, handle: a.v1ResetAgent,
			Summary: "Close the agent's stream on this node; it connects again, perhaps elsewhere.", Query: pathID{}, Status: http.StatusNoContent,
		},
		{
			Method: http.MethodGet, Path: "/v1/config/default", Access: read, handle: a.v1DefaultConfig,
			Summary: "What agents get that have no config of their own.", Response: apiv1.DefaultConfig{},
		},
		{
			Method: http.MethodPut, Path: "/v1/config/default", Access: write, handle: withBody(a.v1SetDefaultConfig),
			Summary: "Replace the default config; agents get it at once. An empty list is refused: agents would delete their plugins.",
			Request: apiv1.DefaultConfig{}, Response: apiv1.DefaultConfig{},
		},
	}
}

// agentFilter chooses agents; its zero value takes all.
type agentFilter struct {
	state    fleet.AgentState
	hostname string
	text     string // lower case
}

func (f agentFilter) takes(d *agentDoc) bool {
	ident := d.identity()
	if f.state != "" && d.own("status") != string(f.state) || !strings.HasPrefix(ident.Hostname, f.hostname) {
		return false
	}
	if f.text == "" {
		return true
	}
	for _, texts := range [][]string{
		{d.agent.AgentID, ident.Hostname}, ident.IntranetIPv4, ident.ExtranetIPv4, ident.IntranetIPv6, ident.ExtranetIPv6,
	} {
		for _, t := range texts {
			if strings.Contains(strings.ToLower(t), f.text) {
				return true
			}
		}
	}
	return false
}

func (a *API) v1Agents(w http.ResponseWriter, r *http.Request, _ *call) error {
	values, err := listQuery(r, "state", "tag", "hostname", "q")
	if err != nil {
		return err
	}
	limit, after, err := limitAfter(values)
	if err != nil {
		return err
	}
	filter, err := readAgentFilter(values)
	if err != nil {
		return err
	}
	ids := a.inventoryIDs
	if tag := values.Get("tag"); tag != "" {
		ids = func(after string, n int) ([]string, error) { return a.taggedIDs(tag, after, n) }
	}
	p, err := a.scanAgents(r.Context(), filter, ids, after, limit)
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, p)
}

func readAgentFilter(values url.Values) (agentFilter, error) {
	f := agentFilter{
		state: fleet.AgentState(values.Get("state")), hostname: values.Get("hostname"),
		text: strings.ToLower(values.Get("q")),
	}
	switch f.state {
	case "", fleet.AgentRunning, fleet.AgentAbnormal, fleet.AgentOffline:
		return f, nil
	}
	return f, fleet.Invalid("state", "%q is none of running, abnormal, offline", clip(string(f.state)))
}

// scanAgents walks IDs in order until the page is full or maxAgentScan agents
// have been looked at.
func (a *API) scanAgents(ctx context.Context, f agentFilter, ids func(after string, n int) ([]string, error), after string, limit int) (apiv1.Page[apiv1.Agent], error) {
	p := apiv1.Page[apiv1.Agent]{Items: []apiv1.Agent{}}
	size := limit + 1 // all that is needed where every agent passes
	for looked := 0; ; {
		chunk, err := ids(after, size)
		if err != nil {
			return p, err
		}
		for _, id := range chunk {
			if len(p.Items) == limit || looked == maxAgentScan {
				p.Next = after
				return p, nil
			}
			looked++
			after = id
			doc, err := a.agentDocByID(id)
			if errors.Is(err, fleet.ErrNotFound) { // gone since it was listed
				continue
			}
			if err != nil {
				return p, err
			}
			if !f.takes(doc) {
				continue
			}
			item, err := a.showAgent(doc)
			if err != nil {
				return p, err
			}
			p.Items = append(p.Items, item)
		}
		if len(chunk) < size {
			return p, nil
		}
		size = agentScanChunk
		if err := ctx.Err(); err != nil {
			return p, err
		}
	}
}

// inventoryIDs are the next n IDs after the given one, of the inventory and of
// streams that it does not have yet.
func (a *API) inventoryIDs(after string, n int) ([]string, error) {
	stored, err := a.opts.State.Agents.Agents(after, n)
	if err != nil {
		return nil, err
	}
	ids := convert(stored, func(g fleet.Agent) string { return g.AgentID })
	for _, id := range a.opts.Live.Sessions.SessionIDs() {
		if id > after {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	return ids[:min(n, len(ids))], nil
}

func (a *API) taggedIDs(tag, after string, n int) ([]string, error) {
	ids, err := a.opts.State.Tags.AgentsByTag(tag)
	if err != nil {
		return nil, err
	}
	if !slices.IsSorted(ids) {
		ids = slices.Sorted(slices.Values(ids))
	}
	from, found := slices.BinarySearch(ids, after)
	if found {
		from++
	}
	return ids[from:min(from+n, len(ids))], nil
}

func (a *API) v1Agent(w http.ResponseWriter, _ *http.Request, c *call) error {
	doc, err := a.agentDocByID(c.param("id"))
	if err != nil {
		return err
	}
	item, err := a.showAgent(doc)
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, item)
}

// showAgent is the agent as the API shows it.
func (a *API) showAgent(d *agentDoc) (apiv1.Agent, error) {
	desired, err := a.opts.State.Config.Desired(d.agent.AgentID)
	if err != nil {
		return apiv1.Agent{}, err
	}
	ident, facts := d.identity(), d.facts()
	out := apiv1.Agent{
		ID: d.agent.AgentID, Number: d.agent.Number, Hostname: ident.Hostname, Version: ident.Version, Product: ident.Product,
		IntranetIPv4: nonNil(ident.IntranetIPv4), ExtranetIPv4: nonNil(ident.ExtranetIPv4),
		IntranetIPv6: nonNil(ident.IntranetIPv6), ExtranetIPv6: nonNil(ident.ExtranetIPv6),
		Tags: nonNil(desired.Tags), Node: d.agent.Node, FirstSeen: at(d.agent.FirstSeen), LastSeen: at(d.agent.SeenAt),
		Plugins: showPlugins(d), Facts: make(map[string]string),
		DesiredConfig: apiv1.DesiredConfig{Revision: desired.Revision, Own: desired.Own, Items: len(desired.Config)},
	}
	out.State, _ = d.own("status").(string)
	for _, name := range fleet.FactFields() {
		if v, ok := facts[name]; ok {
			out.Facts[name] = v
		}
	}
	s := d.live()
	if s == nil {
		return out, nil
	}
	out.Node, out.LastSeen, out.ConfigRevision = s.Node, at(s.SeenAt), s.ConfigRevision
	out.Session = &apiv1.Session{
		RemoteAddr: s.RemoteAddr, ConnectedAt: at(s.ConnectedAt), HeartbeatAt: at(s.HeartbeatAt),
		Records: s.Records, Heartbeat: make(map[string]any, len(s.Heartbeat)),
	}
	for name, v := range s.Heartbeat {
		out.Session.Heartbeat[name] = fleet.HeartbeatValue(name, v)
	}
	return out, nil
}

// showPlugins are those that were heard on the stream, else those of the
// inventory.
func showPlugins(d *agentDoc) []apiv1.Plugin {
	out := []apiv1.Plugin{}
	if s := d.live(); s != nil && len(s.Plugins) > 0 {
		for _, name := range slices.Sorted(maps.Keys(s.Plugins)) {
			p := s.Plugins[name]
			out = append(out, apiv1.Plugin{Name: name, Version: p.Fields["pversion"], LastSeen: at(p.At)})
		}
		return out
	}
	for _, name := range slices.Sorted(maps.Keys(d.agent.Plugins)) {
		out = append(out, apiv1.Plugin{Name: name, Version: d.agent.Plugins[name]})
	}
	return out
}

func (a *API) v1ResetAgent(w http.ResponseWriter, _ *http.Request, c *call) error {
	id := c.param("id")
	if err := a.opts.Live.Streams.Reset([]string{id})[id]; err != nil {
		if errors.Is(err, fleet.ErrOffline) {
			if _, unknown := a.agentDocByID(id); unknown != nil {
				return unknown
			}
		}
		return err
	}
	return noContent(w)
}

func (a *API) v1DefaultConfig(w http.ResponseWriter, _ *http.Request, _ *call) error {
	d, err := a.opts.State.Config.DefaultConfig()
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, defaultConfig(d))
}

func (a *API) v1SetDefaultConfig(w http.ResponseWriter, r *http.Request, _ *call, in apiv1.DefaultConfig) error {
	d := fleet.DefaultConfig{Type: in.Type, Version: in.Version, Items: convert(in.Config, toConfigItem)}
	if err := fleet.CheckConfig(d.Items); err != nil {
		return err
	}
	d, err := a.opts.State.Config.SetDefaultConfig(r.Context(), d)
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, defaultConfig(d))
}

func defaultConfig(d fleet.DefaultConfig) apiv1.DefaultConfig {
	return apiv1.DefaultConfig{Type: d.Type, Version: d.Version, Config: convert(d.Items, fromConfigItem), Revision: d.Revision}
}

func toConfigItem(i apiv1.ConfigItem) fleet.ConfigItem { return fleet.ConfigItem(i) }

func fromConfigItem(i fleet.ConfigItem) apiv1.ConfigItem { return apiv1.ConfigItem(i) }
