// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"muster/test/bubble"
)

// setDefaultConfig makes these plugins, with a version, the default config.
func setDefaultConfig(w *bubble.Node, version string, names ...string) {
	w.T.Helper()
	var items []map[string]any
	for _, name := range names {
		items = append(items, map[string]any{
			"name": name, "type": "tar.gz", "version": version, "download_url": []string{"http://10.9.9.9/" + name},
		})
	}
	w.Post("/api/v1/agent/updateDefaultConfig", map[string]any{"type": "agent", "version": version, "config": items}, nil)
}

// wantConfig fails the test unless the config holds these plugins of that version.
func wantConfig(t *testing.T, got bubble.Received, version string, names ...string) {
	t.Helper()
	var have []string
	for _, item := range got.GetConfig() {
		have = append(have, item.GetName()+" "+item.GetVersion())
		if url := "http://10.9.9.9/" + item.GetName(); item.GetType() != "tar.gz" || len(item.GetDownloadUrl()) != 1 || item.GetDownloadUrl()[0] != url {
			t.Errorf("config item %v, want type tar.gz and URL %s", item, url)
		}
	}
	var want []string
	for _, name := range names {
		want = append(want, name+" "+version)
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

// hasConfigs waits until so many configs came, and fails if there are more.
func hasConfigs(w *bubble.Node, a *bubble.Agent, n int, within time.Duration) bubble.Received {
	w.T.Helper()
	w.Eventually(within, fmt.Sprintf("%d configs", n), func() error {
		if got := len(a.Configs()); got < n {
			return fmt.Errorf("%d configs", got)
		}
		return nil
	})
	if got := len(a.Commands()); got != n {
		w.T.Fatalf("%d commands, want %d", got, n)
	}
	return a.Configs()[n-1]
}

func TestBubbleHeartbeatIsSeenWithinASecond(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		unknown := w.Do(bubble.Request{Method: "GET", Path: "/api/v1/agent/getStatus/a1", Token: w.Token()})
		if e, err := unknown.Envelope(); err != nil || e.Code != 3 {
			t.Errorf("an agent that never came: %v %v, want code 3", unknown, err)
		}
		a := w.Open("a1")
		for _, cpu := range []float64{0.25, 0.75} {
			at := time.Now()
			a.Beat("cpu", fmt.Sprint(cpu), "read_speed", "+Inf", "platform_version", "12")
			want := map[string]any{
				"agent_id": "a1", "hostname": "host-a1", "cpu": cpu, "read_speed": 0.0, "platform_version": "12",
				"state": "running", "status": "running", "last_heartbeat_time": float64(at.Unix()),
				"source_ip": bubble.NodeIP, "source_port": 6752.0,
			}
			w.Eventually(time.Second, "the heartbeat is shown", func() error {
				doc := map[string]any{}
				a := w.Do(bubble.Request{Method: "GET", Path: "/api/v1/agent/getStatus/a1", Token: w.Token()})
				e, err := a.Envelope()
				if err != nil || e.Code != 0 {
					return fmt.Errorf("%v %w", a, err)
				}
				w.Get("/api/v1/agent/getStatus/a1", &doc)
				got := map[string]any{}
				for field := range want {
					got[field] = doc[field]
				}
				if diff := cmp.Diff(want, got); diff != "" {
					return fmt.Errorf("document (-want +got):\n%s", diff)
				}
				return nil
			})
			w.Pass(time.Minute)
		}
	})
}

func TestBubbleConfigFollowsTheFirstMessage(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		setDefaultConfig(w, "1.0", "collector", "driver")
		a := w.Open("a1")
		w.Pass(10 * time.Second)
		if n := len(a.Commands()); n != 0 {
			t.Fatalf("%d commands before anything was heard", n)
		}
		a.Send(bubble.NewRecord(bubble.Execve, "exe", "/bin/ls"))
		wantConfig(t, hasConfigs(w, a, 1, time.Second), "1.0", "collector", "driver")

		// A change reaches the agent on the stream that it has.
		w.Pass(5 * time.Minute)
		setDefaultConfig(w, "1.1", "collector")
		wantConfig(t, hasConfigs(w, a, 2, 2*time.Second), "1.1", "collector")

		// What has not changed is not sent again.
		for range 60 {
			a.Beat()
			w.Pass(time.Minute)
		}
		hasConfigs(w, a, 2, 0)
		if a.Ended() {
			t.Error("the stream has ended")
		}

		// An agent that comes back is told again, and an empty list is refused.
		a.Leave()
		again := w.Open("a1")
		again.Beat()
		wantConfig(t, hasConfigs(w, again, 1, time.Second), "1.1", "collector")
		refused := w.Do(bubble.Request{Method: "POST", Path: "/api/v1/agent/updateDefaultConfig", Token: w.Token(), Body: `{"type":"agent","version":"2","config":[]}`})
		if e, err := refused.Envelope(); refused.Status != 400 || e.Code != 5 || err != nil {
			t.Errorf("an empty config: %v, want 400 and code 5", refused)
		}
		w.Pass(time.Minute)
		hasConfigs(w, again, 1, 0)
	})
}

// Without a config an agent is told nothing at all: an empty list would delete
// its plugins.
func TestBubbleNoConfigIsNoCommand(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		a := w.Open("a1")
		a.Beat()
		for minute := range 60 {
			w.Pass(time.Minute)
			a.Beat("cpu", fmt.Sprint(minute))
			switch minute % 20 {
			case 5:
				w.Post("/api/v1/agent/addTags", map[string]any{"tag": "blue", "id_list": []string{"a1"}}, nil)
			case 15:
				w.Post("/api/v1/agent/delTags", map[string]any{"tag": "blue", "id_list": []string{"a1"}}, nil)
			case 18:
				w.Get("/api/v1/agent/getDefaultConfig", nil)
			}
			if c := a.Commands(); len(c) != 0 {
				t.Fatalf("after %d minutes the agent was sent %v", minute, c[0])
			}
		}
		if a.Ended() || w.Node.Sessions() != 1 {
			t.Errorf("ended: %v, sessions: %d, want the one stream", a.Ended(), w.Node.Sessions())
		}
		// And it would have come on this very stream.
		setDefaultConfig(w, "1.0", "collector")
		wantConfig(t, hasConfigs(w, a, 1, 2*time.Second), "1.0", "collector")
	})
}

func TestBubbleTagsReachRecords(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		tag := func(route, name string, by map[string]any) {
			by["tag"] = name
			w.Post("/api/v1/agent/"+route, by, nil)
			w.Pass(time.Second)
		}
		a := w.Open("a1")
		step := func(exe string) { a.Send(bubble.NewRecord(bubble.Execve, "exe", exe)) }
		a.Beat()
		w.Eventually(2*time.Second, "the inventory has the agent", func() error {
			if n := w.Status().Agents.Known; n != 1 {
				return fmt.Errorf("%d agents", n)
			}
			return nil
		})
		step("none")
		tag("addTags", "web", map[string]any{"id_list": []string{"a1"}})
		step("web")
		tag("addTags", "ams", map[string]any{"ipv4_list": []string{"192.168.1.2"}})
		step("ams,web")
		tag("delTags", "web", map[string]any{"id_list": []string{"a1"}})
		step("ams")
		if a.Ended() {
			t.Fatal("the stream has ended")
		}
		a.Leave()
		a = w.Open("a1")
		step("ams") // the very first record, before any heartbeat
		records := bubble.Of(w.Records(), "a1", bubble.Execve)
		var got []string
		for _, r := range records {
			got = append(got, r.Data.GetTag())
		}
		if diff := cmp.Diff([]string{"", "web", "ams,web", "ams", "ams"}, got); diff != "" {
			t.Errorf("tags of the records (-want +got):\n%s", diff)
		}
		var tags []string
		if w.Get("/api/v1/agent/getTags", &tags); !cmp.Equal(tags, []string{"ams"}) {
			t.Errorf("getTags: %q", tags)
		}
	})
}

func TestBubbleNewestStreamWins(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		first := w.Open("a1")
		first.Beat()
		first.Send(bubble.NewRecord(bubble.Execve, "n", "1"))
		second := w.Open("a1")
		second.Send(bubble.NewRecord(bubble.Execve, "n", "2"))
		if code, text := first.End(time.Second); code != codes.Aborted {
			t.Errorf("the first stream ended with %v %q, want Aborted", code, text)
		}
		if n := w.Node.Sessions(); n != 1 {
			t.Errorf("%d sessions, want 1", n)
		}
		first.Cut()
		w.Pass(10 * time.Second)
		if n := w.Node.Sessions(); n != 1 || second.Ended() {
			t.Errorf("sessions: %d, the second stream ended: %v", n, second.Ended())
		}
		second.Beat()
		second.Send(bubble.NewRecord(bubble.Execve, "n", "3"))
		setDefaultConfig(w, "1.0", "collector")
		hasConfigs(w, second, 1, 2*time.Second)
		if n := len(bubble.Of(w.Records(), "a1", bubble.Execve)); n != 3 {
			t.Errorf("%d records in Kafka, want 3", n)
		}
		if n := w.Metric("muster_agentrpc_sessions"); n != 1 {
			t.Errorf("muster_agentrpc_sessions is %v", n)
		}
		second.Leave()
		if n := w.Node.Sessions(); n != 0 {
			t.Errorf("%d sessions after the last stream", n)
		}
	})
}
