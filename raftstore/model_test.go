// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"maps"
	"slices"

	"muster/fleet"
	"muster/raftstore"
)

// model is the state machine once more, the slow and plain way: maps, and a
// state for each single target.
type model struct {
	now    int64
	users  map[string]fleet.User
	tokens map[string]fleet.Token
	keys   map[string]bool
	agents map[string]*modelAgent
	conf   fleet.DefaultConfig
	tasks  map[string]*modelTask
	owned  map[string]string // a caller's token -> task
}

type modelAgent struct {
	number uint32
	seenAt int64
	tags   map[string]bool
	config string // task
	rev    uint64
}

type modelTask struct {
	fleet.Task
	states map[string]fleet.SubTaskState // by agent
	texts  map[string]string
}

func newModel() *model {
	return &model{
		users: map[string]fleet.User{}, tokens: map[string]fleet.Token{}, keys: map[string]bool{},
		agents: map[string]*modelAgent{}, tasks: map[string]*modelTask{}, owned: map[string]string{},
	}
}

const fine = fleet.Code("")

// apply returns the code of the refusal.
func (m *model) apply(index uint64, at int64, cmd raftstore.Command) fleet.Code {
	m.now = max(m.now, at)
	switch c := cmd.(type) {
	case *raftstore.CreateUserCmd:
		if _, ok := m.users[c.User.Name]; ok {
			return fleet.CodeExists
		}
		u := c.User
		u.CreatedAt, u.PasswordChangedAt = m.now, m.now
		m.users[u.Name] = u
	case *raftstore.UpdateUserCmd:
		return m.updateUser(c)
	case *raftstore.DeleteUsersCmd:
		return m.deleteUsers(c.Names)
	case *raftstore.CreateTokenCmd:
		return m.createToken(c.Token)
	case *raftstore.RevokeTokenCmd:
		if _, ok := m.tokens[c.ID]; !ok {
			return fleet.CodeNotFound
		}
		delete(m.tokens, c.ID)
	case *raftstore.AddKeyCmd:
		if m.keys[c.Key.AccessKey] {
			return fleet.CodeExists
		}
		m.keys[c.Key.AccessKey] = true
	case *raftstore.DeleteKeyCmd:
		if !m.keys[c.AccessKey] {
			return fleet.CodeNotFound
		}
		delete(m.keys, c.AccessKey)
	case *raftstore.DefaultConfigCmd:
		m.conf = c.Config
		m.conf.Revision = index
	case *raftstore.ReportAgentsCmd:
		m.report(c.Agents)
	case *raftstore.TagAgentsCmd:
		m.tag(c)
	case *raftstore.Tick:
		m.tick()
	default:
		return m.applyTask(index, cmd)
	}
	return fine
}

func (m *model) admins() (n int) {
	for _, u := range m.users {
		if u.Level == 0 {
			n++
		}
	}
	return n
}

func (m *model) updateUser(c *raftstore.UpdateUserCmd) fleet.Code {
	u, ok := m.users[c.Name]
	if !ok {
		return fleet.CodeNotFound
	}
	if l := c.Change.Level; l != nil && *l != u.Level {
		if u.Level == 0 && m.admins() == 1 {
			return fleet.CodeConflict
		}
		u.Level = *l
		m.revoke(u.Name, c.KeepToken)
	}
	if p := c.Change.PasswordHash; p != nil {
		u.PasswordHash, u.PasswordChangedAt = *p, m.now
		m.revoke(u.Name, c.KeepToken)
	}
	m.users[u.Name] = u
	return fine
}

func (m *model) revoke(user, keep string) {
	maps.DeleteFunc(m.tokens, func(id string, t fleet.Token) bool { return t.User == user && id != keep })
}

func (m *model) deleteUsers(names []string) fleet.Code {
	left := maps.Clone(m.users)
	for _, name := range names {
		if _, ok := m.users[name]; !ok {
			return fleet.CodeNotFound
		}
		delete(left, name)
	}
	had := m.admins()
	after := model{users: left}
	if had > 0 && after.admins() == 0 {
		return fleet.CodeConflict
	}
	m.users = left
	for _, name := range names {
		m.revoke(name, "")
	}
	return fine
}

func (m *model) createToken(t fleet.Token) fleet.Code {
	if _, ok := m.users[t.User]; !ok {
		return fleet.CodeNotFound
	}
	for _, other := range m.tokens {
		if other.ID == t.ID || other.Hash == t.Hash {
			return fleet.CodeExists
		}
	}
	if t.ExpiresAt <= m.now {
		return fleet.CodeInvalid
	}
	t.CreatedAt, t.LastUsedAt = m.now, m.now
	m.tokens[t.ID] = t
	return fine
}

func (m *model) report(reports []fleet.AgentReport) {
	for _, r := range reports {
		a := m.agents[r.AgentID]
		if a == nil {
			a = &modelAgent{number: uint32(len(m.agents) + 1), tags: map[string]bool{}}
			m.agents[r.AgentID] = a
		}
		a.seenAt = max(a.seenAt, r.SeenAt)
	}
}

func (m *model) tag(c *raftstore.TagAgentsCmd) {
	for _, id := range c.IDs {
		a := m.agents[id]
		if a == nil {
			continue
		}
		for _, t := range c.Add {
			a.tags[t] = true
		}
		for _, t := range c.Remove {
			delete(a.tags, t)
		}
	}
}

func (m *model) tick() {
	maps.DeleteFunc(m.tokens, func(_ string, t fleet.Token) bool { return t.ExpiresAt <= m.now })
	for id, t := range m.tasks {
		due := t.Deadline
		if due == 0 {
			due = t.CreatedAt + fleet.MaxTaskSeconds
		}
		if !t.ended() && due <= m.now {
			t.moveAll(fleet.SubTaskWaiting, fleet.SubTaskExpired)
			t.moveAll(fleet.SubTaskPending, fleet.SubTaskExpired)
			t.moveAll(fleet.SubTaskSent, fleet.SubTaskUnknown)
			t.settle(m.now)
			continue
		}
		if t.ended() && t.EndedAt <= m.now-30*24*3600 {
			m.forget(id)
		}
	}
}

func (m *model) forget(id string) {
	delete(m.tasks, id)
	maps.DeleteFunc(m.owned, func(_, task string) bool { return task == id })
}

func (m *model) tagCounts() (tags []fleet.TagCount) {
	n := map[string]int{}
	for _, a := range m.agents {
		for t := range a.tags {
			n[t]++
		}
	}
	for _, t := range slices.Sorted(maps.Keys(n)) {
		tags = append(tags, fleet.TagCount{Tag: t, Agents: n[t]})
	}
	return tags
}

func (m *model) desired(id string) (rev uint64, own bool) {
	if a := m.agents[id]; a != nil && a.config != "" {
		return a.rev, true
	}
	return m.conf.Revision, false
}
