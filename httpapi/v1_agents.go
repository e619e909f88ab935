// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"muster/fleet"
	"muster/internal/apiv1"
)

func (a *API) v1AgentRoutes() []Route {
	read, write := permit(fleet.PermFleetRead), permit(fleet.PermFleetWrite)
	return []Route{
		{
			Method: http.MethodGet, Path: "/v1/agents", Heavy: true, Access: read, handle: a.v1Agents,
			Summary: "Agents of the whole fleet by ID, online or not. A page of a filtered list may hold fewer than limit, even none, and still have a next.",
			Query: struct {
				apiv1.PageQuery
				apiv1.AgentQuery
			}{}, Response: apiv1.Page[apiv1.Agent]{},
		},
		{
			Method: http.MethodGet, Path: "/v1/agents/:id", Access: read, handle: a.v1Agent,
			Summary: "One agent, whichever node holds its stream.", Query: pathID{}, Response: apiv1.Agent{},
		},
		{
			Method: http.MethodPost, Path: "/v1/agents/:id/tags", Access: write, handle: withBody(a.v1TagAgent),
			Summary: "Add and remove tags of one agent.", Query: pathID{}, Request: apiv1.TagChange{}, Response: apiv1.Agent{},
		},
		{
			Method: http.MethodPost, Path: "/v1/agents/:id/reset", Access: write, handle: a.v1ResetAgent,
			Summary: "Close the agent's stream, whichever node holds it; it connects again, perhaps elsewhere.", Query: pathID{}, Status: http.StatusNoContent,
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

func (a *API) v1Agents(w http.ResponseWriter, r *http.Request, _ *call) error {
	values, err := listQuery(r, "state", "tag", "hostname", "q")
	if err != nil {
		return err
	}
	limit, after, err := limitAfter(values)
	if err != nil {
		return err
	}
	filters, err := agentFilters(values)
	if err != nil {
		return err
	}
	agents := agentSource(a.agentsAfter)
	if tag := values.Get("tag"); tag != "" {
		agents = func(after string, n int) ([]fleet.Agent, error) { return a.taggedAfter(tag, after, n) }
		if len(filters) > 0 {
			filters = append(filters, oneFilter("", ask("tags", "$eq", tag)))
		}
	}
	k := a.ask()
	found, next, err := k.walk(r.Context(), filters, agents, after, limit)
	if err != nil {
		return err
	}
	docs, err := k.docs(r.Context(), found)
	if err != nil {
		return err
	}
	p := apiv1.Page[apiv1.Agent]{Items: make([]apiv1.Agent, 0, len(docs)), Next: next}
	for _, d := range docs {
		item, err := a.showAgent(d)
		if err != nil {
			return err
		}
		p.Items = append(p.Items, item)
	}
	return respond(w, http.StatusOK, pageMissing(w, p, k.missing()))
}

// maxSearchBytes bounds the texts that agents are searched for.
const maxSearchBytes = 200

// agentFilters says what the query asks of an agent's document, but for its tag.
func agentFilters(values url.Values) (filters []fleet.Filter, err error) {
	for _, name := range []string{"hostname", "q"} {
		if len(values.Get(name)) > maxSearchBytes {
			return nil, fleet.Invalid(name, "is %d bytes long, at most %d are accepted", len(values.Get(name)), maxSearchBytes)
		}
	}
	switch state := values.Get("state"); fleet.AgentState(state) {
	case "":
	case fleet.AgentRunning, fleet.AgentAbnormal, fleet.AgentOffline:
		filters = append(filters, oneFilter("", ask("status", "$eq", state)))
	default:
		return nil, fleet.Invalid("state", "%q is none of running, abnormal, offline", clip(state))
	}
	if name := values.Get("hostname"); name != "" {
		filters = append(filters, oneFilter("", ask("hostname", "$regex", "^"+regexp.QuoteMeta(name))))
	}
	if text := values.Get("q"); text != "" {
		var anywhere []fleet.FilterKey
		for _, field := range []string{"agent_id", "hostname", "intranet_ipv4", "extranet_ipv4", "intranet_ipv6", "extranet_ipv6"} {
			anywhere = append(anywhere, ask(field, "$regex", "(?i)"+regexp.QuoteMeta(text)))
		}
		filters = append(filters, oneFilter("$or", anywhere...))
	}
	return filters, nil
}

func oneFilter(condition string, keys ...fleet.FilterKey) fleet.Filter {
	return fleet.Filter{Keys: keys, Condition: condition}
}

// ask asks one thing of one field.
func ask(field, operator string, value any) fleet.FilterKey {
	return fleet.FilterKey{Key: field, Rules: []fleet.FilterRule{{Operator: operator, Value: value}}}
}

// agentsAfter are the next n agents after the given one, of the inventory and of
// this node's streams that it does not have yet.
func (a *API) agentsAfter(after string, n int) ([]fleet.Agent, error) {
	agents, err := a.opts.State.Agents.Agents(after, n)
	if err != nil {
		return nil, err
	}
	stored := len(agents)
	for _, id := range a.opts.Live.Sessions.SessionIDs() {
		if id <= after || stored == n && id > agents[stored-1].AgentID {
			continue
		}
		if _, known := slices.BinarySearchFunc(agents[:stored], id, agentID); known {
			continue
		}
		if s, ok := a.opts.Live.Sessions.Session(id); ok {
			agents = append(agents, newcomer(s))
		}
	}
	if len(agents) > stored {
		slices.SortFunc(agents, func(x, y fleet.Agent) int { return strings.Compare(x.AgentID, y.AgentID) })
	}
	return agents[:min(n, len(agents))], nil
}

func agentID(g fleet.Agent, id string) int { return strings.Compare(g.AgentID, id) }

// taggedAfter are the next n agents after the given one that carry the tag.
func (a *API) taggedAfter(tag, after string, n int) ([]fleet.Agent, error) {
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
	var agents []fleet.Agent
	for _, id := range ids[from:] {
		if len(agents) == n {
			break
		}
		agent, err := a.opts.State.Agents.Agent(id)
		if isNotFound(err) {
			continue // gone since it was listed
		}
		if err != nil {
			return nil, err
		}
		agents = append(agents, agent)
	}
	return agents, nil
}

func (a *API) v1Agent(w http.ResponseWriter, r *http.Request, c *call) error {
	k := a.ask()
	doc, err := k.agent(r.Context(), c.param("id"))
	k.note(w)
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

func (a *API) v1ResetAgent(w http.ResponseWriter, r *http.Request, c *call) error {
	id, k := c.param("id"), a.ask()
	err := k.reset(r.Context(), id)
	missing := k.note(w)
	switch {
	case err == nil:
		return noContent(w)
	case !errors.Is(err, fleet.ErrOffline):
		return err
	case len(missing) > 0:
		return fmt.Errorf("reset the stream of an agent that a node that does not answer may hold: %w", fleet.ErrTimeout)
	}
	if _, unknown := a.docOf(id, nil); unknown != nil {
		return unknown
	}
	return err
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
