// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"muster/fleet"
	"muster/internal/agentpb"
	"muster/internal/grpccodec"
)

func TestRecordsBecomeMQData(t *testing.T) {
	for _, compression := range grpccodec.Names() {
		t.Run(compression, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.store.set(func(f *fakeStore) {
					f.desired = func(string) (fleet.Desired, error) { return fleet.Desired{Tags: []string{"db", "eu"}}, nil }
				})
				a := w.open("a1", nil, grpc.UseCompressor(compression))
				in := &agentpb.RawData{
					AgentId: "a1", Hostname: "h", Version: "1.9", Product: "elkeid-agent",
					IntranetIpv4: []string{"10.0.0.1", "10.0.0.2"}, ExtranetIpv6: []string{"2001:db8::1"},
					Records: []*agentpb.Record{
						{DataType: 59, Timestamp: 12345, Body: []byte("opaque\x00\xff")},
						{DataType: -1},
						heartbeat("state", "running"),
					},
				}
				if err := a.stream.Send(in); err != nil {
					t.Fatal(err)
				}
				w.eventually("records", time.Second, func() bool { return len(w.log.of("a1")) == 3 })
				for i, raw := range w.log.of("a1") {
					r := in.GetRecords()[i]
					want := &agentpb.MQData{
						DataType: r.GetDataType(), AgentTime: r.GetTimestamp(), Body: r.GetBody(),
						AgentId: "a1", IntranetIpv4: "10.0.0.1,10.0.0.2", ExtranetIpv6: "2001:db8::1",
						Hostname: "h", Version: "1.9", Product: "elkeid-agent",
						SvrTime: time.Now().Unix(), Tag: "db,eu",
					}
					wantBytes, err := proto.Marshal(want)
					if err != nil {
						t.Fatal(err)
					}
					if string(raw) != string(wantBytes) {
						got := new(agentpb.MQData)
						_ = proto.Unmarshal(raw, got)
						t.Errorf("record %d: %s", i, cmp.Diff(want, got, protocmp.Transform()))
					}
				}
				if n := w.metric("records_total"); n != 3 {
					t.Errorf("records counted: %v, want 3", n)
				}
				a.cancel()
			})
		})
	}
}
