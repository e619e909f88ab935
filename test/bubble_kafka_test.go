// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"muster/internal/agentpb"
	"muster/internal/simagent"
	"muster/node"
	"muster/test/bubble"
)

// maxPendingBytes is what a node holds in memory of records that Kafka has not
// taken, by default.
const maxPendingBytes = 64 << 20

// outside has the node use a Kafka outside.
func outside(c *node.Config) { c.Kafka.Brokers = []string{bubble.KafkaIP + ":9092"} }

// readiness is the answer of /readyz.
func readiness(w *bubble.Node) string {
	w.T.Helper()
	a := w.Do(bubble.Request{Method: "GET", Path: "/readyz"})
	return fmt.Sprint(a.Status, " ", a.Body)
}

func wantReadiness(w *bubble.Node, within time.Duration, parts ...string) {
	w.T.Helper()
	w.Eventually(within, "readiness", func() error {
		got := readiness(w)
		for _, part := range parts {
			if !strings.Contains(got, part) {
				return fmt.Errorf("/readyz: %s, want %q in it", got, part)
			}
		}
		return nil
	})
}

func TestBubbleKafkaAway(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		const agents = 5
		// There is no Kafka at all when the node starts.
		wantReadiness(w, time.Second, "200", `"ready":true`, "kafka away")
		f := w.StartFleet(agents, func(o *simagent.Options) { o.Load.Rate = 20 })
		w.Pass(time.Minute)
		if l := w.Node.Ledger(); l.Delivered != 0 || l.Pending != l.Received || l.Received < agents*20*50 {
			t.Errorf("without a Kafka: %+v", l)
		}
		w.CheckLedger()
		broker := w.StartKafka()
		wantReadiness(w, 30*time.Second, "200", `"degraded":[]`)
		w.Eventually(30*time.Second, "what was pending is delivered", func() error {
			if l := w.Node.Ledger(); l.Received-l.Delivered > agents*20 {
				return fmt.Errorf("%+v", l)
			}
			return nil
		})

		// Then it goes away, while there is much to send.
		w.Net.Partition(bubble.NodeIP, bubble.KafkaIP)
		fat := newFatAgent(w, 900, 100<<10) // 88 MiB
		wantReadiness(w, time.Minute, "503", "records are full", "kafka away")
		sent := f.Summary().Records.Sent
		w.Pass(time.Minute)
		stuck := f.Summary().Records.Sent
		for range 120 {
			w.Pass(time.Second)
			if l := w.Node.Ledger(); l.PendingBytes > maxPendingBytes || !l.Balanced() {
				t.Fatalf("while Kafka is away: %+v", l)
			}
		}
		w.CheckLedger()
		s := f.Summary()
		// A minute's worth at most fits into the buffers on the way.
		if s.Records.Sent != stuck || stuck-sent > agents*20*60 {
			t.Errorf("agents were not slowed: %d sent, then %d, then %d", sent, stuck, s.Records.Sent)
		}
		if s.Agents.Connected != agents || s.Network.Reconnects != 0 || fat.done() {
			t.Errorf("agents should wait on their streams (fat one done: %v):\n%s", fat.done(), s)
		}
		if n := w.Metric("muster_recordlog_append_waits_total"); n < 1 {
			t.Errorf("%v messages are counted as having waited", n)
		}
		if a := w.Do(bubble.Request{Method: "GET", Path: "/registry/detail?name=hids_svr_grpc&count=10"}); a.Status != http.StatusOK || !strings.Contains(a.Body, bubble.NodeIP) {
			t.Errorf("service discovery while the records are full: %v", a)
		}

		w.Net.Heal()
		wantReadiness(w, time.Minute, "200", `"degraded":[]`)
		w.Eventually(time.Minute, "the agents' streams move again", func() error {
			if s := f.Summary(); s.Records.Sent <= stuck || !fat.done() {
				return errors.New(s.String())
			}
			return nil
		})
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
		fat.agent.Leave()
		w.Settle()
		s = f.Summary()
		records := w.ReadKafka(broker)
		checkTally(t, records, f, uint64(s.Records.Sent))
		if n := len(bubble.Of(records, "fat")); n != fat.records {
			t.Errorf("%d of %d large records are in Kafka", n, fat.records)
		}
		if l := w.Node.Ledger(); l.Refused != 0 || len(l.Dropped) != 0 || l.Delivered != uint64(len(records)) {
			t.Errorf("at the end: %+v, %d in Kafka", l, len(records))
		}
	}, outside, func(c *node.Config) { c.Kafka.SpoolMaxBytes = 1 << 20 })
}

// fatAgent sends large records as fast as it can.
type fatAgent struct {
	agent   *bubble.Agent
	records int
	mu      sync.Mutex
	sent    int
}

func newFatAgent(w *bubble.Node, records, size int) *fatAgent {
	w.T.Helper()
	f := &fatAgent{agent: w.Open("fat"), records: records}
	body := make([]byte, size)
	w.Go(func() {
		for range records {
			if err := f.agent.TrySend(&agentpb.Record{DataType: 5055, Timestamp: 1, Body: body}); err != nil {
				return
			}
			f.mu.Lock()
			f.sent++
			f.mu.Unlock()
		}
	})
	return f
}

func (f *fatAgent) done() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent == f.records
}

// A node that stops while Kafka is away says what is lost, and does not hang.
func TestBubbleStopWithoutKafka(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		a := w.Open("a1")
		for range 10 {
			a.Send(bubble.NewRecord(bubble.Execve))
		}
		n := w.Node
		if took := w.Stop(); took > 30*time.Second {
			t.Errorf("the stop took %s", took)
		}
		if l := n.Ledger(); !l.Balanced() || l.Dropped["shutdown"] != 10 {
			t.Errorf("after the stop: %+v, want 10 dropped for the shutdown", l)
		}
		if log := w.Log.Tail(4 << 10); !strings.Contains(log, "records lost at shutdown") {
			t.Errorf("the log does not say that records are lost:\n%s", log)
		}
	}, outside)
}
