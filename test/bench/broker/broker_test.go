// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"muster/test/bench/broker"
)

func start(t *testing.T) *broker.Broker {
	t.Helper()
	b, err := broker.New("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { b.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return b
}

func client(t *testing.T, b *broker.Broker) *kafka.Client {
	t.Helper()
	addr, err := net.ResolveTCPAddr("tcp", b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return &kafka.Client{Addr: addr, Timeout: 5 * time.Second, Transport: &kafka.Transport{}}
}

// batch encodes records by kafka-go, with a producer.
func batch(t *testing.T, producer int64, sequence int32, values ...string) []byte {
	t.Helper()
	var records []protocol.Record
	for _, v := range values {
		records = append(records, protocol.Record{Key: protocol.NewBytes([]byte("k")), Value: protocol.NewBytes([]byte(v))})
	}
	set := protocol.RecordSet{Version: 2, Records: protocol.NewRecordReader(records...)}
	var out bytes.Buffer
	if _, err := set.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	b := out.Bytes()
	putInt(b[4+43:4+51], producer)
	putInt(b[4+51:4+53], 0)
	putInt(b[4+53:4+57], int64(sequence))
	return b
}

func putInt(b []byte, v int64) {
	for i := range b {
		b[len(b)-1-i] = byte(v >> (8 * i))
	}
}

func produce(t *testing.T, c *kafka.Client, b []byte) error {
	t.Helper()
	res, err := c.RawProduce(t.Context(), &kafka.RawProduceRequest{
		Topic: "hids_svr", Partition: 3, RequiredAcks: kafka.RequireAll, RawRecords: protocol.RawRecordSet{Reader: bytes.NewReader(b)},
	})
	if err != nil {
		return err
	}
	return res.Error
}

func TestCountsOnceAsKafkaDoes(t *testing.T) {
	for _, look := range []bool{false, true} {
		b := start(t)
		b.Look(look)
		c := client(t, b)
		large := string(make([]byte, 700<<10))
		for i, step := range []struct {
			batch []byte
			want  error
			total int64
		}{
			{batch(t, 7, 0, "a", "b", large), nil, 3},
			{batch(t, 7, 0, "a", "b", large), nil, 3}, // again: known
			{batch(t, 7, 3, "c"), nil, 4},
			{batch(t, 7, 9, "d"), kafka.OutOfOrderSequenceNumber, 4},
			{batch(t, 8, 0, "e"), nil, 5},
			{batch(t, -1, -1, "f"), nil, 6}, // not idempotent
			{batch(t, -1, -1, "f"), nil, 7},
		} {
			//nolint:errorlint // the answer's code itself
			if err := produce(t, c, step.batch); err != step.want {
				t.Errorf("look %v, step %d: %v, want %v", look, i, err, step.want)
			}
			if got := b.Stats().Records; got != step.total {
				t.Errorf("look %v, step %d: %d records, want %d", look, i, got, step.total)
			}
		}
		if s := b.Stats(); s.Duplicates != 1 || s.Unread != 0 {
			t.Errorf("look %v: %+v", look, s)
		}
	}
}

func TestRefusesAndReturns(t *testing.T) {
	b := start(t)
	if err := produce(t, client(t, b), batch(t, -1, -1, "a")); err != nil {
		t.Fatal(err)
	}
	b.Refuse()
	if err := produce(t, client(t, b), batch(t, -1, -1, "b")); err == nil {
		t.Error("a batch was taken while the broker refuses")
	}
	if err := b.Return(); err != nil {
		t.Fatal(err)
	}
	if err := produce(t, client(t, b), batch(t, -1, -1, "c")); err != nil {
		t.Error(err)
	}
	if got := b.Stats().Records; got != 2 {
		t.Errorf("%d records, want 2", got)
	}
}

func TestHangs(t *testing.T) {
	b := start(t)
	c := client(t, b)
	if err := produce(t, c, batch(t, -1, -1, "a")); err != nil {
		t.Fatal(err)
	}
	b.Hang()
	var waiting sync.WaitGroup
	answered := make(chan error, 1)
	waiting.Go(func() { answered <- produce(t, c, batch(t, -1, -1, "b")) })
	select {
	case err := <-answered:
		t.Errorf("an answer (%v) while the broker hangs", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := b.Return(); err != nil {
		t.Fatal(err)
	}
	waiting.Wait()
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

func TestTellsTheLargestMessage(t *testing.T) {
	b := start(t)
	res, err := client(t, b).DescribeConfigs(t.Context(), &kafka.DescribeConfigsRequest{
		Resources: []kafka.DescribeConfigRequestResource{{ResourceType: kafka.ResourceTypeTopic, ResourceName: "hids_svr", ConfigNames: []string{"max.message.bytes"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Resources) != 1 || len(res.Resources[0].ConfigEntries) != 1 || res.Resources[0].ConfigEntries[0].ConfigValue != "1048588" {
		t.Errorf("answer %+v", res)
	}
}
