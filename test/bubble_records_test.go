// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/testing/protocmp"

	"muster/internal/agentpb"
	"muster/internal/grpccodec"
	"muster/internal/simagent"
	"muster/test/bubble"
)

// Each record of an agent becomes exactly the MQData of the contract, whatever
// compresses its messages.
func TestBubbleRecordsAreExact(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		want := map[string][]*agentpb.MQData{}
		for _, compression := range grpccodec.Names() {
			id := "agent-" + compression
			var opts []grpc.CallOption
			if compression != grpccodec.None {
				opts = append(opts, grpc.UseCompressor(compression))
			}
			a := w.Open(id, opts...)
			a.Says = &agentpb.RawData{
				AgentId: id, IntranetIpv4: []string{"10.1.1.1", "10.1.1.2"}, ExtranetIpv4: []string{"203.0.113.1"},
				IntranetIpv6: []string{"fd00::1"}, ExtranetIpv6: []string{"2001:db8::1", "2001:db8::2"},
				Hostname: "host " + compression, Version: "1.9.1", Product: "elkeid-agent",
			}
			records := []*agentpb.Record{
				bubble.NewRecord(bubble.Heartbeat, "state", "running"),
				bubble.NewRecord(bubble.Execve, "exe", "/bin/ls", "argv", "ls -l"),
				{DataType: -7, Timestamp: -1, Body: []byte("\xff\x00 no Item")},
				{}, // every field is zero
			}
			for range 3 {
				at := time.Now().Unix()
				a.Send(records...)
				for _, r := range records {
					want[id] = append(want[id], &agentpb.MQData{
						DataType: r.GetDataType(), AgentTime: r.GetTimestamp(), Body: r.GetBody(), AgentId: id,
						IntranetIpv4: "10.1.1.1,10.1.1.2", ExtranetIpv4: "203.0.113.1",
						IntranetIpv6: "fd00::1", ExtranetIpv6: "2001:db8::1,2001:db8::2",
						Hostname: "host " + compression, Version: "1.9.1", Product: "elkeid-agent", SvrTime: at,
					})
				}
				w.Pass(1100 * time.Millisecond)
			}
		}
		all := w.Records()
		got := map[string][]*agentpb.MQData{}
		for _, r := range all {
			got[r.Key] = append(got[r.Key], r.Data)
			if p := bubble.PartitionOf(r.Key); r.Partition != p {
				t.Errorf("a record of %s is in partition %d, Sarama puts it into %d", r.Key, r.Partition, p)
			}
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("records in Kafka (-want +got):\n%s", diff)
		}
		if received := w.CheckLedger(); received != float64(len(all)) {
			t.Errorf("%v records received, %d in Kafka", received, len(all))
		}
	})
}

// The contract's own examples hold the test to Sarama's rule, as the test holds
// the node to it.
func TestBubblePartitionsAreSaramas(t *testing.T) {
	for key, want := range map[string]int32{
		"a": 4, "agent-1": 0, "80ab2f3b-0000-0000-0000-000000000000": 7, "host-042": 0, "ffffffff-ffff-4fff-bfff-ffffffffffff": 3,
	} {
		if got := bubble.PartitionOf(key); got != want {
			t.Errorf("partition of %q is %d, want %d", key, got, want)
		}
	}
}

// Agents that follow the stock agent's rules find the node through its service
// discovery, and all that they send is in Kafka, once and in order.
func TestBubbleFleetFindsTheNode(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		const agents, each = 10, 500
		f := w.StartFleet(agents, func(o *simagent.Options) {
			o.Load = simagent.Load{Rate: 100, Records: each}
		})
		w.Eventually(time.Minute, "the agents have sent everything", func() error {
			if s := f.Summary(); s.Agents.Finished != agents || s.Agents.Unclean != 0 {
				return errors.New(s.String())
			}
			return nil
		})
		checkTally(t, w.Records(), f, agents*each)
		if s := f.Summary(); s.Network.SDLookups != agents || s.Network.SDFailures != 0 || s.Network.DialFailures != 0 {
			t.Errorf("each agent should ask service discovery once and dial once:\n%s", s)
		}
	})
}

// checkTally fails the test unless so many numbered records are in Kafka, each
// once, and nothing else than heartbeats beside them.
func checkTally(t *testing.T, records []bubble.Record, f *bubble.Fleet, want uint64) {
	t.Helper()
	tally := simagent.NewTally(f.RunID())
	for _, r := range records {
		if !tally.Add(r.Key, r.Data.GetBody()) && r.Data.GetDataType() == bubble.Execve {
			t.Errorf("a record of %s carries no number", r.Key)
		}
		if r.Partition != bubble.PartitionOf(r.Key) {
			t.Errorf("a record of %s is in partition %d", r.Key, r.Partition)
		}
	}
	for _, id := range f.IDs() {
		tally.Expect(id, f.SentBy(id))
	}
	if got := tally.Total(); got != (simagent.Counts{Received: want}) {
		t.Errorf("records in Kafka: %+v, want %d, none lost, twice or late; agents that miss some: %v", got, want, tally.Missing(5))
	}
}
