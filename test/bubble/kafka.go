// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"context"
	"fmt"
	"hash/fnv"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"muster/internal/agentpb"
)

const (
	topic = "hids_svr"
	// Partitions is how many the node creates.
	Partitions = 8
	readWithin = time.Minute
)

// Record is one record of the topic as a consumer finds it.
type Record struct {
	Key       string
	Partition int32
	Offset    int64
	Value     []byte
	Data      *agentpb.MQData
}

// StartKafka starts a Kafka outside the nodes and returns its address. The topic
// is there. It is stopped after the nodes, which flush what they have.
func (c *Cluster) StartKafka() string {
	c.T.Helper()
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1), kfake.SeedTopics(Partitions, topic),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) {
			return c.Net.Host(KafkaIP).Listen(network, ":9092")
		}))
	if err != nil {
		c.T.Fatal(err)
	}
	c.outside = append(c.outside, cluster.Close)
	return cluster.ListenAddrs()[0]
}

// Settle waits until nothing is pending, and checks the ledger.
func (n *Node) Settle() {
	n.T.Helper()
	n.Eventually(time.Minute, "all records are in Kafka", func() error {
		if l := n.Node.Ledger(); l.Pending != 0 || l.Received != l.Delivered {
			return fmt.Errorf("%+v", l)
		}
		return nil
	})
	n.CheckLedger()
}

// Records settles, then reads the topic from its beginning to its end, with the
// node's own brokers as /v1/status names them.
func (n *Node) Records() []Record {
	n.T.Helper()
	n.Settle()
	return n.ReadKafka(n.Status().Kafka.Brokers...)
}

// ReadKafka reads the topic of these brokers.
func (n *Node) ReadKafka(brokers ...string) []Record {
	n.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readWithin)
	defer cancel()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		// An embedded broker is on the node's loopback.
		kgo.Dialer(n.Net.Host(n.IP).DialContext),
		kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxWait(100*time.Millisecond),
	)
	if err != nil {
		n.T.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err != nil {
		n.T.Fatal(err)
	}
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		n.T.Fatal(err)
	}
	var want int64
	ends.Each(func(o kadm.ListedOffset) { want += o.Offset })
	starts.Each(func(o kadm.ListedOffset) { want -= o.Offset })
	var records []Record
	for int64(len(records)) < want {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			n.T.Fatalf("read Kafka: %d of %d records: %v", len(records), want, err)
		}
		fetches.EachRecord(func(r *kgo.Record) { records = append(records, n.decode(r)) })
	}
	return records
}

func (n *Node) decode(r *kgo.Record) Record {
	n.T.Helper()
	data := &agentpb.MQData{}
	if err := proto.Unmarshal(r.Value, data); err != nil {
		n.T.Errorf("a record of %q is no MQData: %v", r.Key, err)
	}
	return Record{Key: string(r.Key), Partition: r.Partition, Offset: r.Offset, Value: r.Value, Data: data}
}

// Of returns the records of an agent and, if some are given, of these types.
func Of(records []Record, agentID string, dataTypes ...int32) []Record {
	var own []Record
	for _, r := range records {
		if r.Key != agentID {
			continue
		}
		fits := len(dataTypes) == 0
		for _, t := range dataTypes {
			fits = fits || r.Data.GetDataType() == t
		}
		if fits {
			own = append(own, r)
		}
	}
	return own
}

// PartitionOf is where Sarama puts a key, as the contract tells it.
func PartitionOf(key string) int32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	p := int32(h.Sum32()) % Partitions //nolint:gosec // the sign is meant
	if p < 0 {
		p = -p
	}
	return p
}
