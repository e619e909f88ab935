// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"context"
	"maps"
	"slices"
	"sync"

	"muster/fleet"
)

// fakeStore is the replicated state in maps. It refuses what the real one
// refuses, as far as handlers can see. err, if set, is what every write returns.
type fakeStore struct {
	mu       sync.Mutex
	err      error
	now      func() int64
	users    map[string]fleet.User
	tokens   map[string]fleet.Token // by ID
	keys     map[string]fleet.AccessKey
	secrets  map[string][]byte
	config   fleet.DefaultConfig
	revision uint64
	agents   map[string]fleet.Agent
	tasks    map[string]fleet.Task
	subs     map[string][]fleet.SubTask // by task
	touched  int
	applied  uint64 // at least 7

	quarantined string
}

func newFakeStore(now func() int64) *fakeStore {
	return &fakeStore{
		now: now, users: map[string]fleet.User{}, tokens: map[string]fleet.Token{}, keys: map[string]fleet.AccessKey{},
		secrets: map[string][]byte{}, agents: map[string]fleet.Agent{}, tasks: map[string]fleet.Task{}, subs: map[string][]fleet.SubTask{},
	}
}

func sorted[V any](m map[string]V) []V {
	out := make([]V, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}

func (f *fakeStore) Status() fleet.StoreStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fleet.StoreStatus{
		ServerID: "n1~0a", ClusterID: "c1", Role: "leader", Leader: "n1~0a", Term: 1, Applied: max(f.applied, 7), Current: true,
		Agents: len(f.agents), Quarantined: f.quarantined,
	}
}

func (f *fakeStore) Users() ([]fleet.User, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sorted(f.users), nil
}

func (f *fakeStore) User(name string) (fleet.User, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u, ok := f.users[name]
	if !ok {
		return u, fleet.Refuse(fleet.CodeNotFound, "there is no user %q", name)
	}
	return u, nil
}

func (f *fakeStore) CreateUser(_ context.Context, u fleet.User) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.users[u.Name]; ok {
		return fleet.Refuse(fleet.CodeExists, "there is a user %q already", u.Name)
	}
	if f.err == nil {
		f.users[u.Name] = u
	}
	return f.err
}

func (f *fakeStore) admins() (n int) {
	for _, u := range f.users {
		if u.Level == 0 {
			n++
		}
	}
	return n
}

func (f *fakeStore) UpdateUser(_ context.Context, name string, change fleet.UserChange, keep string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	u, ok := f.users[name]
	if !ok {
		return fleet.Refuse(fleet.CodeNotFound, "there is no user %q", name)
	}
	if change.Level != nil {
		if u.Level == 0 && *change.Level != 0 && f.admins() == 1 {
			return fleet.Refuse(fleet.CodeConflict, "%q is the last admin", name)
		}
		u.Level = *change.Level
	}
	if change.Avatar != nil {
		u.Avatar = *change.Avatar
	}
	if change.PasswordHash != nil {
		u.PasswordHash = *change.PasswordHash
		u.PasswordChangedAt = f.now()
	}
	if change.PasswordHash != nil || change.Level != nil {
		maps.DeleteFunc(f.tokens, func(id string, t fleet.Token) bool { return t.User == name && id != keep })
	}
	f.users[name] = u
	return f.err
}

func (f *fakeStore) DeleteUsers(_ context.Context, names []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	admins := f.admins()
	for _, n := range names {
		u, ok := f.users[n]
		if !ok {
			return fleet.Refuse(fleet.CodeNotFound, "there is no user %q", n)
		}
		if u.Level == 0 {
			admins--
		}
	}
	if admins == 0 {
		return fleet.Refuse(fleet.CodeConflict, "no admin would be left")
	}
	for _, n := range names {
		delete(f.users, n)
		maps.DeleteFunc(f.tokens, func(_ string, t fleet.Token) bool { return t.User == n })
	}
	return f.err
}

func (f *fakeStore) CreateToken(_ context.Context, t fleet.Token) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.tokens[t.ID] = t
	}
	return f.err
}

func (f *fakeStore) TokenByHash(hash string) (fleet.Token, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.tokens {
		if t.Hash == hash {
			return t, nil
		}
	}
	return fleet.Token{}, fleet.Refuse(fleet.CodeNotFound, "there is no such token")
}

func (f *fakeStore) Tokens(user string) ([]fleet.Token, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(sorted(f.tokens), func(t fleet.Token) bool { return user != "" && t.User != user }), nil
}

func (f *fakeStore) RevokeToken(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.tokens[id]; !ok {
		return fleet.Refuse(fleet.CodeNotFound, "there is no token %q", id)
	}
	delete(f.tokens, id)
	return f.err
}

func (f *fakeStore) TouchToken(_ context.Context, id string, at int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, ok := f.tokens[id]
	if !ok {
		return fleet.Refuse(fleet.CodeNotFound, "there is no token %q", id)
	}
	f.touched++
	if f.err == nil {
		t.LastUsedAt = at
		f.tokens[id] = t
	}
	return f.err
}

func (f *fakeStore) Keys() ([]fleet.AccessKey, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sorted(f.keys), nil
}

func (f *fakeStore) KeySecret(ak string) ([]byte, fleet.KeyScope, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k, ok := f.keys[ak]
	if !ok {
		return nil, "", fleet.Refuse(fleet.CodeNotFound, "there is no key %q", ak)
	}
	return f.secrets[ak], k.Scope, nil
}

func (f *fakeStore) AddKey(_ context.Context, k fleet.AccessKey, secret []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.keys[k.AccessKey]; ok {
		return fleet.Refuse(fleet.CodeExists, "there is a key %q already", k.AccessKey)
	}
	f.keys[k.AccessKey], f.secrets[k.AccessKey] = k, secret
	return f.err
}

func (f *fakeStore) DeleteKey(_ context.Context, ak string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.keys[ak]; !ok {
		return fleet.Refuse(fleet.CodeNotFound, "there is no key %q", ak)
	}
	delete(f.keys, ak)
	return f.err
}

func (f *fakeStore) DefaultConfig() (fleet.DefaultConfig, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.config, nil
}

func (f *fakeStore) SetDefaultConfig(_ context.Context, c fleet.DefaultConfig) (fleet.DefaultConfig, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := fleet.CheckConfig(c.Items); err != nil {
		return fleet.DefaultConfig{}, err
	}
	f.revision++
	c.Revision = f.revision
	f.config = c
	return c, f.err
}

func (f *fakeStore) Desired(agentID string) (fleet.Desired, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fleet.Desired{Config: f.config.Items, Revision: f.config.Revision, Tags: f.agents[agentID].Tags}, nil
}

func (f *fakeStore) TagAgents(_ context.Context, ids, add, remove []string) (changed int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		a, ok := f.agents[id]
		if !ok {
			continue
		}
		tags := slices.DeleteFunc(slices.Concat(a.Tags, add), func(t string) bool { return slices.Contains(remove, t) })
		slices.Sort(tags)
		if tags = slices.Compact(tags); !slices.Equal(tags, a.Tags) {
			changed++
		}
		a.Tags = tags
		f.agents[id] = a
	}
	return changed, f.err
}

func (f *fakeStore) Tags() ([]fleet.TagCount, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	count := map[string]int{}
	for _, a := range f.agents {
		for _, t := range a.Tags {
			count[t]++
		}
	}
	var out []fleet.TagCount
	for _, t := range slices.Sorted(maps.Keys(count)) {
		out = append(out, fleet.TagCount{Tag: t, Agents: count[t]})
	}
	return out, nil
}

func (f *fakeStore) AgentsByTag(tag string) (ids []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range sorted(f.agents) {
		if slices.Contains(a.Tags, tag) {
			ids = append(ids, a.AgentID)
		}
	}
	return ids, nil
}

func (f *fakeStore) Agent(id string) (fleet.Agent, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.agents[id]
	if !ok {
		return a, fleet.Refuse(fleet.CodeNotFound, "there is no agent %q", id)
	}
	return a, nil
}

func (f *fakeStore) Agents(after string, limit int) ([]fleet.Agent, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := slices.DeleteFunc(sorted(f.agents), func(a fleet.Agent) bool { return a.AgentID <= after })
	return all[:min(len(all), limit, 5000)], nil
}

func (f *fakeStore) AgentCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.agents)
}
