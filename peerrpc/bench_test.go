// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"context"
	"testing"
	"time"
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
