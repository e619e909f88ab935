// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package floor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"muster/test/bench/records"
)

// Steps is the CPU that parts of the floor take, alone and in a loop, in seconds
// per million records.
type Steps struct {
	Decode    float64 `json:"decode"`
	Transcode float64 `json:"transcode"`
	Produce   float64 `json:"produce"`
}

const (
	stepAgents = 64
	stepTime   = 1500 * time.Millisecond
)

// MeasureSteps takes some seconds. Messages have that many records.
func MeasureSteps(ctx context.Context, broker string, perMessage int) (Steps, error) {
	packer := records.NewPacker()
	var packed [][]byte
	for i := range uint32(stepAgents) {
		f, err := packer.NewMaker(i).Events(perMessage, time.Now().Unix())
		if err != nil {
			return Steps{}, err
		}
		packed = append(packed, f[5:])
	}
	var out Steps
	plain := make([][]byte, len(packed))
	reader := s2.NewReader(nil)
	var err error
	out.Decode, err = perMillion(ctx, perMessage, func(i int) error {
		reader.Reset(bytes.NewReader(packed[i%stepAgents]))
		into := bytes.NewBuffer(plain[i%stepAgents][:0])
		_, err := io.Copy(into, reader)
		plain[i%stepAgents] = into.Bytes()
		return err
	})
	if err != nil {
		return out, fmt.Errorf("decode: %w", err)
	}
	sink, err := newSink(broker)
	if err != nil {
		return out, err
	}
	var m message
	parts := sink.parts
	out.Transcode, err = perMillion(ctx, perMessage, func(i int) error {
		if err := m.parse(plain[i%stepAgents], time.Now().Unix()); err != nil {
			return err
		}
		p := parts[partitionOf(m.agent, partitions)]
		if len(p.open.buf) >= batchBytes {
			p.open.reset()
		}
		p.put(milliseconds(), &m)
		return nil
	})
	if err != nil {
		return out, fmt.Errorf("transcode: %w", err)
	}
	out.Produce, err = sink.produceStep(ctx, plain)
	return out, err
}

// produceStep sends full batches, one after the other.
func (s *sink) produceStep(ctx context.Context, plain [][]byte) (float64, error) {
	var full batch
	full.reset()
	var m message
	for i := 0; len(full.buf) < batchBytes; i++ {
		if err := m.parse(plain[i%len(plain)], time.Now().Unix()); err != nil {
			return 0, err
		}
		for _, r := range m.records {
			full.add(milliseconds(), m.agent, r, m.suffix)
		}
	}
	per, err := perMillion(ctx, full.count, func(i int) error {
		res, err := s.client.RawProduce(ctx, &kafka.RawProduceRequest{
			Topic: topic, Partition: i % partitions, RequiredAcks: kafka.RequireAll,
			RawRecords: protocol.RawRecordSet{Reader: bytes.NewReader(full.finish())},
		})
		return errors.Join(err, errorOf(res))
	})
	if err != nil {
		return 0, fmt.Errorf("produce: %w", err)
	}
	return per, nil
}

func errorOf(res *kafka.ProduceResponse) error {
	if res == nil {
		return nil
	}
	return res.Error
}

// perMillion runs step for a while and returns the CPU of this process for a
// million records, of which each step deals with that many.
func perMillion(ctx context.Context, recordsEach int, step func(i int) error) (float64, error) {
	for i := range stepAgents { // warm up, and each message once
		if err := step(i); err != nil {
			return 0, err
		}
	}
	before, end, n := cpuSeconds(), time.Now().Add(stepTime), 0
	for ; n%16 != 0 || time.Now().Before(end); n++ {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if err := step(n); err != nil {
			return 0, err
		}
	}
	return (cpuSeconds() - before) / float64(n*recordsEach) * 1e6, nil
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
