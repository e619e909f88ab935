// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package kafka

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"muster/test/process"
)

// CreateTopic makes a topic with the brokers' own replication and waits until
// it can be used. It tries again while the brokers still delete one of that name.
func (c *Cluster) CreateTopic(topic string, partitions int32) {
	c.t.Helper()
	process.Eventually(c.t, startWithin, "topic "+topic+" is created", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err := c.admin.CreateTopic(ctx, partitions, -1, nil, topic)
		if errors.Is(err, kerr.TopicAlreadyExists) {
			return nil
		}
		return err
	})
	c.WaitInSync(topic)
}

// ReadAll returns what a topic holds now, in order within each partition.
func (c *Cluster) ReadAll(t testing.TB, topic string, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startWithin)
	defer cancel()
	ends, err := c.admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		t.Fatalf("how much %s holds: %v", topic, err)
	}
	var want int
	ends.Each(func(o kadm.ListedOffset) { want += int(o.Offset) })
	opts = append([]kgo.Opt{
		kgo.SeedBrokers(c.Addrs(Plain)...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100 * time.Millisecond),
	}, opts...)
	client, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	records := make([]*kgo.Record, 0, want)
	for len(records) < want {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("read %s: %d of %d records: %v", topic, len(records), want, err)
		}
		fetches.EachRecord(func(r *kgo.Record) { records = append(records, r) })
	}
	return records
}
