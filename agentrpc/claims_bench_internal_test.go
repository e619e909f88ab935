// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
)

// manySessions is a full node.
const manySessions = 20_000

func idleServer(tb testing.TB) *Server {
	tb.Helper()
	parts := modelParts{}
	s, err := New(Options{
		Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Node: "n1",
		Listeners: []net.Listener{parts}, TLS: &tls.Config{MinVersion: tls.VersionTLS12},
		Identify: func(tls.ConnectionState) (string, bool, error) { return "", true, nil },
		Log:      parts, Desired: parts, Tasks: parts, Inventory: parts, Lookup: parts,
		Peers: answering{}, UploadDir: tb.TempDir(), Limit: 2 * manySessions,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.hardStop)
	return s
}

func benchServer(b *testing.B) (*Server, []*session) {
	b.Helper()
	s := idleServer(b)
	var all []*session
	for i := range manySessions {
		sess := newSession(nil, peerInfo{}, 0, s.hard)
		s.registry.add(sess, fmt.Sprintf("80ab2f3b-0000-0000-0000-%012d", i))
		all = append(all, sess)
	}
	return s, all
}

// answering is a node without sessions.
type answering struct{}

func (answering) Nodes() []string { return []string{"n2"} }

func (answering) Claim(context.Context, string, []fleet.Claim) ([]fleet.Claim, error) {
	return nil, nil
}

// BenchmarkHandleClaims hears claims for agents that are not here, which most are.
func BenchmarkHandleClaims(b *testing.B) {
	s, _ := benchServer(b)
	claims := make([]fleet.Claim, maxClaims)
	for i := range claims {
		claims[i] = fleet.Claim{AgentID: fmt.Sprintf("90ab2f3b-0000-0000-0000-%012d", i), Epoch: micros(time.Now())}
	}
	b.ReportAllocs()
	for b.Loop() {
		s.HandleClaims(claims)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*maxClaims), "ns/claim")
}

// BenchmarkHandleRefusedClaims hears claims for agents that are here.
func BenchmarkHandleRefusedClaims(b *testing.B) {
	s, all := benchServer(b)
	claims := make([]fleet.Claim, maxClaims)
	for i := range claims {
		claims[i] = fleet.Claim{AgentID: all[i].id}
	}
	for b.Loop() {
		if got := s.HandleClaims(claims); len(got) != maxClaims {
			b.Fatal(len(got))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*maxClaims), "ns/claim")
}

// BenchmarkSendClaims makes, sends and forgets the claims of a full node.
func BenchmarkSendClaims(b *testing.B) {
	s, all := benchServer(b)
	c := s.parts.claims
	n := &claimNode{id: "n2", pending: make(map[*session]struct{}), wake: make(chan struct{}, 1)}
	c.nodes[n.id] = n
	for b.Loop() {
		for _, sess := range all {
			c.joined(sess)
		}
		for batch := c.take(n); len(batch) > 0; batch = c.take(n) {
			if !c.call(context.Background(), n, batch, time.Second) {
				b.Fatal("not answered")
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(all)), "ns/claim")
}
