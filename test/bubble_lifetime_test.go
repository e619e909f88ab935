// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/internal/agentpb"
	"muster/internal/simagent"
	"muster/test/bubble"
)

// sightings are what an operator sees of the replicated state.
func sightings(w *bubble.Node, tasks ...string) map[string]string {
	w.T.Helper()
	seen := map[string]string{}
	ask := func(method, path, body string) {
		a := w.Do(bubble.Request{Method: method, Path: path, Body: body, Token: w.Token()})
		if a.Status != 200 {
			w.T.Fatalf("%s: %v", path, a)
		}
		seen[path] = a.Body
	}
	for _, path := range []string{
		"/api/v1/user/info", "/api/v1/agent/getTags", "/api/v1/agent/getDefaultConfig", "/v1/keys", "/v1/users",
	} {
		ask("GET", path, "")
	}
	ask("POST", "/api/v6/user/List", "{}")
	ask("POST", "/api/v1/agent/getTags", `{"id_list":["offline"]}`)
	ask("POST", "/api/v1/agent/getTask/filter", "{}")
	for _, id := range tasks {
		ask("GET", "/api/v1/agent/getTask/"+id, "")
		ask("GET", "/api/v1/agent/getSubTask/"+id, "")
	}
	return seen
}

// statusOf is Elkeid's status of an agent: running, abnormal or offline.
func statusOf(w *bubble.Node, id string) string {
	w.T.Helper()
	var doc struct{ Status, Hostname string }
	w.Get("/api/v1/agent/getStatus/"+id, &doc)
	if doc.Hostname == "" {
		w.T.Errorf("%s has no host name", id)
	}
	return doc.Status
}

func TestBubbleRestartKeepsEverything(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		const agents = 5
		setDefaultConfig(w, "1.0", "collector")
		w.Post("/api/v6/user/new", `{"username":"viewer","password":"look, do not touch","level":3}`, nil)
		key := w.NewKey("agents")
		token := w.NewToken()
		offline := known(w, "offline")
		w.Post("/api/v1/agent/addTags", map[string]any{"tag": "blue", "id_list": []string{"offline"}}, nil)
		answered := quickTask(w, "offline", 3600, pluginTask)
		offline.Reply(5100, nextTask(w, offline, 1, time.Second).GetToken(), "failed", "why not")
		offline.Leave()
		waiting := quickTask(w, "offline", 7200, pluginTask)
		f := w.StartFleet(agents, func(o *simagent.Options) { o.Load.Rate = 0.2 })
		configured := func(times int) error {
			for _, id := range f.IDs() {
				items, n := f.ConfigOf(id)
				if n < times || len(items) != 1 || items[0].GetVersion() != "1.0" {
					return fmt.Errorf("%s has %d configs, the last %v", id, n, items)
				}
			}
			return nil
		}
		w.Eventually(10*time.Second, "every agent has its config", func() error { return configured(1) })
		w.Pass(time.Minute)

		before, recordsBefore := sightings(w, answered, waiting), w.Records()
		stopped := w.Stop()
		if stopped > 5*time.Second {
			t.Errorf("a stop took %s", stopped)
		}
		w.Pass(3 * time.Second)
		w.Start()
		w.Eventually(20*time.Second, "the agents have come back by themselves", func() error {
			if s := f.Summary(); s.Agents.Connected != agents || s.Agents.Exits != 0 {
				return errors.New(s.String())
			}
			return nil
		})
		// An agent does not send a heartbeat because it has a new stream.
		w.Eventually(61*time.Second, "the agents have their config after their next heartbeats", func() error { return configured(2) })
		if diff := cmp.Diff(before, sightings(w, answered, waiting)); diff != "" {
			t.Errorf("what the node shows after a restart (-before +after):\n%s", diff)
		}
		wantToken(w, token, "a token from before the restart", true)
		if e, err := w.LogIn("viewer", "look, do not touch").Envelope(); err != nil || e.Code != 0 {
			t.Errorf("log-in of the other user: %v %v", e, err)
		}
		if code, data, _ := command(w, key, fmt.Sprintf(`{"agent_id":%q,"command":{"task":{"data_type":1051,"name":"elkeid-agent","data":"{}"}}}`, f.IDs()[0])); code != 0 {
			t.Errorf("a command with a key from before the restart: code %d %s", code, data)
		}
		checkKept(t, recordsBefore, w.Records())

		if s := statusOf(w, "offline"); s != "running" {
			t.Errorf("an agent that left a few minutes ago is %s", s)
		}
		w.Pass(10 * time.Minute)
		if s := statusOf(w, "offline"); s != "offline" {
			t.Errorf("an agent that left more than ten minutes ago is %s", s)
		}
		if s := statusOf(w, f.IDs()[0]); s != "running" {
			t.Errorf("an agent with a stream is %s", s)
		}
		back := w.Open("offline")
		back.Beat()
		nextTask(w, back, 1, time.Second)
		wantConfig(t, hasConfigsBesideTasks(w, back), "1.0", "collector")
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// hasConfigsBesideTasks returns the only config that an agent was sent.
func hasConfigsBesideTasks(w *bubble.Node, a *bubble.Agent) bubble.Received {
	w.T.Helper()
	configs := a.Configs()
	if len(configs) != 1 {
		w.T.Fatalf("%d configs, want 1", len(configs))
	}
	return configs[0]
}

// checkKept fails the test unless all that was in Kafka still is, where it was.
func checkKept(t *testing.T, before, after []bubble.Record) {
	t.Helper()
	type place struct {
		partition int32
		offset    int64
	}
	kept := map[place]string{}
	for _, r := range after {
		kept[place{r.Partition, r.Offset}] = r.Key + string(r.Value)
	}
	for _, r := range before {
		if kept[place{r.Partition, r.Offset}] != r.Key+string(r.Value) {
			t.Errorf("the record %d of partition %d is another one after the restart", r.Offset, r.Partition)
			return
		}
	}
	if len(after) <= len(before) {
		t.Errorf("%d records before the restart, %d after it: nothing came since", len(before), len(after))
	}
}

// A node with idle agents has next to nothing to do: the inventory is written
// once an hour.
func TestBubbleIdleHour(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		const agents = 20
		var commands int
		f := w.StartFleet(agents, func(o *simagent.Options) {
			o.Load.Ramp = 30 * time.Second
			o.Hooks.OnCommand = func(string, *agentpb.Command) { commands++ }
		})
		w.Pass(5 * time.Minute)
		const reports = `muster_agentrpc_reports_total{outcome="stored"}`
		reported, applied := w.Metric(reports), w.Status().Store.Applied
		if n := w.Status().Agents.Known; n != agents {
			t.Errorf("%d agents are known, want %d", n, agents)
		}
		for range 60 {
			w.Pass(time.Minute)
			if n := w.Node.Sessions(); n != agents {
				t.Fatalf("%d sessions, want %d", n, agents)
			}
		}
		growth, written := w.Status().Store.Applied-applied, w.Metric(reports)-reported
		if written != agents {
			t.Errorf("%v reports of agents in an hour, want one of each", written)
		}
		if growth > agents+5 { // each agent's at most, and the test's own token
			t.Errorf("an idle hour made %d entries in the replicated log", growth)
		}
		s := f.Summary()
		if s.Agents.Connected != agents || s.Network.Reconnects != 0 || s.Network.SDLookups != agents || commands != 0 {
			t.Errorf("the agents should be connected since the start, and have no command (%d):\n%s", commands, s)
		}
		t.Logf("%d entries in the replicated log in an idle hour", growth)
		for _, id := range f.IDs() {
			if got := statusOf(w, id); got != "running" {
				t.Errorf("%s is %s", id, got)
			}
		}
	})
}
