// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"muster/fleet"
)

const maxTagBytes = 128

// checkTag refuses a tag that could not be told from others where tags are
// joined by commas.
func checkTag(tag string) error {
	switch {
	case tag == "":
		return fleet.Invalid("tag", "is missing")
	case len(tag) > maxTagBytes:
		return fleet.Invalid("tag", "is %d bytes long, at most %d are accepted", len(tag), maxTagBytes)
	case strings.ContainsFunc(tag, func(c rune) bool { return c < ' ' || c == ',' || c == 0x7f || c == '\uFFFD' }):
		return fleet.Invalid("tag", "must not hold commas or control characters")
	}
	return nil
}

// tagBody names agents by ID and by address.
type tagBody struct {
	Tag      string   `json:"tag"`
	IPv4List []string `json:"ipv4_list"`
	IPv6List []string `json:"ipv6_list"`
	IDList   []string `json:"id_list"`
}

func (a *API) tagsAdd(w http.ResponseWriter, r *http.Request, _ *call) error {
	return a.changeTag(w, r, func(tag string) (add, remove []string) { return []string{tag}, nil })
}

func (a *API) tagsDelete(w http.ResponseWriter, r *http.Request, _ *call) error {
	return a.changeTag(w, r, func(tag string) (add, remove []string) { return nil, []string{tag} })
}

func (a *API) changeTag(w http.ResponseWriter, r *http.Request, change func(tag string) (add, remove []string)) error {
	var b tagBody
	if err := decodeJSON(r, &b); err != nil {
		return err
	}
	if err := checkTag(b.Tag); err != nil {
		return err
	}
	if len(b.IDList)+len(b.IPv4List)+len(b.IPv6List) == 0 {
		return fleet.Invalid("id_list", "and ipv4_list and ipv6_list name no agent")
	}
	ids, err := a.agentsOf(r, b)
	if err != nil {
		return err
	}
	add, remove := change(b.Tag)
	if _, err := a.opts.State.Tags.TagAgents(r.Context(), ids, add, remove); err != nil {
		return fmt.Errorf("change tag: %w", err)
	}
	return succeed(w, nil)
}

// agentsOf are the agents with the body's IDs and those with its addresses; IDs
// that nobody has are passed over.
func (a *API) agentsOf(r *http.Request, b tagBody) ([]string, error) {
	known, _, err := a.resolveAgents(r.Context(), b.IDList)
	if err != nil {
		return nil, err
	}
	ids := slices.Clone(known)
	if len(b.IPv4List)+len(b.IPv6List) > 0 {
		v4, v6 := setOf(b.IPv4List), setOf(b.IPv6List)
		err := a.eachAgent(r.Context(), func(agent fleet.Agent) bool {
			if meets(v4, agent.IntranetIPv4, agent.ExtranetIPv4) || meets(v6, agent.IntranetIPv6, agent.ExtranetIPv6) {
				ids = append(ids, agent.AgentID)
			}
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

func setOf(list []string) map[string]bool {
	set := make(map[string]bool, len(list))
	for _, s := range list {
		set[s] = true
	}
	return set
}

func meets(set map[string]bool, lists ...[]string) bool {
	for _, list := range lists {
		for _, s := range list {
			if set[s] {
				return true
			}
		}
	}
	return false
}

func (a *API) tagsAddFilter(w http.ResponseWriter, r *http.Request, _ *call) error {
	tag := r.URL.Query().Get("tag")
	if err := checkTag(tag); err != nil {
		return err
	}
	var f fleet.Filter
	// A misspelt member would leave the filter empty, which chooses every agent.
	if err := decode(r, &f, true); err != nil {
		return err
	}
	ids, err := a.chooseAgents(w, r, f)
	if err != nil {
		return err
	}
	if _, err := a.opts.State.Tags.TagAgents(r.Context(), ids, []string{tag}, nil); err != nil {
		return fmt.Errorf("add tag: %w", err)
	}
	return succeed(w, map[string]int{"count": len(ids)})
}

// chooseAgents returns the IDs of the agents that the filter chooses, of the
// whole fleet. The header tells of nodes whose agents were judged by the inventory.
func (a *API) chooseAgents(w http.ResponseWriter, r *http.Request, f fleet.Filter) ([]string, error) {
	k := a.ask()
	chosen, err := k.find(r.Context(), fleet.AgentSearch{Filters: []fleet.Filter{f}})
	k.note(w)
	return idsOfHits(chosen.hits), err
}

func (a *API) tagsList(w http.ResponseWriter, _ *http.Request, _ *call) error {
	counts, err := a.opts.State.Tags.Tags()
	if err != nil {
		return fmt.Errorf("list tags: %w", err)
	}
	tags := make([]string, len(counts))
	for i, c := range counts {
		tags[i] = c.Tag
	}
	return succeed(w, tags)
}

// tagsOf answers with the tags of each agent that there is, joined by commas.
func (a *API) tagsOf(w http.ResponseWriter, r *http.Request, _ *call) error {
	var b struct {
		IDList []string `json:"id_list"`
	}
	if err := decodeJSON(r, &b); err != nil {
		return err
	}
	if len(b.IDList) == 0 {
		return fleet.Invalid("id_list", "names no agent")
	}
	tags := make(map[string]string, len(b.IDList))
	for _, id := range b.IDList {
		agent, err := a.opts.State.Agents.Agent(id)
		if errors.Is(err, fleet.ErrNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look up agent: %w", err)
		}
		tags[id] = strings.Join(agent.Tags, ",")
	}
	return succeed(w, tags)
}
