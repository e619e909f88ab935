// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
	"muster/httpapi"
	"muster/internal/aksk"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// start is when every test begins.
var start = time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)

// world is an API over fakes, with one user of each role: its name is the
// role's, its password "secret", and its token token(role).
type world struct {
	t      testing.TB
	api    *httpapi.API
	store  *fakeStore
	live   *fakeLive
	dir    *fakeDirectory
	report httpapi.NodeReport
	reg    *prometheus.Registry
	log    *bytes.Buffer
	health httpapi.Health

	mu  sync.Mutex
	now time.Time
}

func newWorld(t testing.TB, change ...func(*httpapi.Options)) *world {
	t.Helper()
	w := &world{t: t, now: start, reg: prometheus.NewRegistry(), log: &bytes.Buffer{}, health: httpapi.Health{Ready: true}}
	w.store = newFakeStore(func() int64 { return w.clock().Unix() })
	w.live = &fakeLive{sessions: map[string]fleet.Session{}}
	t.Cleanup(func() {
		if w.live.waits != 0 {
			t.Errorf("%d waits for a command were never cancelled", w.live.waits)
		}
	})
	w.seed()
	w.dir = &fakeDirectory{members: []fleet.Member{{
		NodeID: "n1", ServerID: "n1~0a", ClusterID: "c1", Version: "0.1.0", Format: 1,
		AgentAddr: "192.0.2.1:6751", HTTPAddr: "192.0.2.1:6701", HTTPSAddr: "192.0.2.1:6752", SDAddr: "192.0.2.1:8088", NodeAddr: "192.0.2.1:6760",
		Started: start.Add(-time.Hour), Load: fleet.Load{Sessions: 3, Limit: 100, Ready: true}, ReportedAt: start, Alive: true,
	}}}
	opts := httpapi.Options{
		Logger: slog.New(slog.NewTextHandler(w.log, nil)), Registerer: w.reg, Gatherer: w.reg, Now: w.clock,
		State: httpapi.State{
			Users: w.store, Tokens: w.store, Keys: w.store, Config: w.store, Tags: w.store,
			Agents: w.store, Tasks: w.store, TaskControl: w.store, Status: w.store,
		},
		Live:      httpapi.Live{Sessions: w.live, Streams: w.live},
		Directory: httpapi.Directory{Members: w.dir, Services: w.dir},
		Native:    httpapi.Native{Report: func() httpapi.NodeReport { return w.report }},
		Passwords: fakePasswords{},
		Health:    func() httpapi.Health { return w.health },
		Node:      httpapi.NodeInfo{Name: "n1", Version: "0.1.0", Commit: "abc", BuiltAt: "2026-03-14", CI: "7"},
	}
	for _, c := range change {
		c(&opts)
	}
	api, err := httpapi.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	w.api = api
	return w
}

// seed puts back the users, tokens and keys that every test begins with.
func (w *world) seed() {
	for level := range 9 {
		role, _ := fleet.RoleOfLevel(level)
		if own, _ := role.Level(); own != level {
			continue
		}
		w.store.users[string(role)] = fleet.User{Name: string(role), Level: level, PasswordHash: "hash:secret", CreatedAt: start.Unix()}
		w.store.tokens["t-"+string(role)] = fleet.Token{
			ID: "t-" + string(role), Hash: hashText(token(role)), User: string(role), Kind: fleet.TokenAPI,
			CreatedAt: start.Unix(), LastUsedAt: start.Unix(), ExpiresAt: start.Add(24 * time.Hour).Unix(),
		}
	}
	for _, scope := range []fleet.KeyScope{fleet.KeyScopeSD, fleet.KeyScopeAgents} {
		ak := "ak" + string(scope)
		w.store.keys[ak] = fleet.AccessKey{AccessKey: ak, Scope: scope, CreatedAt: start.Unix()}
		w.store.secrets[ak] = []byte("secret-of-" + ak)
	}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// addAgent puts an agent into the inventory and, unless it is offline, gives
// it a stream.
func (w *world) addAgent(id string, online bool, tags ...string) {
	ident := fleet.Identity{
		AgentID: id, Hostname: "host-" + id, Version: "1.7.0.24", Product: "hids",
		IntranetIPv4: []string{"10.0.0.1"}, ExtranetIPv4: []string{}, IntranetIPv6: []string{"fd00::1"}, ExtranetIPv6: []string{},
	}
	w.store.agents[id] = fleet.Agent{
		AgentReport: fleet.AgentReport{
			Identity: ident, Node: "n1", SeenAt: start.Unix() - 3600,
			Facts:   map[string]string{"platform": "debian", "arch": "x86_64", "nproc": "4", "platform_version": "12"},
			Plugins: map[string]string{"driver": "1.7.0.4"},
		},
		Number: uint32(len(w.store.agents) + 1), FirstSeen: start.Unix() - 86400, Tags: tags,
	}
	if !online {
		return
	}
	w.live.sessions[id] = fleet.Session{
		Identity: ident, Epoch: 1, RemoteAddr: "192.0.2.7:50123", Node: "n1",
		ConnectedAt: start.Unix() - 120, SeenAt: start.Unix() - 2, HeartbeatAt: start.Unix() - 5, ConfigRevision: 1, Records: 12,
		Heartbeat: map[string]string{
			"platform": "debian", "arch": "x86_64", "nproc": "4", "platform_version": "12", "state": "running",
			"cpu": "0.0125", "rss": "14000000", "idc": "ams", "rx_speed": "+Inf",
		},
		Plugins: map[string]fleet.PluginHeartbeat{
			"driver": {At: start.Unix() - 6, Fields: map[string]string{"name": "driver", "pversion": "1.7.0.4", "cpu": "0.5"}},
		},
	}
}

func token(r fleet.Role) string { return "token-of-" + string(r) }

func hashText(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// request is one to send; the zero value is a GET by nobody from a far host
// over TLS.
type request struct {
	as     fleet.Role // sends its token
	key    string     // signs with this access key; its secret is "secret-of-" and the key
	body   string
	header map[string]string
	kind   httpapi.Listener
	from   string // host:port
}

// do sends a request: call is "METHOD /path".
func (w *world) do(call string, q request) *httptest.ResponseRecorder {
	w.t.Helper()
	method, target, ok := strings.Cut(call, " ")
	if !ok {
		w.t.Fatalf("%q is not METHOD /path", call)
	}
	r := httptest.NewRequestWithContext(w.t.Context(), method, target, strings.NewReader(q.body))
	r.RemoteAddr = "198.51.100.4:40000"
	if q.from != "" {
		r.RemoteAddr = q.from
	}
	if q.as != "" {
		r.Header.Set("token", token(q.as))
	}
	for k, v := range q.header {
		r.Header.Set(k, v)
	}
	if q.key != "" {
		if err := aksk.SignRequest(r, q.key, "secret-of-"+q.key, w.clock()); err != nil {
			w.t.Fatal(err)
		}
	}
	if q.kind == 0 {
		q.kind = httpapi.ListenerHTTPS
	}
	rec := httptest.NewRecorder()
	w.api.Handler(q.kind).ServeHTTP(rec, r)
	return rec
}

// answer sends a request and decodes the JSON of the answer, which must have
// the status.
func (w *world) answer(call string, q request, status int) map[string]any {
	w.t.Helper()
	rec := w.do(call, q)
	var v map[string]any
	if rec.Code != status {
		w.t.Fatalf("%s: status %d, want %d: %s", call, rec.Code, status, rec.Body)
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &v); err != nil {
		w.t.Fatalf("%s: answer is not JSON: %v: %s", call, err, rec.Body)
	}
	return v
}

// data is the data of a good answer in Elkeid's envelope.
func (w *world) data(call string, q request) any {
	w.t.Helper()
	v := w.answer(call, q, http.StatusOK)
	if v["code"] != 0.0 {
		w.t.Fatalf("%s: %v, want code 0", call, v)
	}
	return v["data"]
}

// golden compares an answer with testdata/name.json.
func (w *world) golden(name string, got *httptest.ResponseRecorder) {
	w.t.Helper()
	var indented bytes.Buffer
	if err := json.Indent(&indented, bytes.TrimSpace(got.Body.Bytes()), "", "  "); err != nil {
		w.t.Fatalf("answer is not JSON: %v: %s", err, got.Body)
	}
	indented.WriteByte('\n')
	path := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, indented.Bytes(), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	if diff := gocmp.Diff(string(want), indented.String()); diff != "" {
		w.t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// fakePasswords are quick: the hash is the password behind "hash:".
type fakePasswords struct{}

func (fakePasswords) Hash(_ context.Context, password string) (string, error) {
	return "hash:" + password, nil
}

func (fakePasswords) Verify(_ context.Context, hash, password string) (bool, error) {
	return hash == "hash:"+password, nil
}

// fakeLive holds the streams of a node. written is what AwaitWritten says of
// every command; nil means that it is never written.
type fakeLive struct {
	sessions map[string]fleet.Session
	written  func(taskID string) error
	late     bool // cancel comes too late
	waits    int  // AwaitWritten without its cancel
	reset    []string
}

func (f *fakeLive) Session(id string) (fleet.Session, bool) {
	s, ok := f.sessions[id]
	return s, ok
}

func (f *fakeLive) SessionIDs() []string      { return slices.Sorted(maps.Keys(f.sessions)) }
func (f *fakeLive) SessionCount() int         { return len(f.sessions) }
func (f *fakeLive) Sessions() []fleet.Session { return sorted(f.sessions) }

func (f *fakeLive) Reset(ids []string) map[string]error {
	out := map[string]error{}
	for _, id := range ids {
		out[id] = nil
		if _, ok := f.sessions[id]; !ok {
			out[id] = fleet.ErrOffline
		}
	}
	f.reset = append(f.reset, ids...)
	return out
}

func (f *fakeLive) AwaitWritten(taskID string) (wait func(context.Context) error, cancel func() bool) {
	f.waits++
	return func(ctx context.Context) error {
		if f.written != nil {
			return f.written(taskID)
		}
		<-ctx.Done()
		return ctx.Err()
	}, func() bool { f.waits--; return f.late }
}

// fakeDirectory is what gossip knows.
type fakeDirectory struct {
	members  []fleet.Member
	services []fleet.Service
	picked   int
}

func (f *fakeDirectory) Members() []fleet.Member { return f.members }

func (f *fakeDirectory) Pick(count int) []*fleet.Member {
	f.picked++
	picked := make([]*fleet.Member, min(count, len(f.members)))
	for i := range picked {
		picked[i] = &f.members[i]
	}
	return picked
}

func (f *fakeDirectory) Register(s fleet.Service) (fleet.Service, error) {
	f.Evict(s.Key())
	s.CreateAt, s.UpdateAt = start.Unix(), start.Unix()
	f.services = append(f.services, s)
	return s, s.Check()
}

func (f *fakeDirectory) Evict(k fleet.ServiceKey) bool {
	before := len(f.services)
	f.services = slices.DeleteFunc(f.services, func(s fleet.Service) bool { return s.Key() == k })
	return len(f.services) < before
}

func (f *fakeDirectory) Services(name string) []fleet.Service {
	return slices.DeleteFunc(slices.Clone(f.services), func(s fleet.Service) bool { return name != "" && s.Name != name })
}
