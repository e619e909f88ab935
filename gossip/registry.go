// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"muster/fleet"
)

const (
	// maxServices bounds the registry, evictions that are remembered included;
	// registrations beyond it are refused.
	maxServices = 10_000

	// rememberEvicted is how long an eviction is kept, so that an older
	// registration which is still on its way does not undo it.
	rememberEvicted = 2 * fleet.ServiceEvictAge

	// maxStampAhead bounds what another node's clock can do to the order.
	maxStampAhead = 24 * time.Hour
)

// registration is a service as nodes tell it each other. Of two about the same
// service the one with the higher stamp holds; of equal stamps the eviction.
type registration struct {
	Name     string         `json:"n"`
	IP       string         `json:"i"`
	Port     int            `json:"p"`
	CreateAt int64          `json:"c"`
	Weight   int            `json:"w,omitempty"`
	Extra    map[string]any `json:"x,omitempty"`
	Stamp    int64          `json:"s"` // microseconds of the registering node's clock, or more
	// AgeMS is how long ago it was registered. Each receiver reckons from it by
	// its own clock, so clocks need not agree.
	AgeMS   int64 `json:"a"`
	Evicted bool  `json:"e,omitempty"`
}

func (r *registration) key() fleet.ServiceKey {
	return fleet.ServiceKey{Name: r.Name, IP: r.IP, Port: r.Port}
}

type entry struct {
	service   fleet.Service // Status and UpdateAt are reckoned when asked for
	stamp     int64
	refreshed time.Time
	evicted   bool
}

// lifetime is how long the entry is kept after it was refreshed.
func (e *entry) lifetime() time.Duration {
	if e.evicted {
		return rememberEvicted
	}
	return fleet.ServiceEvictAge
}

func (e *entry) message(now time.Time) registration {
	return registration{
		Name: e.service.Name, IP: e.service.IP, Port: e.service.Port,
		CreateAt: e.service.CreateAt, Weight: e.service.Weight, Extra: e.service.Extra,
		Stamp: e.stamp, AgeMS: max(0, now.Sub(e.refreshed).Milliseconds()), Evicted: e.evicted,
	}
}

// registry holds the services that are no nodes of this cluster.
type registry struct {
	mu        sync.RWMutex
	entries   map[fleet.ServiceKey]*entry
	names     map[string]int // entries of each name
	lastStamp int64
}

func newRegistry() *registry {
	return &registry{entries: map[fleet.ServiceKey]*entry{}, names: map[string]int{}}
}

// put replaces an entry, or adds it. The caller holds mu.
func (r *registry) put(key fleet.ServiceKey, e *entry) {
	if _, known := r.entries[key]; !known {
		r.names[key.Name]++
	}
	r.entries[key] = e
}

// Register notes a service, or that it is still there, and tells the other
// nodes. Services register each 30 s; without it they are forgotten after 105 s.
func (g *Mesh) Register(s fleet.Service) (fleet.Service, error) {
	if err := s.Check(); err != nil {
		return fleet.Service{}, err
	}
	registered, message, err := g.registry.register(s, time.Now())
	if err != nil {
		return fleet.Service{}, err
	}
	g.spread(message)
	return registered, nil
}

// Evict forgets a service on all nodes, and tells whether it was known here.
func (g *Mesh) Evict(key fleet.ServiceKey) bool {
	message, ok := g.registry.evict(key, time.Now())
	if ok {
		g.spread(message)
	}
	return ok
}

// Services returns the registered services of a name (empty: of all names), by
// name, IP and port. The nodes of the cluster are not among them: those are in
// Members.
func (g *Mesh) Services(name string) []fleet.Service {
	return g.registry.list(name, time.Now())
}

func (r *registry) register(s fleet.Service, now time.Time) (fleet.Service, registration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.room(s.Key(), now) {
		return fleet.Service{}, registration{}, fleet.Refuse(fleet.CodeTooLarge,
			"%d services are registered, more are not kept", maxServices)
	}
	s.CreateAt, s.UpdateAt, s.Status = now.Unix(), now.Unix(), fleet.ServiceGreen
	s.Extra = maps.Clone(s.Extra)
	if s.Extra == nil {
		s.Extra = map[string]any{}
	}
	if old, ok := r.entries[s.Key()]; ok && !old.evicted {
		s.CreateAt = old.service.CreateAt
	}
	e := &entry{service: s, stamp: r.stamp(now), refreshed: now}
	r.put(s.Key(), e)
	return s, e.message(now), nil
}

func (r *registry) evict(key fleet.ServiceKey, now time.Time) (registration, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.entries[key]
	if !ok || old.evicted || now.Sub(old.refreshed) > old.lifetime() {
		return registration{}, false
	}
	e := &entry{
		service:   fleet.Service{Name: key.Name, IP: key.IP, Port: key.Port},
		stamp:     r.stamp(now),
		refreshed: now,
		evicted:   true,
	}
	r.put(key, e)
	return e.message(now), true
}

// merge takes over what another node says, if it is news. It returns what it did
// not take, as a reason, or an empty one.
func (r *registry) merge(m registration, now time.Time) (news bool, ignored string) {
	limit := now.Add(maxStampAhead).UnixMicro()
	age := time.Duration(m.AgeMS) * time.Millisecond
	e := &entry{
		service: fleet.Service{
			Name: m.Name, IP: m.IP, Port: m.Port, CreateAt: m.CreateAt, Weight: m.Weight, Extra: m.Extra,
		},
		stamp:     m.Stamp,
		refreshed: now.Add(-age),
		evicted:   m.Evicted,
	}
	switch {
	case e.service.Check() != nil, m.Stamp < 0, m.Stamp > limit, m.AgeMS < 0, m.AgeMS > maxAgeMS:
		return false, reasonMalformed
	case age > e.lifetime():
		return false, ""
	}
	if e.service.Extra == nil {
		e.service.Extra = map[string]any{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old, known := r.entries[m.key()]
	if known && (old.stamp > e.stamp || (old.stamp == e.stamp && (old.evicted || !e.evicted))) {
		return false, ""
	}
	if !r.room(m.key(), now) {
		return false, reasonRegistryFull
	}
	r.lastStamp = max(r.lastStamp, e.stamp)
	r.put(m.key(), e)
	return true, ""
}

// maxAgeMS keeps the arithmetic of ages far from overflow.
const maxAgeMS = int64(24 * time.Hour / time.Millisecond)

func (r *registry) list(name string, now time.Time) []fleet.Service {
	r.mu.RLock()
	defer r.mu.RUnlock()
	services := []fleet.Service{}
	if name != "" && r.names[name] == 0 {
		return services // as it is each time that an agent asks for its servers
	}
	for key, e := range r.entries {
		if e.evicted || (name != "" && key.Name != name) {
			continue
		}
		s := e.service
		kept := false
		if s.Status, kept = fleet.ServiceStatusAt(now.Sub(e.refreshed)); !kept {
			continue
		}
		s.UpdateAt = e.refreshed.Unix()
		s.Extra = maps.Clone(s.Extra)
		services = append(services, s)
	}
	slices.SortFunc(services, func(a, b fleet.Service) int { return compareKeys(a.Key(), b.Key()) })
	return services
}

// stamp returns a number above all that this node has seen. The caller holds mu.
func (r *registry) stamp(now time.Time) int64 {
	r.lastStamp = max(r.lastStamp+1, now.UnixMicro())
	return r.lastStamp
}

// room tells whether a service can be noted. The caller holds mu.
func (r *registry) room(key fleet.ServiceKey, now time.Time) bool {
	if _, known := r.entries[key]; known || len(r.entries) < maxServices {
		return true
	}
	r.sweepLocked(now)
	return len(r.entries) < maxServices
}

func (r *registry) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweepLocked(now)
}

func (r *registry) sweepLocked(now time.Time) {
	for key, e := range r.entries {
		if now.Sub(e.refreshed) <= e.lifetime() {
			continue
		}
		delete(r.entries, key)
		if r.names[key.Name]--; r.names[key.Name] == 0 {
			delete(r.names, key.Name)
		}
	}
}

func (r *registry) len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.entries)
}

// state returns everything, for another node to merge.
func (r *registry) state(now time.Time) ([]byte, error) {
	r.mu.RLock()
	all := make([]registration, 0, len(r.entries))
	for _, e := range r.entries {
		all = append(all, e.message(now))
	}
	r.mu.RUnlock()
	body, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("encode the service registry: %w", err)
	}
	return append([]byte{stateVersion}, body...), nil
}
