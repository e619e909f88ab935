// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"bytes"
	"context"
	"strings"

	"muster/fleet"
)

const (
	maxTagBytes = 128
	maxTagsCall = 100
)

// DefaultConfig returns a zero value, with Revision 0, when there is none.
func (s *Store) DefaultConfig() (conf fleet.DefaultConfig, err error) {
	err = s.read(func(v view) error {
		conf, _ = load[fleet.DefaultConfig](v, bucketConfigs, defaultConfigKey)
		return nil
	})
	return conf, err
}

// SetDefaultConfig replaces the default config and returns it with its revision.
func (s *Store) SetDefaultConfig(ctx context.Context, conf fleet.DefaultConfig) (fleet.DefaultConfig, error) {
	if err := fleet.CheckConfig(conf.Items); err != nil {
		return fleet.DefaultConfig{}, err
	}
	if err := s.propose(ctx, &setDefaultConfig{Config: conf}, &conf.Revision); err != nil {
		return fleet.DefaultConfig{}, err
	}
	return conf, nil
}

// Desired returns what an agent should run. An unknown agent gets the default
// config and no tags. The config's items are shared and must not be changed.
func (s *Store) Desired(agentID string) (out fleet.Desired, err error) {
	err = s.read(func(v view) error {
		d, _ := load[desired](v, bucketDesired, agentID)
		out = fleet.Desired{Tags: d.Tags}
		if d.Config != "" {
			own, ok := s.configs.get(v, d.Config)
			if !ok {
				panic(damage{"the own config of an agent is missing"})
			}
			out.Config, out.Revision, out.Own = own.items, d.Revision, true
			return nil
		}
		conf, _ := s.configs.get(v, defaultConfigKey)
		out.Config, out.Revision = conf.items, conf.revision
		return nil
	})
	return out, err
}

// TagAgents adds and removes tags and returns how many agents changed; unknown
// IDs are skipped. It is one log entry for each 1,000 IDs: if it fails part of
// them may have been done, and repeating it is harmless.
func (s *Store) TagAgents(ctx context.Context, ids []string, add, remove []string) (changed int, err error) {
	for field, tags := range map[string][]string{"add": add, "remove": remove} {
		if len(tags) > maxTagsCall {
			return 0, fleet.Invalid(field, "has %d tags, at most %d are accepted", len(tags), maxTagsCall)
		}
		for _, t := range tags {
			if t == "" || len(t) > maxTagBytes || hasControl(t) || strings.Contains(t, ",") {
				return 0, fleet.Invalid(field, "tag %q must be 1 to %d bytes of text without commas", t, maxTagBytes)
			}
		}
	}
	if len(add)+len(remove) == 0 {
		return 0, nil
	}
	err = inParts(ids, jsonSize[string], func(part []string) error {
		n := 0
		err := s.propose(ctx, &tagAgents{IDs: part, Add: add, Remove: remove}, &n)
		changed += n
		return err
	})
	return changed, err
}

// Tags returns every tag that an agent has, sorted.
func (s *Store) Tags() (tags []fleet.TagCount, err error) {
	err = s.read(func(v view) error {
		v.scan(bucketTags, nil, func(k, content []byte) bool {
			var n tagCount
			mustDecode(bucketTags, k, content, &n)
			tags = append(tags, fleet.TagCount{Tag: string(k), Agents: n.Agents})
			return true
		})
		return nil
	})
	return tags, err
}

// AgentsByTag returns the sorted IDs of the agents with a tag. It pages through
// the state, so a change meanwhile may be seen in part.
func (s *Store) AgentsByTag(tag string) (ids []string, err error) {
	prefix := joinKey(tag, "")
	for from, more := prefix, true; more && err == nil; {
		more = false
		n := 0
		err = s.read(func(v view) error {
			v.scan(bucketTagAgents, from, func(k, _ []byte) bool {
				id, ok := bytes.CutPrefix(k, prefix)
				if !ok {
					return false
				}
				if more = n == maxPage; more {
					from = bytes.Clone(k)
					return false
				}
				n++
				ids = append(ids, string(id))
				return true
			})
			return nil
		})
	}
	return ids, err
}

// ReportAgents writes the inventory. An unknown agent gets the next number; tags
// are kept; a report that is older than the stored one is skipped.
func (s *Store) ReportAgents(ctx context.Context, reports []fleet.AgentReport) error {
	for _, r := range reports {
		if err := fleet.CheckAgentID(r.AgentID); err != nil {
			return err
		}
	}
	return inParts(reports, reportSize, func(part []fleet.AgentReport) error {
		return s.propose(ctx, &reportAgents{Agents: part}, nil)
	})
}

// reportSize is at least the length of a report's JSON.
func reportSize(r fleet.AgentReport) int {
	const names = 256 // the fields' own, and numbers
	size := names + textSize(r.AgentID) + textSize(r.Hostname) + textSize(r.Version) + textSize(r.Product) + textSize(r.Node)
	for _, list := range [][]string{r.IntranetIPv4, r.ExtranetIPv4, r.IntranetIPv6, r.ExtranetIPv6} {
		for _, s := range list {
			size += textSize(s)
		}
	}
	for _, m := range []map[string]string{r.Facts, r.Plugins} {
		for k, v := range m {
			size += textSize(k) + textSize(v)
		}
	}
	return size
}

// textSize is at least the length of a text in JSON, with what parts it from the
// next one.
func textSize(s string) int {
	size := len(s) + len(`"",`)
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c > '~':
			size += len(`\u0000`) - 1
		case c == '"' || c == '\\':
			size++
		}
	}
	return size
}

// Agent returns fleet.ErrNotFound for an agent that never reported.
func (s *Store) Agent(id string) (a fleet.Agent, err error) {
	err = s.read(func(v view) error {
		stored, ok := load[storedAgent](v, bucketAgents, id)
		if !ok {
			return fleet.Refuse(fleet.CodeNotFound, "there is no agent %q", id)
		}
		a = agentOf(v, stored)
		return nil
	})
	return a, err
}

func agentOf(r reader, stored storedAgent) fleet.Agent {
	d, _ := load[desired](r, bucketDesired, stored.Report.AgentID)
	if d.Tags == nil {
		d.Tags = []string{}
	}
	return fleet.Agent{AgentReport: stored.Report, Number: stored.Number, FirstSeen: stored.FirstSeen, Tags: d.Tags}
}

// Agents returns up to limit (at most 5,000) agents with IDs above after, in order.
func (s *Store) Agents(after string, limit int) (agents []fleet.Agent, err error) {
	limit = pageLimit(limit)
	// One transaction for each few hundred: decoding is what takes time.
	const step = 500
	for more := true; more && err == nil && len(agents) < limit; {
		more = false
		n := 0
		err = s.read(func(v view) error {
			v.scan(bucketAgents, afterKey(after), func(k, content []byte) bool {
				if more = n == step; more || len(agents) == limit {
					return false
				}
				var stored storedAgent
				mustDecode(bucketAgents, k, content, &stored)
				agents = append(agents, agentOf(v, stored))
				after = string(k)
				n++
				return true
			})
			return nil
		})
	}
	return agents, err
}

// AgentCount returns how many agents the inventory holds.
func (s *Store) AgentCount() int { return s.fsm.last.Load().agents }
