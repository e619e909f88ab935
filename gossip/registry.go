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

	// remembered is how long an eviction is kept, so that an older registration
	// which is still on its way does not undo it, and a registration, so that one
	// that has aged out here is not taken back from a node where it is younger by
	// what it was under way.
	remembered = 2 * fleet.ServiceEvictAge

	// sameAge is by how much nodes may differ about the age of a registration. It
	// is as long as a message or a full comparison may be under way.
	sameAge = 10 * time.Second

	// maxStamp is above what any clock says (it is reached in the year 4253), and
	// far below overflow.
	maxStamp = 1 << 56

	// sweepPause is how long a full registry is not searched again for what can go.
	sweepPause = time.Second
)

// registration is a service as nodes tell it each other. Of two about the same
// service the one with the higher stamp holds; of equal stamps the eviction, then
// the one of the higher origin. Of two registrations the later age holds in any
// case: a clock that is ahead decides what a service is, not whether it lives.
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
	// Origin is the node that the service talked to.
	Origin string `json:"o,omitempty"`
}

func (r *registration) key() fleet.ServiceKey {
	return fleet.ServiceKey{Name: r.Name, IP: r.IP, Port: r.Port}
}

type entry struct {
	service   fleet.Service // Status and UpdateAt are reckoned when asked for
	stamp     int64
	refreshed time.Time // on this node's monotonic clock: a wall clock that jumps does not matter
	evicted   bool
	origin    string
}

// after tells whether e is a later word than old about the same service.
func (e *entry) after(old *entry) bool {
	switch {
	case e.stamp != old.stamp:
		return e.stamp > old.stamp
	case e.evicted != old.evicted:
		return e.evicted
	}
	return e.origin > old.origin
}

// fresher tells whether the service was there later than old says. What is told of
// the same registration differs by how long it was under way; that must not make
// it younger with each node that passes it on.
func (e *entry) fresher(old *entry) bool {
	if e.evicted || old.evicted {
		return false
	}
	if e.stamp == old.stamp {
		return e.refreshed.Sub(old.refreshed) > sameAge
	}
	return e.refreshed.After(old.refreshed)
}

// listed tells whether the service is shown.
func (e *entry) listed(now time.Time) bool {
	return !e.evicted && now.Sub(e.refreshed) <= fleet.ServiceEvictAge
}

// spent tells whether the entry is of no use any more.
func (e *entry) spent(now time.Time) bool { return now.Sub(e.refreshed) > remembered }

func (e *entry) message(now time.Time) registration {
	return registration{
		Name: e.service.Name, IP: e.service.IP, Port: e.service.Port,
		CreateAt: e.service.CreateAt, Weight: e.service.Weight, Extra: e.service.Extra,
		Stamp: e.stamp, AgeMS: max(0, now.Sub(e.refreshed).Milliseconds()), Evicted: e.evicted, Origin: e.origin,
	}
}

// registry holds the services that are no nodes of this cluster.
type registry struct {
	self string           // this node
	wall func() time.Time // for stamps and what people read; ages are reckoned by the now of each call

	mu        sync.RWMutex
	entries   map[fleet.ServiceKey]*entry // an entry is replaced, never changed
	names     map[string]int              // entries of each name
	lastStamp int64
	swept     time.Time // when it was last full
}

func newRegistry(self string, wall func() time.Time) *registry {
	return &registry{self: self, wall: wall, entries: map[fleet.ServiceKey]*entry{}, names: map[string]int{}}
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

// Evict forgets a service on all nodes, also one that this node has not heard of
// yet, and tells whether it was known here.
func (g *Mesh) Evict(key fleet.ServiceKey) bool {
	if key.Check() != nil {
		return false
	}
	message, known, kept := g.registry.evict(key, time.Now())
	if kept {
		g.spread(message)
	}
	return known
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
	wall := r.wall().Unix()
	s.CreateAt, s.UpdateAt, s.Status = wall, wall, fleet.ServiceGreen
	s.Extra = maps.Clone(s.Extra)
	if s.Extra == nil {
		s.Extra = map[string]any{}
	}
	if old, ok := r.entries[s.Key()]; ok && old.listed(now) {
		s.CreateAt = old.service.CreateAt
	}
	e := &entry{service: s, stamp: r.stamp(), refreshed: now, origin: r.self}
	r.put(s.Key(), e)
	return s, e.message(now), nil
}

// evict tells whether the service was known, and whether the eviction is kept and
// to be told to the other nodes. One that is not known may have registered a
// moment ago elsewhere, or while this node was cut off.
func (r *registry) evict(key fleet.ServiceKey, now time.Time) (message registration, known, kept bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.entries[key]
	known = ok && old.listed(now)
	if !r.room(key, now) {
		return registration{}, known, false
	}
	e := &entry{
		service:   fleet.Service{Name: key.Name, IP: key.IP, Port: key.Port, Extra: map[string]any{}},
		stamp:     r.stamp(),
		refreshed: now,
		evicted:   true,
		origin:    r.self,
	}
	r.put(key, e)
	return e.message(now), known, true
}

// merge takes over what another node says, if it is news, and returns what it now
// holds, to be passed on. Else it returns why not, as a reason to count, or an
// empty one.
func (r *registry) merge(m registration, now time.Time) (holds registration, news bool, ignored string) {
	if m.Stamp < 0 || m.Stamp > maxStamp || m.AgeMS < 0 || m.AgeMS > maxAgeMS || len(m.Origin) > maxOriginBytes {
		return registration{}, false, reasonMalformed
	}
	e := &entry{
		service: fleet.Service{
			Name: m.Name, IP: m.IP, Port: m.Port, CreateAt: m.CreateAt, Weight: m.Weight, Extra: m.Extra,
		},
		stamp:     m.Stamp,
		refreshed: now.Add(-time.Duration(m.AgeMS) * time.Millisecond),
		evicted:   m.Evicted,
		origin:    m.Origin,
	}
	if e.spent(now) || (!e.evicted && !e.listed(now)) {
		return registration{}, false, ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, known := r.entries[m.key()]; known && !old.spent(now) {
		later, fresher := e.after(old), e.fresher(old)
		switch {
		case !later && !fresher:
			return registration{}, false, ""
		case !later: // what it is, is known better; not how lately it was there
			e.service, e.stamp, e.origin = old.service, old.stamp, old.origin
		case old.fresher(e):
			e.refreshed = old.refreshed
		}
	}
	switch {
	case e.service.Check() != nil:
		return registration{}, false, reasonMalformed
	case !r.room(m.key(), now):
		return registration{}, false, reasonRegistryFull
	}
	if e.service.Extra == nil {
		e.service.Extra = map[string]any{}
	}
	r.lastStamp = max(r.lastStamp, e.stamp)
	r.put(m.key(), e)
	return e.message(now), true, ""
}

// maxOriginBytes is more than a node's name has.
const maxOriginBytes = 255

// maxAgeMS keeps the arithmetic of ages far from overflow.
const maxAgeMS = int64(24 * time.Hour / time.Millisecond)

func (r *registry) list(name string, now time.Time) []fleet.Service {
	wall := r.wall()
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
		s.UpdateAt = wall.Add(e.refreshed.Sub(now)).Unix()
		s.Extra = maps.Clone(s.Extra)
		services = append(services, s)
	}
	slices.SortFunc(services, func(a, b fleet.Service) int { return compareKeys(a.Key(), b.Key()) })
	return services
}

// stamp returns a number above all that this node has seen, its own clock's if
// that is higher. The caller holds mu.
func (r *registry) stamp() int64 {
	r.lastStamp = max(r.lastStamp+1, min(r.wall().UnixMicro(), maxStamp/2))
	return r.lastStamp
}

// room tells whether a service can be noted. The caller holds mu.
func (r *registry) room(key fleet.ServiceKey, now time.Time) bool {
	if _, known := r.entries[key]; known || len(r.entries) < maxServices {
		return true
	}
	if !r.swept.IsZero() && now.Sub(r.swept) < sweepPause {
		return false
	}
	r.swept = now
	r.sweepLocked(func(e *entry) bool { return e.spent(now) || (!e.evicted && !e.listed(now)) })
	return len(r.entries) < maxServices
}

func (r *registry) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweepLocked(func(e *entry) bool { return e.spent(now) })
}

// sweepLocked removes what can go. The caller holds mu.
func (r *registry) sweepLocked(gone func(*entry) bool) {
	for key, e := range r.entries {
		if !gone(e) {
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

// state returns what is registered or was evicted, for another node to merge.
func (r *registry) state(now time.Time) ([]byte, error) {
	r.mu.RLock()
	all := make([]registration, 0, len(r.entries))
	for _, e := range r.entries {
		if e.listed(now) || e.evicted {
			all = append(all, e.message(now))
		}
	}
	r.mu.RUnlock()
	body, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("encode the service registry: %w", err)
	}
	return append([]byte{stateVersion}, body...), nil
}
