// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"muster/internal/agentpb"
)

const (
	topic           = "hids_svr"
	topicPartitions = 8
)

// Kafka is a broker outside the nodes, in the test's own process, so that no
// signal to a node reaches it.
type Kafka struct {
	Addr string
	t    testing.TB
	gate *gate
}

// Away lets the broker be away: its connections are cut, others refused.
func (k *Kafka) Away() { k.gate.goAway() }

// Silent lets the broker take connections and requests, and answer nothing.
func (k *Kafka) Silent() { k.gate.hush() }

// Slow lets each answer of the broker take that much longer.
func (k *Kafka) Slow(by time.Duration) { k.gate.slow(by) }

// Back ends what Away, Silent and Slow began; nothing that the broker had is lost.
func (k *Kafka) Back() { k.gate.comeBack() }

// startKafka starts a broker at HOST:PORT that has the topic; it ends with the test.
func startKafka(t testing.TB, addr string) *Kafka {
	t.Helper()
	kafka, err := tryKafka(t, addr)
	if err != nil {
		t.Fatal(err)
	}
	return kafka
}

// tryKafka is startKafka for an address that may be taken.
func tryKafka(t testing.TB, addr string) (*Kafka, error) {
	var g *gate
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(topicPartitions, topic),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) {
			l, err := net.Listen(network, addr)
			if err != nil {
				return nil, err
			}
			g = newGate(l)
			return g, nil
		}))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		g.comeBack()
		broker.Close()
	})
	return &Kafka{Addr: addr, t: t, gate: g}, nil
}

// Read gives each the records that the topic holds now, from its beginning. The
// client is another than the one that wrote them.
func (k *Kafka) Read(each func(*agentpb.MQData)) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Addr), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		k.t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err != nil {
		k.t.Fatal(err)
	}
	var want, have int64
	ends.Each(func(o kadm.ListedOffset) { want += o.Offset })
	for have < want {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			k.t.Fatalf("read Kafka: %d of %d records: %v", have, want, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			have++
			var data agentpb.MQData
			if err := proto.Unmarshal(r.Value, &data); err != nil {
				k.t.Fatalf("partition %d offset %d is no MQData: %v", r.Partition, r.Offset, err)
			}
			if string(r.Key) != data.GetAgentId() {
				k.t.Fatalf("key %q of a record of agent %q", r.Key, data.GetAgentId())
			}
			each(&data)
		})
	}
}
