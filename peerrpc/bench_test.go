// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"muster/fleet"
)

func BenchmarkDial(b *testing.B) {
	w := newWorld(b)
	from, to := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
	to.echoRaft()
	for b.Loop() {
		c, err := from.port.Raft().Dial(to.id, time.Second)
		if err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
	w.end()
}

func BenchmarkEnrol(b *testing.B) {
	w := newWorld(b)
	member, other := w.start("a", "10.0.0.1"), w.newcomer("b", "10.0.0.2")
	for b.Loop() {
		if _, err := other.port.Enrol(b.Context(), member.addr); err != nil {
			b.Fatal(err)
		}
	}
	w.end()
}

func BenchmarkPropose(b *testing.B) {
	w := newWorld(b)
	from, to := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
	to.handler.propose = func(context.Context, []byte) ([]byte, uint64, error) { return nil, 1, nil }
	entry := make([]byte, 1024)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, _, err := from.port.Client(to.id).Propose(b.Context(), entry); err != nil {
				b.Fatal(err)
			}
		}
	})
	w.end()
}

// BenchmarkSessions fetches a page of 5,000 agents that one node holds.
func BenchmarkSessions(b *testing.B) {
	w := newWorld(b)
	ids := make([]string, fleet.MaxAgentsPerCall)
	all := make(map[string]fleet.Session, len(ids))
	for i := range ids {
		ids[i] = fmt.Sprintf("%08d-1234-5678-9abc-def012345678", i)
		s := fleet.Session{Identity: fleet.Identity{AgentID: ids[i], Hostname: "host"}, Heartbeat: map[string]string{}}
		for f := range 40 {
			s.Heartbeat[fmt.Sprintf("field_%d", f)] = "a value of a usual length"
		}
		all[ids[i]] = s
	}
	c := w.withAgents(&agents{sessions: func(ids []string) (out []fleet.Session, err error) {
		for _, id := range ids {
			out = append(out, all[id])
		}
		return out, nil
	}})
	for b.Loop() {
		got, err := c.Sessions(b.Context(), ids)
		if err != nil || len(got) != len(ids) {
			b.Fatal(len(got), err)
		}
	}
	w.end()
}
