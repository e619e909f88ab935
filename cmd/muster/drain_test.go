// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"muster/internal/apiv1"
)

// drainedNode answers a drain of n2 with the steps, one after the other, the last
// one for ever; nil is no answer.
func drainedNode(t *testing.T, steps ...*apiv1.Node) string {
	t.Helper()
	var at atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i := min(int(at.Add(1))-1, len(steps)-1)
		want := "GET /v1/nodes/n2~0b"
		if i == 0 {
			want = "POST /v1/nodes/n2/drain"
		}
		if got := r.Method + " " + r.URL.Path; got != want && i < len(steps)-1 {
			t.Errorf("request %d is %s, want %s", i, got, want)
		}
		if steps[i] == nil {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"status":503,"code":"not_ready","detail":"this node starts"}`)
			return
		}
		_ = json.NewEncoder(w).Encode(steps[i])
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// draining is n2 with so many agents, and what else speaks against stopping it.
func draining(agents uint32, why ...string) *apiv1.Node {
	n := &apiv1.Node{
		Name: "n2", ServerID: "n2~0b", State: "draining", Draining: true, Role: "voter", Kafka: "ok", Degraded: []string{}, WhyNot: []string{},
		Load: apiv1.NodeLoad{Sessions: agents, Limit: 100},
	}
	if agents > 0 {
		n.WhyNot = append(n.WhyNot, fmt.Sprintf("it holds %d agents", agents))
	}
	n.WhyNot = append(n.WhyNot, why...)
	n.SafeToStop = len(n.WhyNot) == 0
	return n
}

func TestDrain(t *testing.T) {
	dead, undrained := draining(4), draining(3)
	dead.State, undrained.Draining = "dead", false
	const quorum = "without it 1 of 3 voters are alive, and 2 must be: nothing could be changed"
	safe := "Node n2 is empty and the cluster goes on without it: it is safe to stop it. When it is back: muster node undrain n2\n"
	for name, tt := range map[string]struct {
		steps    []*apiv1.Node
		code     int
		out, err string
	}{
		"to the end":          {[]*apiv1.Node{draining(5), draining(2), draining(0)}, 0, "n2: 5 agents left\nn2: 2 agents left\n" + safe, ""},
		"empty already":       {[]*apiv1.Node{draining(0)}, 0, safe, ""},
		"it says so late":     {[]*apiv1.Node{draining(0, "it has not said yet that it drains"), draining(0)}, 0, "n2: 0 agents left\n" + safe, ""},
		"through a restart":   {[]*apiv1.Node{draining(1), nil, nil, draining(0)}, 0, "n2: 1 agent left\n" + safe, ""},
		"nobody answers":      {[]*apiv1.Node{draining(1), nil}, 1, "n2: 1 agent left\n", "nobody says how far it is: this node starts"},
		"without a majority":  {[]*apiv1.Node{draining(0, quorum)}, 1, strings.Repeat("n2: 0 agents left\n", 5), "node n2 is not safe to stop: " + quorum},
		"it seems to die":     {[]*apiv1.Node{draining(5), dead, dead, dead, dead, draining(0)}, 0, "n2: 5 agents left\n" + safe, ""},
		"it dies":             {[]*apiv1.Node{draining(5), dead}, 1, "n2: 5 agents left\n", "node n2 is dead now, before it was empty"},
		"somebody undrains":   {[]*apiv1.Node{draining(5), undrained}, 1, "n2: 5 agents left\n", "is not drained any more"},
		"it was dead already": {[]*apiv1.Node{dead}, 0, "Node n2 is dead: there is nothing to wait for. When it comes back it takes no agents, until: muster node undrain n2\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("MUSTER_ADDR", drainedNode(t, tt.steps...))
			r := muster(t, "", "node", "drain", "n2", "--every", "1ms")
			if r.code != tt.code || r.out != tt.out || !strings.Contains(r.err, tt.err) || (tt.err == "") != (r.err == "") {
				t.Errorf("exit code %d\n%s%s\nwant %d\n%s%s", r.code, r.out, r.err, tt.code, tt.out, tt.err)
			}
		})
	}
}

// TestDrainStopsWaiting: by the clock or by Ctrl-C, it says that the drain goes on.
func TestDrainStopsWaiting(t *testing.T) {
	t.Setenv("MUSTER_ADDR", drainedNode(t, draining(7)))
	r := muster(t, "", "node", "drain", "n2", "--every", "1h", "--timeout", "50ms")
	if want := "muster: node n2 holds 7 agents after 50ms, and goes on emptying itself (it holds 7 agents)"; r.code != exitFailed || !strings.HasPrefix(r.err, want) {
		t.Errorf("%+v", r)
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	var out, errs bytes.Buffer
	code := run(ctx, []string{"node", "drain", "n2", "--every", "1h"}, streams{in: strings.NewReader(""), out: cancelling{&out, cancel}, err: &errs, now: time.Now})
	if code != exitFailed || !strings.Contains(errs.String(), "now that you interrupt, and goes on emptying itself") {
		t.Errorf("%d %s", code, &errs)
	}
}

// cancelling cancels at the first line.
type cancelling struct {
	w      io.Writer
	cancel func()
}

func (c cancelling) Write(p []byte) (int, error) { defer c.cancel(); return c.w.Write(p) }

// TestDrainForPrograms: one document, and the same exit codes.
func TestDrainForPrograms(t *testing.T) {
	for _, tt := range []struct {
		last *apiv1.Node
		code int
	}{{draining(0), 0}, {draining(0, "it is the only voter"), 1}} {
		t.Setenv("MUSTER_ADDR", drainedNode(t, draining(5), tt.last))
		r := muster(t, "", "node", "drain", "n2", "--every", "1ms", "-o", "json")
		var n apiv1.Node
		if err := json.Unmarshal([]byte(r.out), &n); err != nil || r.code != tt.code || n.SafeToStop != (tt.code == 0) {
			t.Errorf("%v: %+v", err, r)
		}
	}
}

func TestLoadBar(t *testing.T) {
	for _, tt := range []struct {
		sessions, limit uint32
		share           float64
		bar, of         string
	}{
		{0, 100, 20, "[----------]   0%", "0%"},
		{61, 100, 60, "[######----]  61%", "102%"},
		{100, 100, 50, "[##########] 100%", "200%"},
		{250, 100, 0, "[##########] 250%", "-"},
		{99999, 1, 1, "[##########] 999%", "9999900%"},
		{3, 0, 0, "-", "-"},
	} {
		n := apiv1.Node{State: "ready", FairShare: tt.share, Load: apiv1.NodeLoad{Sessions: tt.sessions, Limit: tt.limit}}
		if bar, of := loadBar(n), shareOf(n); bar != tt.bar || of != tt.of {
			t.Errorf("%d of %d: %q %q, want %q %q", tt.sessions, tt.limit, bar, of, tt.bar, tt.of)
		}
	}
}

// TestWatch prints a line for each change that people want to see.
func TestWatch(t *testing.T) {
	event := func(name string, v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("id: 1\nevent: %s\ndata: %s\n\n", name, b)
	}
	n1, n2 := *draining(0), *draining(40)
	n1.Name, n1.ServerID, n1.State, n1.Draining, n1.Load.Sessions, n1.FairShare = "n1-long", "n1~0a", "ready", false, 20, 60
	n1.SafeToStop = false
	n1.Degraded = []string{"kafka is\x1b[2J away"}
	quiet, moved, gone := n1, n2, n2
	quiet.Load.CPUPermille, moved.Load.Sessions, gone.State, gone.Load.Sessions = 900, 39, "dead", 39
	empty := *draining(0)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, event("nodes", page(n1, n2))+": still here\n\n"+event("node", apiv1.NodeChange{Change: "load", Node: quiet})+
			event("node", apiv1.NodeChange{Change: "load", Node: moved})+event("of a later release", 1)+event("node", apiv1.NodeChange{Change: "state", Node: empty})+event("node", apiv1.NodeChange{Change: "dead", Node: gone})+
			event("end", apiv1.StreamEnd{Detail: "this node stops"}))
	}))
	t.Cleanup(srv.Close)
	t.Setenv("MUSTER_ADDR", srv.URL)
	for _, format := range []string{"table", "json", "yaml"} {
		r := muster(t, "", "node", "watch", "-o", format)
		if r.code != exitFailed || r.err != "muster: the node has ended the stream: this node stops\n" {
			t.Errorf("%s: exit code %d: %s", format, r.code, r.err)
		}
		golden(t, "watch."+strings.Replace(format, "table", "txt", 1), r.out)
	}
}
