// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"muster/fleet"
	"muster/httpapi"
)

// fakeDrains keeps marks by server ID.
type fakeDrains struct {
	mu    sync.Mutex
	marks map[string]bool
	sets  []string
	err   error
}

func (f *fakeDrains) SetDraining(_ context.Context, id string, draining bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sets = append(f.sets, fmt.Sprint(id, " ", draining))
	if f.err != nil {
		return f.err
	}
	f.marks[id] = draining
	return nil
}

func (f *fakeDrains) Draining(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.marks[id]
}

// healthyMembers are n2 and n3 with a limit of 100, beside n1, which has 3 agents.
func healthyMembers() []fleet.Member {
	member := func(name, id string, sessions uint32) fleet.Member {
		return fleet.Member{
			NodeID: name, ServerID: id, Alive: true, ReportedAt: start, Started: start.Add(-time.Hour), Version: "0.1.0",
			Load: fleet.Load{Ready: true, Sessions: sessions, Limit: 100},
		}
	}
	return []fleet.Member{member("n2", "n2~0b", 40), member("n3", "n3~0c", 17)}
}

// drainWorld is node n1 of threeServers, all healthy.
func drainWorld(t *testing.T, change ...func(*httpapi.Options)) (v1World, *fakeDrains) {
	t.Helper()
	d := &fakeDrains{marks: map[string]bool{}}
	c := threeServers()
	w := newV1World(t, append([]func(*httpapi.Options){func(o *httpapi.Options) { o.Cluster, o.Drains = c, d }}, change...)...)
	w.dir.members = append(w.dir.members, healthyMembers()...)
	return w, d
}

// load changes what a node reports.
func (w v1World) load(name string, change func(*fleet.Load)) {
	w.t.Helper()
	i := slices.IndexFunc(w.dir.members, func(m fleet.Member) bool { return m.NodeID == name })
	w.dir.members = slices.Clone(w.dir.members)
	change(&w.dir.members[i].Load)
}

func TestV1Drain(t *testing.T) {
	w, d := drainWorld(t)
	admin, viewer := request{as: fleet.RoleAdmin}, request{as: fleet.RoleViewer}
	view := func(n map[string]any) []any {
		return []any{n["name"], n["state"], n["draining"], n["safe_to_stop"], n["why_not"]}
	}
	want := []any{"n2", "draining", true, false, []any{"it has not said yet that it drains", "it holds 40 agents"}}
	rec := w.do("POST /v1/nodes/n2/drain", admin)
	if rec.Header().Get("X-Muster-Index") == "" {
		t.Error("the answer to a write lacks X-Muster-Index")
	}
	equal(t, "again", want, view(w.v1("POST /v1/nodes/n2~0b/drain", admin, 200)))
	equal(t, "a look", want, view(w.v1("GET /v1/nodes/n2", viewer, 200)))
	equal(t, "in the list", []any{false, true, false}, items(w.v1("GET /v1/nodes", viewer, 200), "draining"))
	w.load("n2", func(l *fleet.Load) { l.Draining, l.KafkaBacklog = true, 5 })
	equal(t, "on the way", []any{"it holds 40 agents", "it holds 5 records that are not in Kafka yet: while it is stopped they stay on its disk"}, w.v1("GET /v1/nodes/n2", viewer, 200)["why_not"])
	w.load("n2", func(l *fleet.Load) { l.Sessions, l.KafkaBacklog = 0, 0 })
	equal(t, "empty", []any{"n2", "draining", true, true, []any{}}, view(w.v1("GET /v1/nodes/n2", viewer, 200)))

	want = []any{"n2", "draining", false, false, []any{}} // it says so itself for a moment
	got := view(w.v1("POST /v1/nodes/n2/undrain", admin, 200))
	equal(t, "undrained", want[:3], got[:3])
	w.load("n2", func(l *fleet.Load) { l.Draining = false })
	equal(t, "undrained again", []any{"n2", "ready", false, false, []any{"it is not draining: agents may be sent to it"}}, view(w.v1("POST /v1/nodes/n2/undrain", admin, 200)))
	equal(t, "marks", []string{"n2~0b true", "n2~0b true", "n2~0b false", "n2~0b false"}, d.sets)
	for _, part := range []string{"node=n2", "server=n2~0b", "draining=true", "by=admin", "from=198.51.100.4"} {
		if !strings.Contains(w.log.String(), part) {
			t.Errorf("the log lacks %s:\n%s", part, w.log)
		}
	}
}

// TestV1DrainRefusals: what cannot be done is said before anything is marked.
func TestV1DrainRefusals(t *testing.T) {
	doc := newV1World(t).doc
	for name, tt := range map[string]struct {
		call   string
		as     fleet.Role
		change func(w v1World, d *fakeDrains)
		status int
		says   []string
		marks  map[string]bool
	}{
		"unknown":                   {call: "n9/drain", status: 404, says: []string{`"n9"`, "GET /v1/nodes"}},
		"no admin":                  {call: "n2/drain", as: fleet.RoleOperator, status: 403},
		"no admin, 2":               {call: "n2/undrain", as: fleet.RoleOperator, status: 403},
		"misspelt":                  {call: "n2/drain?forse=true", status: 400, says: []string{"is not a parameter"}},
		"doubtful":                  {call: "n2/drain?force=1", status: 400, says: []string{"neither true nor false"}},
		"undrain has no parameters": {call: "n2/undrain?force=true", status: 400, says: []string{"is not a parameter"}},
		"no member": {call: "n4/drain", change: func(w v1World, _ *fakeDrains) {
			w.dir.members = append(w.dir.members, fleet.Member{NodeID: "n4", ServerID: "n4~0d", Alive: true})
		}, status: 409, says: []string{"not a member"}},
		"the last one": {call: "n1/drain", change: func(w v1World, d *fakeDrains) {
			d.marks["n2~0b"] = true
			w.load("n3", func(l *fleet.Load) { l.Sessions = 100 })
		}, status: 409, says: []string{"no other node can take agents", "n2 is draining, n3 is full", "keep its 3", "--force"}, marks: map[string]bool{"n2~0b": true}},
		"the last one by force": {call: "n1/drain?force=true", change: func(w v1World, _ *fakeDrains) {
			w.dir.members = w.dir.members[:1]
		}, status: 200, says: []string{"it holds 3 agents, and the other nodes have room for 0"}, marks: map[string]bool{"n1~0a": true}},
		"the last one again": {call: "n1/drain", change: func(w v1World, d *fakeDrains) {
			w.dir.members, d.marks["n1~0a"] = w.dir.members[:1], true
		}, status: 200, marks: map[string]bool{"n1~0a": true}},
		"others are dead or unready": {call: "n1/drain", change: func(w v1World, _ *fakeDrains) {
			w.load("n2", func(l *fleet.Load) { l.Ready = false })
			w.dir.members[2].Alive = false
		}, status: 409, says: []string{"n2 is not-ready, n3 is dead"}},
		"others are without Kafka": {call: "n1/drain", change: func(w v1World, _ *fakeDrains) {
			w.load("n2", func(l *fleet.Load) { l.KafkaAway = true })
			w.load("n3", func(l *fleet.Load) { l.Leaderless = true })
		}, status: 200, marks: map[string]bool{"n1~0a": true}},
		"a dead one": {call: "n3/drain", change: func(w v1World, _ *fakeDrains) {
			w.dir.members = w.dir.members[:1]
		}, status: 200, says: []string{"dead", "nobody knows what it holds"}, marks: map[string]bool{"n3~0c": true}},
		"no leader": {call: "n2/drain", change: func(_ v1World, d *fakeDrains) {
			d.err = fmt.Errorf("no leader: %w", fleet.ErrUnavailable)
		}, status: 503},
		"not visible here": {call: "n2/drain", change: func(_ v1World, d *fakeDrains) {
			d.err = &fleet.NotVisible{Index: 9}
		}, status: 504},
	} {
		t.Run(name, func(t *testing.T) {
			d := &fakeDrains{marks: map[string]bool{}}
			w := v1World{newWorld(t, func(o *httpapi.Options) { o.Cluster, o.Drains = threeServers(), d }), doc}
			w.dir.members = append(w.dir.members, healthyMembers()...)
			if tt.change != nil {
				tt.change(w, d)
			}
			if tt.as == "" {
				tt.as = fleet.RoleAdmin
			}
			got := fmt.Sprint(w.v1("POST /v1/nodes/"+tt.call, request{as: tt.as}, tt.status))
			for _, want := range tt.says {
				if !strings.Contains(got, want) {
					t.Errorf("it does not say %q: %s", want, got)
				}
			}
			if tt.marks == nil {
				tt.marks = map[string]bool{}
			}
			equal(t, "marks", tt.marks, maps.Clone(d.marks))
		})
	}
	w, _ := clusterWorld(t) // keeps no marks
	w.v1("POST /v1/nodes/n2/drain", request{as: fleet.RoleAdmin}, 503)
}

// TestV1SafeToStop: a node may be stopped when the voters that stay are enough.
func TestV1SafeToStop(t *testing.T) {
	w, _ := drainWorld(t)
	empty := func(l *fleet.Load) { l.Draining, l.Sessions = true, 0 }
	for _, name := range []string{"n1", "n2", "n3"} {
		w.load(name, empty)
	}
	q := request{as: fleet.RoleViewer}
	equal(t, "all live", []any{true, true, true}, items(w.v1("GET /v1/nodes", q, 200), "safe_to_stop"))
	w.dir.members[2].Alive = false
	equal(t, "n3 is dead", []any{
		[]any{"without it 1 of 3 voters are alive, and 2 must be: nothing could be changed"},
		[]any{"without it 1 of 3 voters are alive, and 2 must be: nothing could be changed"},
		[]any{"it is dead for all that this node hears: nobody knows what it holds"},
	}, items(w.v1("GET /v1/nodes", q, 200), "why_not"))

	alone := newV1World(t)
	alone.load("n1", empty)
	equal(t, "alone", []any{"it is the only voter: while it is stopped nothing can be changed"}, alone.v1("GET /v1/nodes/n1", q, 200)["why_not"])

	c := threeServers()
	c.servers[0].Voter = false
	w = newV1World(t, func(o *httpapi.Options) { o.Cluster = c })
	w.dir.members = append(w.dir.members, healthyMembers()...)
	w.load("n1", empty)
	equal(t, "no voter", true, w.v1("GET /v1/nodes/n1", q, 200)["safe_to_stop"])
}

// TestV1FairShare: the shares of all nodes add up to the agents that there are.
func TestV1FairShare(t *testing.T) {
	w, d := drainWorld(t)
	q := request{as: fleet.RoleViewer}
	equal(t, "equal limits", []any{20.0, 20.0, 20.0}, items(w.v1("GET /v1/nodes", q, 200), "fair_share"))
	w.load("n3", func(l *fleet.Load) { l.Limit = 200 })
	equal(t, "a larger one", []any{15.0, 15.0, 30.0}, items(w.v1("GET /v1/nodes", q, 200), "fair_share"))
	equal(t, "on a page of one", []any{15.0}, items(w.v1("GET /v1/nodes?limit=1", q, 200), "fair_share"))
	equal(t, "alone", 30.0, w.v1("GET /v1/nodes/n3", q, 200)["fair_share"])
	w.load("n3", func(l *fleet.Load) { l.Draining = true })
	d.marks["n3~0c"] = true
	equal(t, "a draining one", []any{30.0, 30.0, 0.0}, items(w.v1("GET /v1/nodes", q, 200), "fair_share"))
}
