// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"muster/internal/agentpb"
	"muster/internal/pki"
	"muster/test/bubble"
)

// witness is a healthy agent beside those that are refused.
type witness struct {
	w     *bubble.Node
	agent *bubble.Agent
	sent  int
}

func newWitness(w *bubble.Node) *witness {
	w.T.Helper()
	a := w.Open("witness")
	a.Beat()
	return &witness{w: w, agent: a}
}

// unharmed fails the test unless the node still takes the witness's records,
// serves HTTP, and its ledger balances.
func (v *witness) unharmed(after string) {
	v.w.T.Helper()
	before := v.w.CheckLedger()
	v.agent.Send(bubble.NewRecord(bubble.Execve, "after", after))
	v.sent++
	if got := v.w.CheckLedger(); got != before+1 || v.agent.Ended() {
		v.w.T.Errorf("after %s: %v records of the healthy agent were taken, want 1; its stream ended: %v", after, got-before, v.agent.Ended())
	}
	if a := v.w.Do(bubble.Request{Method: "GET", Path: "/readyz"}); a.Status != 200 {
		v.w.T.Errorf("after %s: /readyz: %v", after, a)
	}
}

// all fails the test unless every record of the witness is in Kafka, and
// returns what is there.
func (v *witness) all() []bubble.Record {
	v.w.T.Helper()
	records := v.w.Records()
	if got := len(bubble.Of(records, "witness", bubble.Execve)); got != v.sent {
		v.w.T.Errorf("%d records of the healthy agent are in Kafka, want %d", got, v.sent)
	}
	return records
}

// refusedFor reads how often agents were refused for a reason.
func refusedFor(w *bubble.Node, reason string) float64 {
	w.T.Helper()
	return w.Metric(`muster_agentrpc_refused_total{reason="` + reason + `"}`)
}

func TestBubbleBadMessages(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		v := newWitness(w)
		good := func(a *bubble.Agent) { a.Send(bubble.NewRecord(bubble.Execve, "exe", "good")) }
		for _, bad := range []struct {
			what, id string
			send     func(a *bubble.Agent)
			code     codes.Code
			reason   string
			kept     int // records of it in Kafka
		}{
			{"an undecodable message", "m1", func(a *bubble.Agent) {
				good(a)
				a.SendBytes([]byte{0x0a, 0x7f, 0x01})
			}, codes.InvalidArgument, "undecodable", 1},
			{"bytes that are no protobuf", "m2", func(a *bubble.Agent) { a.SendBytes([]byte("GET / HTTP/1.1\r\n\r\n")) }, codes.InvalidArgument, "undecodable", 0},
			{"a message of 11 MiB", "m3", func(a *bubble.Agent) {
				good(a)
				_ = a.TrySend(&agentpb.Record{DataType: 1, Body: make([]byte, 11<<20)})
			}, codes.ResourceExhausted, "too_large", 1},
			{"an empty agent ID", "", good, codes.InvalidArgument, "agent_id", 0},
			{"an agent ID of 10 KB", strings.Repeat("x", 10<<10), good, codes.InvalidArgument, "agent_id", 0},
			{"an agent ID with a line break", "a\nb", good, codes.InvalidArgument, "agent_id", 0},
			{"an agent ID that changes", "m4", func(a *bubble.Agent) {
				good(a)
				a.Says.AgentId = "witness"
				good(a)
			}, codes.InvalidArgument, "agent_id_changed", 1},
		} {
			before := refusedFor(w, bad.reason)
			a := w.Open(bad.id)
			bad.send(a)
			code, text := a.End(time.Minute)
			if code != bad.code || text == "" {
				t.Errorf("%s: the stream ended with %v %q, want %v", bad.what, code, text, bad.code)
			}
			if n := refusedFor(w, bad.reason) - before; n != 1 {
				t.Errorf("%s: counted %v times as %s, want once", bad.what, n, bad.reason)
			}
			if n := w.Node.Sessions(); n != 1 {
				t.Errorf("%s: %d sessions, want the healthy one", bad.what, n)
			}
			v.unharmed(bad.what)
			if n := len(bubble.Of(w.Records(), bad.id)); n != bad.kept {
				t.Errorf("%s: %d of its records are in Kafka, want %d", bad.what, n, bad.kept)
			}
		}
		// 10 MiB less a little is no fault.
		a := w.Open("m5")
		var large []*agentpb.Record
		for range 100 {
			large = append(large, &agentpb.Record{DataType: 1, Body: make([]byte, 100<<10)})
		}
		a.Send(large...)
		if n := len(bubble.Of(w.Records(), "m5")); n != len(large) || a.Ended() {
			t.Errorf("%d records of a message of nearly 10 MiB are in Kafka, want %d", n, len(large))
		}
		v.all()
	})
}

// A record with more than its three fields is delivered without them: it cannot
// speak as another agent, host or tag.
func TestBubbleRecordCannotSpeakAsAnother(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		v := newWitness(w)
		w.Eventually(5*time.Second, "the inventory has the agent", func() error {
			if n := w.Status().Agents.Known; n != 1 {
				return fmt.Errorf("%d agents", n)
			}
			return nil
		})
		w.Post("/api/v1/agent/addTags", map[string]any{"tag": "true-tag", "id_list": []string{"witness"}}, nil)
		w.Pass(time.Second)
		record := []byte{0x08, 0x3b} // data_type 59
		for number := protowire.Number(4); number <= 15; number++ {
			if number == 12 {
				record = protowire.AppendVarint(protowire.AppendTag(record, number, protowire.VarintType), 7)
				continue
			}
			record = protowire.AppendString(protowire.AppendTag(record, number, protowire.BytesType), "victim")
		}
		record = protowire.AppendVarint(protowire.AppendTag(record, 2, protowire.VarintType), 1234)
		record = protowire.AppendString(protowire.AppendTag(record, 3, protowire.BytesType), "the body")
		message := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), record)
		message = protowire.AppendString(protowire.AppendTag(message, 2, protowire.BytesType), "witness")
		message = protowire.AppendString(protowire.AppendTag(message, 7, protowire.BytesType), "true-host")
		at := time.Now().Unix()
		v.agent.SendBytes(message)
		own := bubble.Of(w.Records(), "witness", bubble.Execve)
		if len(own) != 1 {
			t.Fatalf("%d records, want the one", len(own))
		}
		d := own[0].Data
		if d.GetAgentId() != "witness" || d.GetHostname() != "true-host" || d.GetTag() != "true-tag" || d.GetSvrTime() != at ||
			d.GetAgentTime() != 1234 || string(d.GetBody()) != "the body" || strings.Contains(string(own[0].Value), "victim") {
			t.Errorf("delivered as %v", d)
		}
		if n := w.Metric("muster_agentrpc_normalised_records_total"); n != 1 {
			t.Errorf("counted %v times, want once", n)
		}
		if v.agent.Ended() {
			t.Error("the stream has ended")
		}
	})
}

func TestBubbleSilentStreamIsClosed(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		v := newWitness(w)
		began := time.Now()
		a := w.Open("silent")
		synctest.Wait()
		if code, _ := a.End(2 * time.Minute); code != codes.DeadlineExceeded {
			t.Errorf("the stream ended with %v, want DeadlineExceeded", code)
		}
		if took := time.Since(began); took < 90*time.Second || took > 91*time.Second {
			t.Errorf("closed after %s, want 90 s", took)
		}
		if n := refusedFor(w, "silent"); n != 1 {
			t.Errorf("counted %v times", n)
		}
		// A connection that does not even begin TLS.
		conn, err := w.Net.Host(bubble.AgentIP).DialContext(t.Context(), "tcp", bubble.AgentAddr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		began = time.Now()
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a silent connection was answered")
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("a connection without TLS was closed after %s", took)
		}
		v.unharmed("silence")
		v.all()
	})
}

func TestBubbleForeignCertificates(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		v := newWitness(w)
		other, err := pki.NewCA("another-cluster", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		pair, err := other.IssuePair(pki.FleetRequest("fleet"), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		foreign, err := pair.TLS()
		if err != nil {
			t.Fatal(err)
		}
		for what, certificates := range map[string][]tls.Certificate{"a certificate of another CA": {*foreign}, "no certificate": nil} {
			before := refusedFor(w, "handshake")
			conf := w.FleetTLS()
			conf.Certificates = certificates
			a := w.OpenOn(w.Connect(conf), "stranger")
			if code, text := a.End(time.Minute); code != codes.Unavailable {
				t.Errorf("%s: %v %q, want Unavailable", what, code, text)
			}
			if n := refusedFor(w, "handshake") - before; n < 1 {
				t.Errorf("%s: not counted", what)
			}
			v.unharmed(what)
		}
		if n := len(bubble.Of(v.all(), "stranger")); n != 0 {
			t.Errorf("%d records of strangers are in Kafka", n)
		}
	})
}

func TestBubbleOldTLS(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		v := newWitness(w)
		shake := func(version uint16) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			raw, err := w.Net.Host(bubble.AgentIP).DialContext(ctx, "tcp", bubble.AgentAddr)
			if err != nil {
				return err
			}
			defer raw.Close()
			conf := w.FleetTLS()
			conf.MinVersion, conf.MaxVersion, conf.NextProtos = tls.VersionTLS10, version, []string{"h2"} //nolint:gosec // that it is refused is the point
			return tls.Client(raw, conf).HandshakeContext(ctx)
		}
		if err := shake(tls.VersionTLS12); err != nil {
			t.Errorf("TLS 1.2: %v", err)
		}
		err := shake(tls.VersionTLS11)
		var alert *net.OpError
		if !errors.As(err, &alert) || !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("TLS 1.1: %v, want an alert about the protocol version", err)
		}
		v.unharmed("TLS 1.1")
		v.all()
	})
}
