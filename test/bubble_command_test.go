// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"muster/internal/agentpb"
	"muster/test/bubble"
)

// command sends POST /command/ and returns the code of the AgentCenter's
// envelope, its data, and how long the answer took.
func command(w *bubble.Node, key *bubble.Key, body string) (code int, data string, took time.Duration) {
	w.T.Helper()
	began := time.Now()
	a := w.Do(bubble.Request{Method: "POST", Path: "/command/", Sign: key, Body: body})
	e, err := a.Envelope()
	if err != nil || a.Status != 200 {
		w.T.Fatalf("/command/: %v %v", a, err)
	}
	return e.Code, string(e.Data), time.Since(began)
}

func TestBubbleCommandReachesTheAgent(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		key := w.NewKey("agents")
		a := w.Open("a1")
		a.Beat()
		code, data, took := command(w, key, `{"agent_id":"a1","command":{"agent_ctrl":3,"task":{"data_type":6053,"name":"scanner","data":"{\"exe\":\"/bin/sh\"}","token":"mine-1"}}}`)
		if code != 0 || took > time.Second {
			t.Fatalf("a task: code %d %s after %s, want 0 within a second", code, data, took)
		}
		want := &agentpb.Command{AgentCtrl: 3, Task: &agentpb.Task{DataType: 6053, Name: "scanner", Data: `{"exe":"/bin/sh"}`, Token: "mine-1"}}
		got := a.Commands()
		if len(got) != 1 {
			t.Fatalf("%d commands when the answer is there, want 1", len(got))
		}
		if diff := cmp.Diff(want, got[0].Command, protocmp.Transform()); diff != "" {
			t.Errorf("command (-want +got):\n%s", diff)
		}

		if code, data, _ := command(w, key, `{"agent_id":"a1","command":{"config":[{"name":"driver","version":"7"}]}}`); code != 0 {
			t.Fatalf("a config: code %d %s", code, data)
		}
		want = &agentpb.Command{Config: []*agentpb.ConfigItem{{Name: "driver", Version: "7"}}}
		if diff := cmp.Diff(want, a.Commands()[1].Command, protocmp.Transform()); diff != "" {
			t.Errorf("command (-want +got):\n%s", diff)
		}
		w.Pass(time.Hour)
		if n := len(a.Commands()); n != 2 {
			t.Errorf("%d commands after an hour, want 2", n)
		}
	})
}

func TestBubbleCommandWithoutAStreamIsRefusedAtOnce(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		key := w.NewKey("agents")
		a := w.Open("gone")
		a.Beat()
		w.Pass(time.Second)
		a.Leave()
		for _, id := range []string{"never", "gone"} {
			body := fmt.Sprintf(`{"agent_id":%q,"command":{"task":{"data_type":1060,"name":"elkeid-agent"}}}`, id)
			if code, data, took := command(w, key, body); code != 3 || took > 100*time.Millisecond {
				t.Errorf("%s: code %d %s after %s, want 3 at once", id, code, data, took)
			}
		}
		// What was refused is not sent later.
		again := w.Open("gone")
		again.Beat()
		w.Pass(time.Minute)
		if c := again.Commands(); len(c) != 0 {
			t.Errorf("a refused command was sent later: %v", c[0])
		}
		// A command that says nothing would delete every plugin.
		for _, empty := range []string{`{"agent_id":"gone","command":{}}`, `{"agent_id":"gone","command":{"config":[]}}`, `{"agent_id":"gone","command":{"agent_ctrl":1}}`} {
			res := w.Do(bubble.Request{Method: "POST", Path: "/command/", Sign: key, Body: empty})
			if e, err := res.Envelope(); err != nil || res.Status != 400 || e.Code != 2 {
				t.Errorf("%s: %v, want 400 and code 2", empty, res)
			}
		}
		w.Pass(time.Minute)
		if c := again.Commands(); len(c) != 0 {
			t.Errorf("an empty command was sent: %v", c[0])
		}
	})
}
