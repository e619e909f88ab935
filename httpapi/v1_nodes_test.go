// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/httpapi"
	"muster/internal/apiv1"
)

// fakeCluster is the membership of a store. Its functions may be nil.
type fakeCluster struct {
	servers     []fleet.Server
	readIndex   func(ctx context.Context) (uint64, error)
	waitApplied func(ctx context.Context, index uint64) error
	removeErr   error

	mu      sync.Mutex
	removed []string
	asked   int // ReadIndex
}

func (f *fakeCluster) Servers() ([]fleet.Server, error) { return f.servers, nil }

func (f *fakeCluster) Remove(_ context.Context, nameOrID string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.removed = append(f.removed, nameOrID)
	return f.removeErr
}

func (f *fakeCluster) ReadIndex(ctx context.Context) (uint64, error) {
	f.mu.Lock()
	f.asked++
	f.mu.Unlock()
	if f.readIndex == nil {
		return 7, nil
	}
	return f.readIndex(ctx)
}

func (f *fakeCluster) WaitApplied(ctx context.Context, index uint64) error {
	if f.waitApplied == nil {
		return nil
	}
	return f.waitApplied(ctx, index)
}

// threeServers are n1, n2, which leads, and n3.
func threeServers() *fakeCluster {
	return &fakeCluster{servers: []fleet.Server{
		{ID: "n1~0a", Name: "n1", Voter: true},
		{ID: "n2~0b", Name: "n2", Voter: true, Leader: true},
		{ID: "n3~0c", Name: "n3", Address: "192.0.2.3:6760", Voter: true},
	}}
}

// otherMembers is what gossip knows beside n1: n4 is not a server yet, n3 is dead.
func otherMembers() []fleet.Member {
	member := func(name, id string, alive bool, l fleet.Load) fleet.Member {
		return fleet.Member{
			NodeID: name, ServerID: id, Alive: alive, Load: l, ReportedAt: start.Add(-time.Second), Started: start.Add(-time.Hour), Version: "0.1.0",
		}
	}
	return []fleet.Member{
		member("n4", "n4~0d", true, fleet.Load{Ready: true, Draining: true, KafkaAway: true, Leaderless: true, Applied: 5}),
		member("n2", "n2~0b", true, fleet.Load{Ready: true, Sessions: 9, Applied: 20}),
		member("n3", "n3~0c", false, fleet.Load{Ready: true, Applied: 11}),
	}
}

// clusterWorld is node n1 of threeServers with otherMembers.
func clusterWorld(t *testing.T, change ...func(*httpapi.Options)) (v1World, *fakeCluster) {
	t.Helper()
	c := threeServers()
	w := newV1World(t, append([]func(*httpapi.Options){func(o *httpapi.Options) { o.Cluster = c }}, change...)...)
	w.dir.members = append(w.dir.members, otherMembers()...)
	return w, c
}

func TestV1Status(t *testing.T) {
	w := newV1World(t)
	w.addAgent("a1", true)
	w.addAgent("a2", false)
	w.report = httpapi.NodeReport{
		StartedAt: start.Add(-time.Hour), AgentLimit: 100,
		Records:      apiv1.Ledger{PerSecond: 1.5, Received: 10, Delivered: 7, Pending: 1, Refused: 1, Dropped: map[string]uint64{"too_large": 1}},
		Kafka:        apiv1.Kafka{State: "ok", Brokers: []string{"127.0.0.1:9092"}, Topic: "hids_svr", Embedded: true, Detail: "embedded, not replicated"},
		Certificates: []apiv1.Certificate{{Name: "node", NotAfter: start.Add(24 * time.Hour).In(time.FixedZone("x", 3600))}},
		Listeners:    []apiv1.Listener{{Name: "http", Addr: "127.0.0.1:6701"}},
	}
	w.v1("GET /v1/status", request{as: fleet.RoleViewer}, 200)
	w.golden("v1_status", w.do("GET /v1/status", request{as: fleet.RoleViewer}))

	w.health = httpapi.Health{Reasons: []string{"no leader"}}
	w.report = httpapi.NodeReport{StartedAt: start}
	got := w.v1("GET /v1/status", request{as: fleet.RoleViewer}, 200)
	if got["ready"] != false || fmt.Sprint(got["degraded"]) != "[no leader]" {
		t.Errorf("ready %v, degraded %v", got["ready"], got["degraded"])
	}
}

// TestV1Nodes: a node is described by gossip, by the store's members and by its
// own answer; who is dead or does not answer is there too.
func TestV1Nodes(t *testing.T) {
	asked := map[string]bool{}
	var mu sync.Mutex
	w, _ := clusterWorld(t, func(o *httpapi.Options) {
		o.NodeState = func(_ context.Context, id string) (fleet.NodeState, error) {
			mu.Lock()
			defer mu.Unlock()
			asked[id] = true
			if id == "n4~0d" {
				return fleet.NodeState{}, fleet.ErrTimeout
			}
			return fleet.NodeState{Applied: 21, Term: 3, Leader: "n2~0b", CertificateEnd: start.Add(48 * time.Hour)}, nil
		}
	})
	q := request{as: fleet.RoleViewer}
	list := w.v1("GET /v1/nodes", q, 200)
	equal(t, "names", []any{"n1", "n2", "n3", "n4"}, items(list, "name"))
	equal(t, "roles", []any{"voter", "leader", "voter", "none"}, items(list, "role"))
	equal(t, "states", []any{"ready", "ready", "dead", "draining"}, items(list, "state"))
	equal(t, "self", []any{true, false, false, false}, items(list, "self"))
	equal(t, "applied", []any{21.0, 21.0, 11.0, 5.0}, items(list, "applied"))
	equal(t, "lag", []any{0.0, 0.0, 10.0, 0.0}, items(list, "lag"))
	equal(t, "term", []any{3.0, 3.0, nil, nil}, items(list, "term"))
	equal(t, "follows", []any{"n2", "n2", nil, nil}, items(list, "follows"))
	equal(t, "kafka", []any{"ok", "ok", "unknown", "away"}, items(list, "kafka"))
	equal(t, "uptime", []any{3600.0, 3600.0, nil, 3600.0}, items(list, "uptime_seconds"))
	equal(t, "certificates", []any{"2026-03-16T09:26:53Z", "2026-03-16T09:26:53Z", nil, nil}, items(list, "certificate_end"))
	equal(t, "faults", []any{[]any{}, []any{}, []any{}, []any{"it does not answer other nodes", "kafka is away", "it hears no leader"}}, items(list, "degraded"))
	equal(t, "missing", map[string]any{"missing": []any{"n4"}}, list["page_info"])
	equal(t, "asked", map[string]bool{"n1~0a": true, "n2~0b": true, "n4~0d": true}, asked)
	if got := w.do("GET /v1/nodes", q).Header().Get("X-Muster-Missing"); got != "n4" {
		t.Errorf("X-Muster-Missing: %q", got)
	}

	first := w.v1("GET /v1/nodes?limit=2", q, 200)
	rest := w.v1(fmt.Sprintf("GET /v1/nodes?limit=2&after=%s", first["next"]), q, 200)
	equal(t, "second page", []any{"n3", "n4"}, items(rest, "name"))
	one := w.v1("GET /v1/nodes/n3~0c", q, 200)
	equal(t, "one by its server ID", []any{"n3", 9.0}, []any{one["name"], one["lag"]}) // behind what n2 gossiped
	w.v1("GET /v1/nodes/n9", q, 404)

	w.pass(4 * time.Second) // and no report comes
	equal(t, "states without reports", []any{"ready", "dead", "dead", "dead"}, items(w.v1("GET /v1/nodes", q, 200), "state"))
}

// TestV1NodesAlone: a node without others describes itself.
func TestV1NodesAlone(t *testing.T) {
	w := newV1World(t)
	q := request{as: fleet.RoleViewer}
	list := w.v1("GET /v1/nodes", q, 200)
	equal(t, "roles", []any{"leader"}, items(list, "role"))
	equal(t, "applied", []any{7.0}, items(list, "applied"))
	equal(t, "its state", map[string]any{"node": "n1", "server_id": "n1~0a", "applied": 7.0, "term": 1.0, "ready": true}, w.v1("GET /v1/nodes/n1/state", q, 200))
	w.v1("DELETE /v1/nodes/n1", request{as: fleet.RoleAdmin}, 409)
}

// TestV1NodeWithLostDisk: of two nodes of one name the one that lives is meant.
func TestV1NodeWithLostDisk(t *testing.T) {
	w, c := clusterWorld(t)
	w.dir.members = append(w.dir.members, fleet.Member{NodeID: "n3", ServerID: "n3~ff", Alive: true, ReportedAt: start})
	q := request{as: fleet.RoleAdmin}
	equal(t, "by name", "n3~ff", w.v1("GET /v1/nodes/n3", q, 200)["server_id"])
	equal(t, "by ID", "dead", w.v1("GET /v1/nodes/n3~0c", q, 200)["state"])
	w.v1("DELETE /v1/nodes/n3", q, 200)
	equal(t, "removed", []string{"n3~0c"}, c.removed)
	c.servers = append(c.servers, fleet.Server{ID: "n3~ff", Name: "n3"})
	refused := w.v1("DELETE /v1/nodes/n3", q, 409)
	if d := refused["detail"].(string); !strings.Contains(d, "n3~0c, n3~ff") {
		t.Errorf("which is meant? %s", d)
	}
}

// TestV1NodeState: any node answers for any; one that cannot be asked is said
// to be so within 2 s.
func TestV1NodeState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := clusterWorld(t, func(o *httpapi.Options) {
			o.NodeState = func(ctx context.Context, id string) (fleet.NodeState, error) {
				switch id {
				case "n2~0b":
					return fleet.NodeState{Applied: 21, Hash: "abc", Term: 3, Ready: true}, nil
				case "n3~0c":
					return fleet.NodeState{}, fmt.Errorf("dial: %w", fleet.ErrUnavailable)
				}
				<-ctx.Done()
				return fleet.NodeState{}, context.Cause(ctx)
			}
		})
		q := request{as: fleet.RoleViewer}
		equal(t, "another's", map[string]any{"node": "n2", "server_id": "n2~0b", "applied": 21.0, "hash": "abc", "term": 3.0, "ready": true}, w.v1("GET /v1/nodes/n2/state", q, 200))
		begun := time.Now()
		silent := w.v1("GET /v1/nodes/n4/state", q, 504)
		if d, took := silent["detail"].(string), time.Since(begun); !strings.Contains(d, "node n4 (server n4~0d) did not answer within 2 s") || took > 2*time.Second {
			t.Errorf("after %v: %s", took, d)
		}
		gone := w.v1("GET /v1/nodes/n3/state", q, 503)
		if d := gone["detail"].(string); !strings.Contains(d, "node n3 (server n3~0c) cannot be reached") || !strings.Contains(d, "dead") {
			t.Error(d)
		}
		if h := w.do("GET /v1/nodes/n3/state", q).Header().Get("X-Muster-Missing"); h != "n3" {
			t.Errorf("X-Muster-Missing: %q", h)
		}
		begun = time.Now()
		w.v1("GET /v1/nodes", q, 200)
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("a list with a silent node took %v", took)
		}
		w.v1("GET /v1/nodes/n9/state", q, 404)
	})
}

// TestV1StatusOfCluster: how many voters live, and how many must.
func TestV1StatusOfCluster(t *testing.T) {
	w, c := clusterWorld(t)
	q := request{as: fleet.RoleViewer}
	want := map[string]any{"id": "c1", "leader": "n2", "term": 1.0, "role": "voter", "members": 3.0, "voters": 3.0, "voters_alive": 2.0, "quorum": 2.0}
	equal(t, "cluster", want, w.v1("GET /v1/status", q, 200)["cluster"])
	c.servers[1].Leader = false
	c.servers = c.servers[1:]
	w.store.quarantined = "at index 64 the state hashes to 1, the leader's to 2"
	want = map[string]any{
		"id": "c1", "leader": "", "term": 1.0, "role": "none", "members": 2.0, "voters": 2.0, "voters_alive": 1.0, "quorum": 2.0,
		"quarantined": "at index 64 the state hashes to 1, the leader's to 2",
	}
	equal(t, "after it was removed", want, w.v1("GET /v1/status", q, 200)["cluster"])
}

func TestV1RemoveNode(t *testing.T) {
	doc := newV1World(t).doc
	for name, tt := range map[string]struct {
		target  string
		change  func(w v1World, c *fakeCluster)
		status  int
		says    []string
		removed string
	}{
		"a dead one":            {"n3", nil, 200, []string{"delete its data directory", "2 voters", "add a node"}, "n3~0c"},
		"by its server ID":      {"n3~0c", nil, 200, nil, "n3~0c"},
		"a live one":            {"n2", func(_ v1World, c *fakeCluster) { c.servers = c.servers[:2] }, 409, []string{"alive", "9 agents", "--force", "refuse it for good"}, ""},
		"a live one by force":   {"n2?force=true", func(_ v1World, c *fakeCluster) { c.servers = c.servers[:2] }, 200, []string{"ends there by itself", "does not start again", "1 voters"}, "n2~0b"},
		"this one":              {"n1?force=true", func(_ v1World, c *fakeCluster) { c.servers, c.removeErr = c.servers[:2], &fleet.NotVisible{Index: 9} }, 200, nil, "n1~0a"},
		"one of two alive":      {"n2?force=true", nil, 409, []string{"1 of 2 voters would be alive", "remove them first"}, ""},
		"after the majority":    {"n3", func(w v1World, _ *fakeCluster) { w.dir.members = w.dir.members[:1] }, 503, []string{"1 of 3 voters are alive", "--recover"}, ""},
		"the only voter":        {"n1?force=true", func(_ v1World, c *fakeCluster) { c.servers = c.servers[:1] }, 409, []string{"only voter"}, ""},
		"not a member":          {"n4", nil, 409, []string{"not a member", "stop it"}, ""},
		"unknown":               {"n9", func(_ v1World, c *fakeCluster) { c.removeErr = fleet.Refuse(fleet.CodeNotFound, "there is no node n9") }, 404, nil, "n9"},
		"removed before":        {"n9", nil, 200, []string{"removed before"}, "n9"},
		"without a leader":      {"n3", func(_ v1World, c *fakeCluster) { c.removeErr = fmt.Errorf("no leader: %w", fleet.ErrUnavailable) }, 503, nil, "n3~0c"},
		"a doubtful force":      {"n3?force=yes", nil, 400, []string{"neither true nor false"}, ""},
		"a misspelt parameter":  {"n3?forse=true", nil, 400, []string{"is not a parameter"}, ""},
		"not visible elsewhere": {"n3", func(_ v1World, c *fakeCluster) { c.removeErr = &fleet.NotVisible{Index: 9} }, 504, nil, "n3~0c"},
	} {
		t.Run(name, func(t *testing.T) {
			c := threeServers()
			w := v1World{newWorld(t, func(o *httpapi.Options) { o.Cluster = c }), doc}
			w.dir.members = append(w.dir.members, otherMembers()...)
			if tt.change != nil {
				tt.change(w, c)
			}
			got := w.v1("DELETE /v1/nodes/"+tt.target, request{as: fleet.RoleAdmin}, tt.status)
			text := fmt.Sprint(got["detail"], got["next"])
			for _, want := range tt.says {
				if !strings.Contains(text, want) {
					t.Errorf("it does not say %q: %s", want, text)
				}
			}
			if removed := strings.Join(c.removed, ","); removed != tt.removed {
				t.Errorf("removed %q, want %q", removed, tt.removed)
			}
			if logged := strings.Contains(w.log.String(), "by=admin"); logged != (tt.removed != "") {
				t.Errorf("in the log: %v\n%s", logged, w.log)
			}
		})
	}
	w, c := clusterWorld(t, func(o *httpapi.Options) {
		o.NodeState = func(context.Context, string) (fleet.NodeState, error) { return fleet.NodeState{}, nil }
	})
	w.v1("DELETE /v1/nodes/n3", request{as: fleet.RoleAdmin}, 409) // it answers although gossip says that it is dead
	w.v1("DELETE /v1/nodes/n3", request{as: fleet.RoleOperator}, 403)
	if len(c.removed) > 0 {
		t.Errorf("removed %v", c.removed)
	}
}
