// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/segmentio/kafka-go/protocol/rawproduce"
)

// What is sent is what kafka-go would send, in each version of the request.
func TestProduceRequestIsKafkaGosOwn(t *testing.T) {
	b := &batch{}
	b.reset()
	b.add(noon, "agent", bytes.Repeat([]byte("r"), 600), []byte("suffix"))
	b.frame(b.buf, 0)
	for version := int16(3); version <= 8; version++ {
		var want bytes.Buffer
		err := protocol.WriteRequest(&want, version, 7, clientID, &rawproduce.Request{
			Acks: -1, Timeout: 8000,
			Topics: []rawproduce.RequestTopic{{Topic: "hids_svr", Partitions: []rawproduce.RequestPartition{
				{Partition: 5, RecordSet: protocol.RawRecordSet{Reader: bytes.NewReader(b.buf)}},
			}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		r := produceRequest{correlationID: 7, version: version, topic: "hids_svr", partition: 5, timeout: 8 * time.Second, wire: b.buf}
		if diff := cmp.Diff(want.Bytes(), append(r.head(), r.wire...)); diff != "" {
			t.Errorf("version %d (-kafka-go +ours):\n%s", version, diff)
		}
	}
}

// An answer to another request is not taken for this one's.
func TestProduceRequestKnowsItsAnswer(t *testing.T) {
	answers := func(id int32, version int16) (protocol.Message, error) {
		ours, broker := net.Pipe()
		defer ours.Close()
		var wg sync.WaitGroup
		defer wg.Wait()
		defer broker.Close()
		wg.Go(func() { _, _ = io.Copy(io.Discard, broker) })
		wg.Go(func() { _ = protocol.WriteResponse(broker, version, id, &produce.Response{}) })
		r := produceRequest{raw: ours, correlationID: 7, version: version, topic: "hids_svr"}
		return r.RawExchange(ours)
	}
	if got, err := answers(7, 8); err != nil || got == nil {
		t.Errorf("the right answer = %v, %v", got, err)
	}
	if got, err := answers(6, 8); err == nil || !strings.Contains(err.Error(), "request 6, not to 7") {
		t.Errorf("the answer to another request = %v, %v", got, err)
	}
	if got, err := answers(7, 2); err == nil || !strings.Contains(err.Error(), "up to version 2") {
		t.Errorf("with an old broker = %v, %v", got, err)
	}
}
