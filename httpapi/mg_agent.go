// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"

	"muster/fleet"
)

// agentRoutes are Elkeid's routes about agents, their default config and tags.
func (a *API) agentRoutes() []Route {
	route := func(method, path string, p fleet.Permission, summary string, h handlerFunc) Route {
		return Route{Method: method, Path: "/api/v1/agent" + path, Listeners: listenersAPI, Access: permit(p), Summary: summary, handle: h}
	}
	read, write := fleet.PermFleetRead, fleet.PermFleetWrite
	return []Route{
		heavy(route(http.MethodGet, "/getStatus", read, "All agents.", a.agentList)),
		route(http.MethodGet, "/getStatus/:id", read, "One agent.", a.agentGet),
		heavy(route(http.MethodPost, "/getStatus/filter", read, "The agents that a filter chooses.", a.agentFilter)),
		route(http.MethodGet, "/getDefaultConfig", read, "What agents run that have no config of their own.", a.configGet),
		route(http.MethodPost, "/updateDefaultConfig", write, "Set what agents run that have no config of their own.", a.configSet),
		route(http.MethodPost, "/addTags", write, "Tag agents by ID or address.", a.tagsAdd),
		route(http.MethodPost, "/addTags/filter", write, "Tag the agents that a filter chooses.", a.tagsAddFilter),
		route(http.MethodPost, "/delTags", write, "Take a tag from agents by ID or address.", a.tagsDelete),
		heavy(route(http.MethodGet, "/getTags", read, "All tags in use.", a.tagsList)),
		heavy(route(http.MethodPost, "/getTags", read, "The tags of agents.", a.tagsOf)),
	}
}

func (a *API) agentList(w http.ResponseWriter, r *http.Request, _ *call) error {
	q, err := parsePage(r)
	if err != nil {
		return err
	}
	return a.writeAgents(w, r, q, fleet.Filter{})
}

func (a *API) agentFilter(w http.ResponseWriter, r *http.Request, _ *call) error {
	q, err := parsePage(r)
	if err != nil {
		return err
	}
	var f fleet.Filter
	if err := decodeJSON(r, &f); err != nil {
		return err
	}
	return a.writeAgents(w, r, q, f)
}

// writeAgents answers with the page of q of the agents that f chooses.
func (a *API) writeAgents(w http.ResponseWriter, r *http.Request, q pageQuery, f fleet.Filter) error {
	k := a.ask()
	ids, total, err := k.page(r.Context(), q, f)
	if err != nil {
		return err
	}
	docs, err := k.docs(r.Context(), ids)
	if err != nil {
		return err
	}
	return succeedPage(w, pageOf(q, total, convert(docs, (*agentDoc).document)), k.note(w))
}

func (a *API) agentGet(w http.ResponseWriter, r *http.Request, c *call) error {
	k := a.ask()
	doc, err := k.agent(r.Context(), c.param("id"))
	k.note(w)
	if err != nil {
		return fmt.Errorf("look up agent: %w", err)
	}
	return succeed(w, doc.document())
}

func (a *API) configGet(w http.ResponseWriter, _ *http.Request, _ *call) error {
	config, err := a.opts.State.Config.DefaultConfig()
	if err != nil {
		return fmt.Errorf("read default config: %w", err)
	}
	return succeed(w, nonNil(config.Items))
}

func (a *API) configSet(w http.ResponseWriter, r *http.Request, _ *call) error {
	var b struct {
		Type    string      `json:"type"`
		Version string      `json:"version"`
		Config  configItems `json:"config"`
	}
	if err := decodeJSON(r, &b); err != nil {
		return err
	}
	if b.Type == "" {
		return fleet.Invalid("type", "is missing")
	}
	if err := fleet.CheckConfig(b.Config); err != nil {
		return err
	}
	stored, err := a.opts.State.Config.SetDefaultConfig(r.Context(), fleet.DefaultConfig{Type: b.Type, Version: b.Version, Items: b.Config})
	if err != nil {
		return fmt.Errorf("set default config: %w", err)
	}
	return succeed(w, stored)
}

// configItems decodes a list of config items and refuses a key that no item
// has: a misspelt one would silently change what agents run.
type configItems []fleet.ConfigItem

// UnmarshalJSON decodes strictly; lists are never nil.
func (c *configItems) UnmarshalJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var items []fleet.ConfigItem
	if err := dec.Decode(&items); err != nil {
		return fleet.Invalid("config", "%s", err)
	}
	for i := range items {
		items[i].DownloadURL = nonNil(items[i].DownloadURL)
	}
	*c = items
	return nil
}
