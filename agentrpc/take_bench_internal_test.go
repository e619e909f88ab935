// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"muster/internal/agentpb"
)

// BenchmarkTake takes messages of one record of an agent that sends many, with
// a record log that does nothing.
func BenchmarkTake(b *testing.B) {
	s := idleServer(b)
	sess := newSession(nil, peerInfo{}, 0, s.hard)
	in := &agentpb.RawData{
		AgentId: "80ab2f3b-0000-0000-0000-000000000000", Hostname: "web-042.example.com",
		Version: "1.9.1.58", Product: "elkeid-agent", IntranetIpv4: []string{"10.1.2.3"},
		Records: []*agentpb.Record{{DataType: 59, Timestamp: testTime, Body: []byte(strings.Repeat("b", 588))}},
	}
	s.registry.add(sess, in.GetAgentId())
	sess.tags.Store(new([]byte))
	raw, err := proto.Marshal(in)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.take(sess, raw); err != nil {
			b.Fatal(err)
		}
	}
}
