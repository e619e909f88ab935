// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"muster/fleet"
)

// Limits of /registry/fetch. Source: Elkeid.
const (
	defaultFetchCount = 5
	maxFetchCount     = 100
)

// discoveryRoutes are the routes of Elkeid's ServiceDiscovery. They answer from
// gossip alone, so they work on a node that is cut off from the leader.
func (a *API) discoveryRoutes() []Route {
	route := func(method, path string, access Access, summary string, h handlerFunc) Route {
		return Route{
			Method: method, Path: path, Listeners: listenersAll, Access: access, Stateless: access.open, Summary: summary, handle: h,
		}
	}
	return []Route{
		route(http.MethodGet, "/registry/detail", open(), "Where a service is, the best choice first.", a.registryDetail),
		route(http.MethodGet, "/registry/fetch", open(), "Some of a service's instances.", a.registryFetch),
		route(http.MethodGet, "/registry/list", open(), "The names of the services.", a.registryList),
		route(http.MethodGet, "/registry/summary", open(), "How many instances each service has.", a.registrySummary),
		route(http.MethodPost, "/registry/register", signed(fleet.KeyScopeSD), "Register a service, or renew it.", a.registryRegister),
		route(http.MethodPost, "/registry/evict", signed(fleet.KeyScopeSD), "Forget a service.", a.registryEvict),
		route(http.MethodGet, "/endpoint/ping", open(), "Whether this node takes part in service discovery.", a.endpointPing),
		route(http.MethodGet, "/endpoint/stat", open(), "The addresses of the nodes.", a.endpointStat),
	}
}

func succeedSD(w http.ResponseWriter, data any) error {
	writeJSON(w, http.StatusOK, sdAnswer{Msg: "ok", Data: data})
	return nil
}

// succeedServices is succeedSD for a list of services.
func (a *API) succeedServices(w http.ResponseWriter, list []fleet.Service) error {
	body := a.bodies.Get().(*[]byte)
	*body = appendServices((*body)[:0], list)
	writeBytes(w, jsonType, http.StatusOK, *body)
	a.bodies.Put(body)
	return nil
}

// instances lists a service: members in the order in which agents should try
// them, then what has registered, the greenest and lightest first. count 0 is
// all, which hands out nothing.
func (a *API) instances(name string, count int) []fleet.Service {
	var nodes []*fleet.Member
	now := a.opts.Now()
	if count > 0 && name == fleet.ServiceAgents {
		nodes = a.opts.Directory.Members.Pick(count)
		a.countFirst(nodes, now)
	} else {
		nodes = a.alive()
	}
	out := make([]fleet.Service, 0, len(nodes))
	for _, m := range nodes {
		if s, ok := fleet.ServiceOf(m, name, now); ok {
			out = append(out, s)
		}
	}
	own := 0
	if name == fleet.ServiceAgents {
		own = len(out) // what is ranked already stays in front
	}
	out = append(out, a.opts.Directory.Services.Services(name)...)
	slices.SortStableFunc(out[own:], func(x, y fleet.Service) int {
		if x.Status != y.Status {
			return int(x.Status) - int(y.Status)
		}
		return x.Weight - y.Weight
	})
	if count > 0 {
		out = out[:min(len(out), count)]
	}
	return out
}

// countFirst counts an answer to an agent by what it is sent to.
func (a *API) countFirst(nodes []*fleet.Member, now time.Time) {
	first := standingNone
	if len(nodes) > 0 {
		first = nodes[0].Standing(now)
	}
	a.metrics.sdFirst[first].Inc()
}

// alive are the members that live, or all if none does: an answer must not be
// empty.
func (a *API) alive() []*fleet.Member {
	members := a.opts.Directory.Members.Members()
	all := make([]*fleet.Member, 0, len(members))
	alive := make([]*fleet.Member, 0, len(members))
	for i := range members {
		m := &members[i]
		all = append(all, m)
		if m.Alive {
			alive = append(alive, m)
		}
	}
	if len(alive) == 0 {
		return all
	}
	return alive
}

// withExtra never answers null for extra.
func withExtra(s fleet.Service) fleet.Service {
	if s.Extra == nil {
		s.Extra = map[string]any{}
	}
	return s
}

// parameter is a parameter of the query, as url.Values.Get gives it. Most
// queries are plain enough for no map to be made of them.
func parameter(r *http.Request, name string) string {
	if strings.ContainsAny(r.URL.RawQuery, "%+;") {
		return r.URL.Query().Get(name)
	}
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		if key, value, _ := strings.Cut(pair, "="); key == name && pair != "" {
			return value
		}
	}
	return ""
}

// serviceName reads the query's name.
func serviceName(r *http.Request) (string, error) {
	name := parameter(r, "name")
	if name == "" {
		return "", fleet.Invalid("name", "is missing: say which service, as in ?name=%s", fleet.ServiceAgents)
	}
	if len(name) > fleet.MaxServiceNameBytes {
		return "", fleet.Invalid("name", "is %d bytes long, at most %d are accepted", len(name), fleet.MaxServiceNameBytes)
	}
	return name, nil
}

// serviceCount reads the query's count, 1 to 100.
func serviceCount(r *http.Request, missing int) (int, error) {
	text := parameter(r, "count")
	if text == "" {
		return missing, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxFetchCount {
		return 0, fleet.Invalid("count", "%.20q is not a number between 1 and %d", text, maxFetchCount)
	}
	return n, nil
}

// registryDetail is what agents ask, with a count of 10. They try the answer in
// its order. A count that is out of range is ignored, as the original ignores
// every count here.
func (a *API) registryDetail(w http.ResponseWriter, r *http.Request, _ *call) error {
	name, err := serviceName(r)
	if err != nil {
		return err
	}
	count, err := serviceCount(r, maxFetchCount)
	if err != nil {
		count = maxFetchCount
	}
	return a.succeedServices(w, a.instances(name, count))
}

func (a *API) registryFetch(w http.ResponseWriter, r *http.Request, _ *call) error {
	name, err := serviceName(r)
	if err != nil {
		return err
	}
	count, err := serviceCount(r, defaultFetchCount)
	if err != nil {
		return err
	}
	switch mode := parameter(r, "mode"); mode {
	case "", "min":
		return a.succeedServices(w, a.instances(name, count))
	case "max":
		all := a.instances(name, 0)
		slices.SortStableFunc(all, func(x, y fleet.Service) int { return y.Weight - x.Weight })
		return a.succeedServices(w, all[:min(len(all), count)])
	case "rand":
		all := a.instances(name, 0)
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		return a.succeedServices(w, all[:min(len(all), count)])
	default:
		return fleet.Invalid("mode", "%.20q is none of min, max, rand", mode)
	}
}

// census counts the instances of each service.
func (a *API) census() map[string]int {
	count := make(map[string]int)
	now := a.opts.Now()
	for _, m := range a.alive() {
		for _, s := range fleet.ServicesOf(m, now) {
			count[s.Name]++
		}
	}
	for _, s := range a.opts.Directory.Services.Services("") {
		count[s.Name]++
	}
	return count
}

func (a *API) registryList(w http.ResponseWriter, _ *http.Request, _ *call) error {
	names := make([]string, 0, 4)
	for name := range a.census() {
		names = append(names, name)
	}
	slices.Sort(names)
	return succeedSD(w, names)
}

func (a *API) registrySummary(w http.ResponseWriter, _ *http.Request, _ *call) error {
	return succeedSD(w, a.census())
}

// registration is a service as it registers itself.
type registration struct {
	Name   string         `json:"name"`
	IP     string         `json:"ip"`
	Port   int            `json:"port"`
	Weight int            `json:"weight"`
	Extra  map[string]any `json:"extra"`
}

func (a *API) registryRegister(w http.ResponseWriter, r *http.Request, _ *call) error {
	var b registration
	if err := decodeJSON(r, &b); err != nil {
		return err
	}
	s := fleet.Service{Name: b.Name, IP: b.IP, Port: b.Port, Weight: b.Weight, Extra: b.Extra}
	if err := s.Check(); err != nil {
		return err
	}
	stored, err := a.opts.Directory.Services.Register(s)
	if err != nil {
		return fmt.Errorf("register service: %w", err)
	}
	return succeedSD(w, withExtra(stored))
}

func (a *API) registryEvict(w http.ResponseWriter, r *http.Request, _ *call) error {
	var b registration
	if err := decodeJSON(r, &b); err != nil {
		return err
	}
	key := fleet.ServiceKey{Name: b.Name, IP: b.IP, Port: b.Port}
	if err := key.Check(); err != nil {
		return err
	}
	a.opts.Directory.Services.Evict(key) // what is not there need not be forgotten
	return succeedSD(w, nil)
}

func (a *API) endpointPing(w http.ResponseWriter, _ *http.Request, _ *call) error {
	return succeedSD(w, "pong")
}

// endpointStat lists where the nodes answer service discovery.
func (a *API) endpointStat(w http.ResponseWriter, _ *http.Request, _ *call) error {
	addrs := make([]string, 0, 4)
	for _, m := range a.alive() {
		if m.SDAddr != "" {
			addrs = append(addrs, m.SDAddr)
		}
	}
	slices.Sort(addrs)
	return succeedSD(w, addrs)
}
