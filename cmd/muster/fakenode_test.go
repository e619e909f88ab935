// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/internal/apiv1"
)

// fakeNode answers what it was told to, and remembers what it was asked.
type fakeNode struct {
	*httptest.Server
	answers map[string]any // "METHOD /path" -> body, or apiv1.Problem

	mu     sync.Mutex
	asked  []string // "METHOD uri body"
	tokens []string
}

func newFakeNode(t *testing.T, answers map[string]any) *fakeNode {
	t.Helper()
	f := &fakeNode{answers: answers}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	f.asked = append(f.asked, strings.TrimSpace(r.Method+" "+r.RequestURI+" "+string(body)))
	f.tokens = append(f.tokens, r.Header.Get("Authorization"))
	answer, ok := f.answers[r.Method+" "+r.URL.EscapedPath()]
	if !ok {
		answer = apiv1.Problem{Status: 404, Code: "not_found", Detail: "there is no " + r.URL.Path}
	}
	if p, refused := answer.(apiv1.Problem); refused {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(p.Status)
	}
	if answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// result is what a command left behind.
type result struct {
	code     int
	out, err string
}

// muster runs a command line with a home of its own.
func muster(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	if os.Getenv("XDG_CONFIG_HOME") == "" || !strings.HasPrefix(os.Getenv("XDG_CONFIG_HOME"), os.TempDir()) {
		t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	}
	for _, name := range []string{"MUSTER_TOKEN_FILE", "MUSTER_CA", "MUSTER_PASSWORD"} {
		t.Setenv(name, "")
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	code := run(t.Context(), args, streams{in: strings.NewReader(stdin), out: &out, err: &errs, now: func() time.Time { return now }})
	return result{code, out.String(), errs.String()}
}

// at runs a command against the fake node.
func (f *fakeNode) muster(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	t.Setenv("MUSTER_ADDR", f.URL)
	return muster(t, stdin, args...)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func page[T any](items ...T) apiv1.Page[T] { return apiv1.Page[T]{Items: items} }

func someAnswers() map[string]any {
	agent := apiv1.Agent{
		ID: "a1", Number: 1, State: "running", Hostname: "web-1", Version: "1.7.0.24", Product: "elkeid-agent",
		IntranetIPv4: []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"}, ExtranetIPv4: []string{}, IntranetIPv6: []string{"fd00::1"}, ExtranetIPv6: []string{},
		Tags: []string{"eu", "web"}, Node: "n1", FirstSeen: now.Add(-72 * time.Hour), LastSeen: now.Add(-2 * time.Second),
		Plugins: []apiv1.Plugin{{Name: "driver", Version: "1.7.0.4", LastSeen: now.Add(-6 * time.Second)}},
		Facts:   map[string]string{"platform": "debian", "arch": "x86_64"}, ConfigRevision: 7,
		DesiredConfig: apiv1.DesiredConfig{Revision: 8, Items: 2},
		Session:       &apiv1.Session{RemoteAddr: "192.0.2.7:50123", ConnectedAt: now.Add(-3 * time.Minute), Records: 12345, Heartbeat: map[string]any{"cpu": 0.5}},
	}
	evil := apiv1.Agent{ID: "a2", State: "offline", Hostname: "x\x1b[2J\nroot", DesiredConfig: apiv1.DesiredConfig{}}
	task := apiv1.Task{
		ID: "17734a", Name: "scan", Kind: "task", Status: "running", Creator: "admin", Delivery: "once", Seconds: 86400, Tag: "web",
		Command:   apiv1.Command{Task: &apiv1.AgentTask{DataType: 6053, Name: "scanner", Data: "/usr"}},
		CreatedAt: now.Add(-time.Minute), UpdatedAt: now, Deadline: now.Add(23 * time.Hour), Counts: apiv1.TaskCounts{Total: 3, Sent: 1, Succeeded: 1, Failed: 1},
	}
	config := apiv1.DefaultConfig{Version: "1", Revision: 8, Config: []apiv1.ConfigItem{{Name: "driver", Type: "tar.gz", Version: "1.7", SHA256: "ab", DownloadURL: []string{"https://x/y"}}}}
	node := apiv1.Node{
		Name: "n1", ServerID: "n1~0a", State: "ready", Degraded: []string{"kafka is away"}, Self: true, Version: "0.1.0", Format: 1, StartedAt: now.Add(-26 * time.Hour),
		Role: "leader", Term: 2, Follows: "n1", Applied: 42, Kafka: "away", UptimeSeconds: 93600, CertificateEnd: now.Add(90 * 24 * time.Hour),
		ReportedAt: now.Add(-time.Second), Load: apiv1.NodeLoad{Sessions: 1234, Limit: 20000, RecordsPerSecond: 98765, CPUPermille: 123, MemoryPermille: 456, Applied: 42},
		FairShare: 1209.8, WhyNot: []string{"it is not draining: agents may be sent to it", "it holds 1234 agents"},
		Addresses: apiv1.Addresses{Agents: "192.0.2.1:6751", HTTP: "127.0.0.1:6701"},
	}
	lagging := apiv1.Node{
		Name: "n2", ServerID: "n2~0b", State: "not-ready", Role: "voter", Degraded: []string{}, WhyNot: []string{"it is not draining: agents may be sent to it"}, Version: "0.1.0", Term: 2, Follows: "n1", Applied: 41, Lag: 1, Kafka: "ok",
		StartedAt: now.Add(-time.Minute), UptimeSeconds: 60, ReportedAt: now, CertificateEnd: now.Add(3 * 24 * time.Hour), Addresses: apiv1.Addresses{HTTP: "192.0.2.2:6701"},
	}
	dead := apiv1.Node{
		Name: "n3", ServerID: "n3~0c", State: "dead", Draining: true, Role: "voter", Degraded: []string{}, Applied: 30, Lag: 12, Kafka: "unknown",
		WhyNot: []string{"it is dead"}, Load: apiv1.NodeLoad{Sessions: 77, Limit: 20000},
	}
	drained := apiv1.Node{Name: "n4", ServerID: "n4~0d", State: "draining", Draining: true, Role: "voter", Degraded: []string{}, Load: apiv1.NodeLoad{Limit: 20000}, SafeToStop: true, WhyNot: []string{}}
	services := page(
		apiv1.Service{Name: "hids_svr_grpc", IP: "192.0.2.1", Port: 6751, Status: "green", AgeSeconds: 1, Weight: 1234, Node: "n1", Since: now.Add(-26 * time.Hour)},
		apiv1.Service{Name: "leader", IP: "fd00::7", Port: 80, Status: "yellow", AgeSeconds: 70, Weight: 12345, Since: now.Add(-time.Minute), Extra: map[string]any{"rack": "r1"}})
	user := apiv1.User{Name: "eve", Role: "viewer", Level: 3, CreatedAt: now.Add(-time.Hour)}
	token := apiv1.Token{ID: "t1", User: "eve", Kind: "api", Name: "ci", Role: "viewer", CreatedAt: now, ExpiresAt: now.Add(30 * 24 * time.Hour)}
	key := apiv1.Key{AccessKey: "ak1", Scope: "sd", Note: "old AC", CreatedAt: now.Add(-50 * time.Hour)}
	return map[string]any{
		"GET /v1/status": apiv1.Status{
			Node: "n1", Version: "0.1.0", StartedAt: now.Add(-26 * time.Hour), UptimeSeconds: 93600, Ready: true, Degraded: []string{"kafka away for 12 s"},
			Cluster:      apiv1.Cluster{ID: "c1", Leader: "n1", Term: 2, Role: "leader", Members: 3, Voters: 3, VotersAlive: 2, Quorum: 2},
			Store:        apiv1.Store{ServerID: "n1~0a", ClusterID: "c1", Role: "leader", Leader: "n1~0a", Term: 2, Applied: 40, LastIndex: 42, Current: true, StateBytes: 3 << 20},
			Agents:       apiv1.AgentCounts{Connected: 1234, Known: 5678, Limit: 20000},
			Records:      apiv1.Ledger{PerSecond: 1500.5, Received: 1000000, Delivered: 999000, Pending: 990, Refused: 7, Dropped: map[string]uint64{"too_large": 3, "stopped": 0}},
			Kafka:        apiv1.Kafka{State: "away", Brokers: []string{"127.0.0.1:9092"}, Topic: "hids_svr", Embedded: true, AwaySeconds: 12, Detail: "connection refused"},
			Certificates: []apiv1.Certificate{{Name: "node", NotAfter: now.Add(90 * 24 * time.Hour)}, {Name: "ca", NotAfter: now.Add(3650 * 24 * time.Hour)}},
			Listeners:    []apiv1.Listener{{Name: "http", Addr: "127.0.0.1:6701"}, {Name: "agents", Addr: "0.0.0.0:6751"}},
		},
		"GET /v1/nodes": page(node, lagging, dead), "GET /v1/nodes/n1": node, "GET /v1/services": services,
		"POST /v1/nodes/n3/drain": dead, "POST /v1/nodes/n4/drain": drained, "POST /v1/nodes/n1/undrain": node, "POST /v1/nodes/n3/undrain": dead,
		"GET /v1/nodes/n1~0a/state": apiv1.NodeState{Node: "n1", ServerID: "n1~0a", Applied: 42, Hash: "5eb63bbbe01eeed0", Term: 2, Ready: true},
		"GET /v1/nodes/n2~0b/state": apiv1.NodeState{Node: "n2", ServerID: "n2~0b", Applied: 41, Hash: "a1b2c3d4e5f60718", Term: 2},
		"DELETE /v1/nodes/n3":       apiv1.RemovedNode{Node: "n3", ServerID: "n3~0c", Voters: 2, Next: "Delete its data directory."},
		"GET /v1/agents":            page(agent, evil), "GET /v1/agents/a1": agent, "POST /v1/agents/a1/reset": nil,
		"GET /v1/config/default": config, "PUT /v1/config/default": config,
		"GET /v1/tags": page(apiv1.Tag{Tag: "web", Agents: 2}), "POST /v1/tags/web/agents": apiv1.TagResult{Changed: 2, Unknown: []string{}},
		"GET /v1/tasks": page(task), "GET /v1/tasks/17734a": task, "POST /v1/tasks": task,
		"POST /v1/tasks/17734a/run": task, "POST /v1/tasks/17734a/cancel": task,
		"GET /v1/tasks/17734a/agents": page(
			apiv1.TaskAgent{AgentID: "a1", State: "failed", Result: &apiv1.TaskResult{DataType: 5100, Status: "failed", Message: "no such\tpath", At: now.Add(-time.Second)}},
			apiv1.TaskAgent{AgentID: "a2", State: "pending"}),
		"GET /v1/users": page(user), "POST /v1/users": user, "PATCH /v1/users/eve": user, "DELETE /v1/users/eve": nil,
		"GET /v1/tokens": page(token), "POST /v1/tokens": apiv1.CreatedToken{Token: token, Secret: "s3cret"}, "DELETE /v1/tokens/t1": nil,
		"GET /v1/keys": page(key), "POST /v1/keys": apiv1.CreatedKey{Key: key, SecretKey: "sk1"}, "DELETE /v1/keys/ak1": nil,
		"POST /v1/pki/agent-bundles": apiv1.AgentBundle{CA: "CA\n", Cert: "CERT\n", Key: "KEY\n", NotAfter: now.Add(365 * 24 * time.Hour)},
	}
}
