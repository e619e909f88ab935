// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"muster/internal/agentpb"
	"muster/internal/apiv1"
	"muster/internal/simagent"
	"muster/test/process"
)

// TestProcessFleet is the acceptance in small and in real: 300 agents that find
// the node through service discovery deliver 600,000 numbered records.
func TestProcessFleet(t *testing.T) {
	const agents, each = 300, 2000
	n := process.New(t)
	n.Start()
	file := n.Token()
	token := n.Login()
	out := n.MustRun(n.SimArgs(n.Bundle(file), "--agents", fmt.Sprint(agents), "--records", fmt.Sprint(each),
		"--rate", "200", "--ramp", "2s")...)
	var summary simagent.Summary
	if err := json.Unmarshal([]byte(out), &summary); err != nil {
		t.Fatalf("summary: %v: %s", err, out)
	}
	if summary.Records.Sent != agents*each || summary.Records.Dropped != 0 || summary.Agents.Finished != agents {
		t.Fatalf("the agents sent %d records, dropped %d, finished %d", summary.Records.Sent, summary.Records.Dropped, summary.Agents.Finished)
	}
	tally := simagent.NewTally("")
	process.ReadTopic(t, n.Brokers(token), time.Minute, func(m *agentpb.MQData) bool {
		if m.GetDataType() == 59 {
			tally.Add(m.GetAgentId(), m.GetBody())
		}
		return tally.Total().Received >= agents*each
	})
	got := tally.Total()
	if got.Received != agents*each || got.Lost != 0 || got.Duplicates != 0 || got.OutOfOrder != 0 {
		t.Fatalf("in Kafka: %+v, want all of %d once and in order", got, agents*each)
	}
	if received, delivered, balanced := n.Ledger(token); !balanced || received != delivered {
		t.Fatalf("ledger: received %d, delivered %d, balanced %v", received, delivered, balanced)
	}
}

// TestProcessKill kills a node with -9 under agents: what was acknowledged to
// people is there after the restart, and agents come back by themselves. (Their
// config follows their next heartbeat, within a minute.)
func TestProcessKill(t *testing.T) {
	n := process.New(t)
	n.Start()
	file := n.Token()
	bundle := n.Bundle(file)
	agents := process.Start(t, n.SimArgs(bundle, "--agents", "20", "--rate", "20", "--systemd")...)
	listed := func(token string) error {
		var page struct{ Data struct{ Total int } }
		n.Call("GET", "/api/v1/agent/getStatus", token, "", &page)
		if page.Data.Total != 20 {
			return fmt.Errorf("%d agents", page.Data.Total)
		}
		return nil
	}
	token := n.Login()
	process.Eventually(t, 30*time.Second, "20 agents are listed", func() error { return listed(token) })
	set := `{"type":"agent","version":"1","config":[{"name":"collector","type":"exec","version":"1.0.0.2"}]}`
	for range 3 {
		var set1 struct{ Code int }
		n.Call("POST", "/api/v1/agent/updateDefaultConfig", token, set, &set1)
		if set1.Code != 0 {
			t.Fatalf("updateDefaultConfig: code %d", set1.Code)
		}
		n.Kill()
		n.Start()
		if err := listed(token); err != nil { // the token and the inventory have survived
			t.Fatal(err)
		}
		process.Eventually(t, 60*time.Second, "20 agents stream again", func() error {
			return streaming(n, token, 20)
		})
	}
	agents.Stop()
	if log := n.Log.String(); strings.Contains(log, "level=ERROR") {
		t.Error("the log has errors")
	}
}

// streaming wants a number of agents to have a stream.
func streaming(n *process.Node, token string, want int) error {
	var page struct{ Items []apiv1.Agent }
	status, body, err := n.Try("GET", "/v1/agents?limit=1000", token, "")
	if err != nil {
		return err
	}
	if status != 200 {
		return fmt.Errorf("agents: status %d", status)
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return err
	}
	have := 0
	for _, a := range page.Items {
		if a.Session != nil {
			have++
		}
	}
	if have != want {
		return fmt.Errorf("%d of %d agents have a stream", have, want)
	}
	return nil
}

// TestProcessStop ends a node under load with SIGTERM: nothing that it received
// is lost, and it takes little time.
func TestProcessStop(t *testing.T) {
	n := process.New(t)
	n.Start()
	agents := process.Start(t, n.SimArgs(n.Bundle(n.Token()), "--agents", "50", "--rate", "100")...)
	token := n.Login()
	process.Eventually(t, 30*time.Second, "records flow", func() error {
		if received, _, _ := n.Ledger(token); received < 5000 {
			return fmt.Errorf("%d records", received)
		}
		return nil
	})
	took, code := n.Stop()
	agents.Stop()
	if code != 0 || took > 15*time.Second {
		t.Fatalf("the stop took %s, exit code %d", took, code)
	}
	if l := stoppedWith(t, n); l.Received < 5000 || l.Received != l.Delivered || l.Pending != 0 {
		t.Fatalf("stopped with %+v", l)
	}
}
