// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package floor

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

const (
	topic      = "hids_svr"
	partitions = 8
	batchBytes = 512 << 10
	poll       = 20 * time.Millisecond
	// holdBytes is when whoever appends waits: a load that Kafka cannot take must
	// not fill the memory of the machine.
	holdBytes = 8 << 20
)

// sink has a buffer and a goroutine for each partition.
type sink struct {
	client *kafka.Client
	parts  [partitions]*partition
}

type partition struct {
	id   int
	full chan struct{}

	mu    sync.Mutex
	room  sync.Cond
	open  *batch
	spare *batch
}

func newSink(brokerAddr string) (*sink, error) {
	addr, err := net.ResolveTCPAddr("tcp", brokerAddr)
	if err != nil {
		return nil, fmt.Errorf("resolve the broker: %w", err)
	}
	s := &sink{client: &kafka.Client{Addr: addr, Timeout: 10 * time.Second, Transport: &kafka.Transport{}}}
	for i := range s.parts {
		p := &partition{id: i, full: make(chan struct{}, 1), open: &batch{}, spare: &batch{}}
		p.open.reset()
		p.spare.reset()
		p.room.L = &p.mu
		s.parts[i] = p
	}
	return s, nil
}

// run sends until ctx ends or a batch is not taken.
func (s *sink) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for _, p := range s.parts {
		all.Go(func() {
			if err := s.send(ctx, p); err != nil {
				cancel(err)
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

func (p *partition) put(ms int64, m *message) {
	p.mu.Lock()
	for len(p.open.buf) > holdBytes {
		p.room.Wait()
	}
	for _, r := range m.records {
		p.open.add(ms, m.agent, r, m.suffix)
	}
	full := len(p.open.buf) >= batchBytes
	p.mu.Unlock()
	if full {
		select {
		case p.full <- struct{}{}:
		default:
		}
	}
}

// take returns what stands in the buffer, nil if nothing does.
func (p *partition) take() *batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open.count == 0 {
		return nil
	}
	b := p.open
	p.open = p.spare
	p.room.Broadcast()
	return b
}

// send polls the partition's buffer.
func (s *sink) send(ctx context.Context, p *partition) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.full:
		case <-ticker.C:
		}
		b := p.take()
		if b == nil {
			continue
		}
		res, err := s.client.RawProduce(ctx, &kafka.RawProduceRequest{
			Topic: topic, Partition: p.id, RequiredAcks: kafka.RequireAll,
			RawRecords: protocol.RawRecordSet{Reader: bytes.NewReader(b.finish())},
		})
		if err == nil {
			err = res.Error
		}
		if err != nil {
			return fmt.Errorf("produce: %w", err)
		}
		b.reset()
		p.mu.Lock()
		p.spare = b
		p.mu.Unlock()
	}
}
