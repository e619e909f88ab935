// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"encoding/binary"
	"slices"

	"muster/fleet"
)

// defaultConfigKey is the key of the default config in bucketConfigs; the other
// keys there are task IDs.
const defaultConfigKey = "." // no task ID holds a dot

// ownConfig is a config that a task made the own one of Agents agents.
type ownConfig struct {
	Items  []fleet.ConfigItem `json:"config"`
	Agents int                `json:"agents"`
}

// desired is what operators want of one agent. There is none for an agent
// without tags and own config.
type desired struct {
	Tags []string `json:"tags,omitempty"` // sorted
	// Config is the ID of the task whose config is the agent's own; "" is the default.
	Config   string `json:"config,omitempty"`
	Revision uint64 `json:"revision,omitempty"`
}

// tagCount is the value of bucketTags.
type tagCount struct {
	Agents int `json:"agents"`
}

type setDefaultConfig struct {
	Config fleet.DefaultConfig `json:"config"`
}

func (*setDefaultConfig) kind() string { return "config.default" }

func (s *setDefaultConfig) decide(c *change) (any, error) {
	conf := s.Config
	conf.Revision = c.index
	c.store(bucketConfigs, defaultConfigKey, conf)
	c.touch(fleet.TableDesired)
	return conf.Revision, nil
}

type tagAgents struct {
	IDs    []string `json:"ids"`
	Add    []string `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
}

func (*tagAgents) kind() string { return "agent.tag" }

func (t *tagAgents) decide(c *change) (any, error) {
	changed := 0
	for _, id := range t.IDs {
		if c.get(bucketAgentIDs, []byte(id)) == nil {
			continue
		}
		d, _ := load[desired](c, bucketDesired, id)
		next := retag(d.Tags, t.Add, t.Remove)
		if slices.Equal(next, d.Tags) {
			continue
		}
		c.indexTags(id, d.Tags, next)
		d.Tags = next
		if len(d.Tags) == 0 && d.Config == "" {
			c.remove(bucketDesired, []byte(id))
		} else {
			c.store(bucketDesired, id, d)
		}
		changed++
	}
	if changed > 0 {
		c.touch(fleet.TableDesired)
	}
	return changed, nil
}

// retag returns the sorted tags; a tag that is both added and removed is removed.
func retag(tags, add, remove []string) []string {
	next := slices.Concat(tags, add)
	slices.Sort(next)
	next = slices.Compact(next)
	return slices.DeleteFunc(next, func(t string) bool { return slices.Contains(remove, t) })
}

func (c *change) indexTags(id string, old, next []string) {
	for _, t := range old {
		if !slices.Contains(next, t) {
			c.remove(bucketTagAgents, joinKey(t, id))
			c.countTag(t, -1)
		}
	}
	for _, t := range next {
		if !slices.Contains(old, t) {
			c.put(bucketTagAgents, joinKey(t, id), nil)
			c.countTag(t, 1)
		}
	}
}

func (c *change) countTag(tag string, by int) {
	n, _ := load[tagCount](c, bucketTags, tag)
	n.Agents += by
	if n.Agents == 0 {
		c.remove(bucketTags, []byte(tag))
		return
	}
	c.store(bucketTags, tag, n)
}

// storedAgent is the inventory's value: fleet.Agent without the tags, which
// operators set and reports do not touch.
type storedAgent struct {
	Report    fleet.AgentReport `json:"report"`
	Number    uint32            `json:"number"`
	FirstSeen int64             `json:"first_seen"`
}

type reportAgents struct {
	Agents []fleet.AgentReport `json:"agents"`
}

func (*reportAgents) kind() string { return "agent.report" }

func (r *reportAgents) decide(c *change) (any, error) {
	n := loadCounters(c)
	for _, rep := range r.Agents {
		id := rep.AgentID
		a, known := load[storedAgent](c, bucketAgents, id)
		switch {
		case known && rep.SeenAt < a.Report.SeenAt:
			continue // a late word from the node that had the agent before
		case !known:
			n.LastNumber++
			n.Agents++
			a.Number, a.FirstSeen = n.LastNumber, c.now
			c.put(bucketNumbers, numberKey(a.Number), []byte(id))
			c.put(bucketAgentIDs, []byte(id), numberKey(a.Number))
		}
		a.Report = rep
		c.store(bucketAgents, id, a)
		c.touch(fleet.TableAgents)
	}
	c.setCounters(n)
	return nil, nil
}

// agentNumber returns 0 for an unknown agent.
func agentNumber(r reader, id string) uint32 {
	content := r.get(bucketAgentIDs, []byte(id))
	if len(content) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(content)
}

// agentOfNumber returns "" for a number that nobody has.
func agentOfNumber(r reader, n uint32) string {
	return string(r.get(bucketNumbers, numberKey(n)))
}

// giveConfig makes the config of a task the own one of the agents, and drops
// the configs that nobody has any more.
func (c *change) giveConfig(task string, items []fleet.ConfigItem, numbers []uint32) {
	conf, ok := load[ownConfig](c, bucketConfigs, task)
	if !ok {
		conf.Items = items
	}
	lost := make(map[string]int)
	for _, n := range numbers {
		id := agentOfNumber(c, n)
		d, _ := load[desired](c, bucketDesired, id)
		if d.Config != task {
			conf.Agents++
			if d.Config != "" {
				lost[d.Config]++
			}
		}
		d.Config, d.Revision = task, c.index
		c.store(bucketDesired, id, d)
	}
	c.store(bucketConfigs, task, conf)
	for other, n := range lost {
		old, _ := load[ownConfig](c, bucketConfigs, other)
		if old.Agents -= n; old.Agents <= 0 {
			c.remove(bucketConfigs, []byte(other))
			continue
		}
		c.store(bucketConfigs, other, old)
	}
	c.touch(fleet.TableDesired)
}
