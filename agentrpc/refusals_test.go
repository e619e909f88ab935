// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"muster/agentrpc"
	"muster/fleet"
	"muster/internal/agentpb"
	"muster/internal/pki"
)

// refused expects the stream to end with a code, counted under a reason, and
// nothing forwarded.
func (w *world) refused(a *agent, code codes.Code, reason string) {
	w.t.Helper()
	if got := a.code(); got != code {
		w.t.Errorf("stream ended with %v (%v), want %v", got, a.err, code)
	}
	synctest.Wait() // it may be counted after the stream has ended
	if n := w.metric("refused_total", "reason", reason); n != 1 {
		w.t.Errorf("refused for %s: %v, want 1", reason, n)
	}
}

func TestAgentIDsThatAreNone(t *testing.T) {
	for name, id := range map[string]string{"empty": "", "10 KB": strings.Repeat("x", 10<<10), "with a space": "a b"} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a := w.open(id, nil)
				a.send(record(59))
				w.refused(a, codes.InvalidArgument, "agent_id")
				if n := len(w.log.of(id)); n != 0 {
					t.Errorf("%d records were forwarded", n)
				}
			})
		})
	}
}

func TestAgentIDThatChanges(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		a.send(record(59))
		a.id = "a2"
		a.send(record(59))
		w.refused(a, codes.InvalidArgument, "agent_id_changed")
		if one, two := len(w.log.of("a1")), len(w.log.of("a2")); one != 1 || two != 0 {
			t.Errorf("records of a1: %d, of a2: %d, want 1 and 0", one, two)
		}
		if n := w.srv.SessionCount(); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
	})
}

func TestUndecodableMessage(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		good := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "\x08\x3b")
		good = protowire.AppendString(protowire.AppendTag(good, 2, protowire.BytesType), "a1")
		if err := a.stream.SendMsg(append(good, 0x0a, 0x7f)); err != nil {
			t.Fatal(err)
		}
		w.refused(a, codes.InvalidArgument, "undecodable")
		if n := len(w.log.of("a1")); n != 0 {
			t.Errorf("%d records of an undecodable message were forwarded", n)
		}
	})
}

func TestMessageOf11MiB(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		if err := a.stream.Send(&agentpb.RawData{AgentId: "a1", Records: []*agentpb.Record{{Body: make([]byte, 11<<20)}}}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		w.refused(a, codes.ResourceExhausted, "too_large")
		// And one that is within the limit.
		b := w.open("a1", nil)
		if err := b.stream.Send(&agentpb.RawData{AgentId: "a1", Records: []*agentpb.Record{{Body: make([]byte, 10<<20-64)}}}); err != nil {
			t.Fatal(err)
		}
		w.eventually("record", time.Second, func() bool { return len(w.log.of("a1")) == 1 })
		b.cancel()
	})
}

func TestForeignFieldsAreDeliveredWithoutThem(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		liar := protowire.AppendString(protowire.AppendTag([]byte{0x08, 0x3b}, 4, protowire.BytesType), "victim")
		raw := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), liar)
		raw = protowire.AppendString(protowire.AppendTag(raw, 2, protowire.BytesType), "a1")
		if err := a.stream.SendMsg(raw); err != nil {
			t.Fatal(err)
		}
		w.eventually("record", time.Second, func() bool { return len(w.log.of("a1")) == 1 })
		if got := mqData(t, w.log.of("a1")[0]); got.GetAgentId() != "a1" || got.GetDataType() != 59 {
			t.Errorf("delivered as %v", got)
		}
		if strings.Contains(string(w.log.of("a1")[0]), "victim") {
			t.Error("the foreign field is still in the value")
		}
		if n := w.metric("normalised_records_total"); n != 1 {
			t.Errorf("normalised: %v, want 1", n)
		}
		a.cancel()
	})
}

func TestSilentStream(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		start := time.Now()
		a := w.open("a1", nil)
		w.refused(a, codes.DeadlineExceeded, "silent")
		if took := time.Since(start); took < 90*time.Second || took > 91*time.Second {
			t.Errorf("closed after %v, want 90 s", took)
		}
		// One message is enough for ever.
		b := w.open("a1", nil)
		b.send(record(59))
		pass(time.Hour)
		b.send(record(59))
		if n := len(w.log.of("a1")); n != 2 {
			t.Errorf("%d records, want 2", n)
		}
		b.cancel()
	})
}

func TestSessionLimit(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		for _, id := range []string{"a1", "a2"} {
			w.open(id, nil).send(record(59))
		}
		third := w.open("a3", nil)
		third.send(record(59))
		w.refused(third, codes.ResourceExhausted, "session_limit")
		// An agent that is known already may always come again.
		again := w.open("a1", nil)
		again.send(record(59))
		if n := len(w.log.of("a1")); n != 2 {
			t.Errorf("%d records of a1, want 2", n)
		}
	}, func(o *agentrpc.Options) { o.Limit = 2 })
}

func TestOwnCertificate(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		own := w.clientTLS()
		own.Certificates = []tls.Certificate{*w.certificate(pki.AgentRequest(clusterID, "a1"))}
		conn := w.dial(own)
		a := w.open("a1", conn)
		a.send(record(59))
		if n := len(w.log.of("a1")); n != 1 {
			t.Fatalf("%d records under its own name, want 1", n)
		}
		b := w.open("a2", conn)
		b.send(record(59))
		w.refused(b, codes.PermissionDenied, "not_its_agent_id")
		if n := len(w.log.of("a2")); n != 0 {
			t.Errorf("%d records under another's name", n)
		}
		a.cancel()
	})
}

func TestCertificateOfANodeOrAnotherCluster(t *testing.T) {
	for name, r := range map[string]pki.Request{
		"another cluster": pki.AgentRequest("c2", "a1"),
		"node":            pki.NodeRequest(clusterID, "n1"),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				config := w.clientTLS()
				config.Certificates = []tls.Certificate{*w.certificate(r)}
				a := w.open("a1", w.dial(config))
				w.refused(a, codes.PermissionDenied, "certificate")
			})
		})
	}
}

func TestHandshakesThatFail(t *testing.T) {
	foreign := func(w *world) *tls.Config {
		other, err := pki.NewCA("other", time.Now())
		if err != nil {
			w.t.Fatal(err)
		}
		pair, err := other.IssuePair(pki.FleetRequest("fleet"), time.Now())
		if err != nil {
			w.t.Fatal(err)
		}
		cert, err := pair.TLS()
		if err != nil {
			w.t.Fatal(err)
		}
		c := w.clientTLS()
		// A client that presents it whatever the server asks for.
		c.Certificates = nil
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		return c
	}
	none := func(w *world) *tls.Config {
		c := w.clientTLS()
		c.Certificates = nil
		return c
	}
	old := func(w *world) *tls.Config {
		c := w.clientTLS()
		c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 //nolint:gosec // that is the point
		return c
	}
	for name, config := range map[string]func(w *world) *tls.Config{"another CA": foreign, "no certificate": none, "TLS 1.1": old, "no HTTP/2": (*world).clientTLS} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				conn, err := w.net.Host(agentIP).DialContext(t.Context(), "tcp", serverIP+":"+agentPort)
				if err != nil {
					t.Fatal(err)
				}
				c := config(w)
				if name != "no HTTP/2" {
					c.NextProtos = []string{"h2"}
				}
				client := tls.Client(conn, c)
				if err := client.Handshake(); err == nil {
					// In TLS 1.3 the client hears of it with the first read.
					if _, err := client.Read(make([]byte, 1)); err == nil {
						t.Error("the server spoke")
					}
				}
				_ = conn.Close()
				w.eventually("count", time.Second, func() bool { return w.metric("refused_total", "reason", "handshake") == 1 })
			})
		})
	}
}

func TestHandshakeHasADeadline(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		conn, err := w.net.Host(agentIP).DialContext(context.Background(), "tcp", serverIP+":"+agentPort)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the server spoke first")
		}
		if took := time.Since(start); took > 15*time.Second {
			t.Errorf("closed after %v, want 14 s", took)
		}
		_ = conn.Close()
	})
}

func TestConnectionLimit(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		limit := 1 + 64 // Limit, a quarter of it, and 64
		for range limit {
			conn, err := w.net.Host(agentIP).DialContext(context.Background(), "tcp", serverIP+":"+agentPort)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		w.eventually("open", time.Second, func() bool { return w.metric("connections") == float64(limit) })
		extra, err := w.net.Host(agentIP).DialContext(context.Background(), "tcp", serverIP+":"+agentPort)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := extra.Read(make([]byte, 1)); err == nil || time.Since(start) > time.Second {
			t.Errorf("one too many: read %v after %v, want an end at once", err, time.Since(start))
		}
		_ = extra.Close()
		if n := w.metric("refused_total", "reason", "connection_limit"); n != 1 {
			t.Errorf("refused: %v, want 1", n)
		}
	}, func(o *agentrpc.Options) { o.Limit = 1 })
}

func TestStateThatCannotBeRead(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.store.set(func(f *fakeStore) {
			f.desired = func(string) (fleet.Desired, error) { return fleet.Desired{}, errAway }
		})
		a := w.open("a1", nil)
		a.send(record(59))
		w.refused(a, codes.Unavailable, "state_unavailable")
	})
}
