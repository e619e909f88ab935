// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"fmt"

	"muster/fleet"
)

// scanBatch is how many agents, tasks or sub-tasks are read at once.
const scanBatch = 1000

// compileFilter makes a client's filter ready; its moments are in the node's
// time zone, as Elkeid has it.
func (a *API) compileFilter(f fleet.Filter) (*fleet.Matcher, error) {
	return f.Compile(a.opts.Now().Location())
}

// eachAgent calls fn for every agent of the inventory, by ID, until fn returns
// false or the request's time is over.
func (a *API) eachAgent(ctx context.Context, fn func(fleet.Agent) bool) error {
	after := ""
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("search agents: %w", err)
		}
		batch, err := a.opts.State.Agents.Agents(after, scanBatch)
		if err != nil {
			return fmt.Errorf("search agents: %w", err)
		}
		for _, agent := range batch {
			if !fn(agent) {
				return nil
			}
			after = agent.AgentID
		}
		if len(batch) < scanBatch {
			return nil
		}
	}
}

// findAgents returns the IDs of the agents that the filter chooses, by ID, with
// the value of orderKey if that is not empty. Documents are not built for it,
// nor kept: a fleet may have a million.
func (a *API) findAgents(ctx context.Context, f fleet.Filter, orderKey string) ([]found[string], error) {
	m, err := a.compileFilter(f)
	if err != nil {
		return nil, err
	}
	nodes := a.nodeAddrs()
	var ids []found[string]
	consider := func(agent fleet.Agent) bool {
		doc := &agentDoc{a: a, agent: agent, nodes: nodes}
		if m.Match(doc.field) {
			hit := found[string]{what: agent.AgentID}
			if orderKey != "" {
				hit.order = doc.field(orderKey)
			}
			ids = append(ids, hit)
		}
		return true
	}
	if id, ok := f.Equals("agent_id"); ok {
		agent, err := a.opts.State.Agents.Agent(id)
		if err == nil {
			consider(agent)
			return ids, nil
		}
	}
	return ids, a.eachAgent(ctx, consider)
}

// pageOfAgents builds the documents of one page of all agents, without a
// search: for the list that everybody asks for.
func (a *API) pageOfAgents(ctx context.Context, q pageQuery) (v1Page, error) {
	total := a.opts.State.Agents.AgentCount()
	from, to := q.bounds(total)
	docs := make([]map[string]any, 0, to-from)
	if from == to {
		return pageOf(q, total, docs), nil
	}
	nodes, i := a.nodeAddrs(), 0
	err := a.eachAgent(ctx, func(agent fleet.Agent) bool {
		if i >= from {
			docs = append(docs, (&agentDoc{a: a, agent: agent, nodes: nodes}).document())
		}
		i++
		return i < to
	})
	return pageOf(q, total, docs), err
}

// agentDocByID is the document of an agent of the inventory, or of one that has
// a stream and is not in it yet.
func (a *API) agentDocByID(id string) (*agentDoc, error) {
	agent, err := a.opts.State.Agents.Agent(id)
	if err == nil {
		return &agentDoc{a: a, agent: agent}, nil
	}
	s, ok := a.opts.Live.Sessions.Session(id)
	if !ok {
		return nil, err
	}
	report := fleet.AgentReport{Identity: s.Identity, Node: s.Node, SeenAt: s.SeenAt}
	return &agentDoc{a: a, agent: fleet.Agent{AgentReport: report, FirstSeen: s.ConnectedAt}, session: &s, looked: true}, nil
}
