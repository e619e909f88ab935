// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

// The encoder and the clockwork of a partition are tested from inside: a batch
// is not visible from outside except through a broker.

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// sample is a batch of three records that covers what the format has.
func sample() *batch {
	b := &batch{}
	b.reset()
	b.add(noon, "80ab2f3b-0000-0000-0000-000000000000", []byte("\x08\x3b\x1a\x05hello"), []byte("\x22\x03abc"))
	b.add(noon.Add(time.Second), "a", nil, nil)
	b.add(noon.Add(-time.Second), "", bytes.Repeat([]byte("x"), 100), nil) // the clock went back
	return b
}

func TestBatchGolden(t *testing.T) {
	b := sample()
	wire, _ := compressor{}.wireOf(b, nil)
	producer{id: 0x0102030405060708, epoch: 9, sequence: 10}.stamp(wire)
	path := filepath.Join("testdata", "batch.hex")
	got := hex.Dump(wire)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("batch is\n%s\nwant\n%s", got, want)
	}
}

// decodeByFranz reads a batch with the other client library.
func decodeByFranz(d kgo.Decompressor, wire []byte) (string, error) {
	var rb kmsg.RecordBatch
	if err := rb.ReadFrom(wire[4:]); err != nil {
		return "", err
	}
	if got, want := uint32(rb.CRC), crc32.Checksum(wire[25:], crc32.MakeTable(crc32.Castagnoli)); got != want {
		return "", fmt.Errorf("CRC is %08x, want %08x", got, want)
	}
	if int(rb.Length) != len(wire)-4-12 || rb.FirstOffset != 0 || rb.LastOffsetDelta != rb.NumRecords-1 || rb.Magic != 2 {
		return "", fmt.Errorf("header %+v", rb)
	}
	raw, err := d.Decompress(rb.Records, kgo.CompressionCodecType(rb.Attributes&7))
	if err != nil {
		return "", err
	}
	var s strings.Builder
	for i := range rb.NumRecords {
		r := kmsg.NewRecord()
		if err := r.ReadFrom(raw); err != nil {
			return "", err
		}
		if r.OffsetDelta != i || len(r.Headers) != 0 {
			return "", fmt.Errorf("record %d: %+v", i, r)
		}
		raw = raw[varintLen(int64(r.Length))+int(r.Length):]
		at := rb.FirstTimestamp + r.TimestampDelta64
		if at > rb.MaxTimestamp {
			return "", fmt.Errorf("record %d is of %d, after the batch's last time %d", i, at, rb.MaxTimestamp)
		}
		fmt.Fprintf(&s, "%d %q %q\n", at, r.Key, r.Value)
	}
	if len(raw) != 0 {
		return "", fmt.Errorf("%d bytes after the last record", len(raw))
	}
	return s.String(), nil
}

// decodeByKafkaGo reads a batch with kafka-go.
func decodeByKafkaGo(wire []byte) (string, error) {
	var set protocol.RecordSet
	if _, err := set.ReadFrom(bytes.NewReader(wire)); err != nil {
		return "", err
	}
	var s strings.Builder
	for {
		r, err := set.Records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return s.String(), nil
		}
		if err != nil {
			return "", err
		}
		key, err := protocol.ReadAll(r.Key)
		if err != nil {
			return "", err
		}
		value, err := protocol.ReadAll(r.Value)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&s, "%d %q %q\n", r.Time.UnixMilli(), key, value)
	}
}

// FuzzBatchIsReadAlike: whatever is put in comes out of both client libraries
// and of our own reader, under every codec.
func FuzzBatchIsReadAlike(f *testing.F) {
	f.Add("agent-1", []byte("value"), []byte("suffix"), int64(1), uint8(3), uint8(0))
	f.Add("", []byte{}, []byte{}, int64(-1), uint8(1), uint8(1))
	f.Add(strings.Repeat("k", 128), bytes.Repeat([]byte{0}, 9_000), []byte("s"), int64(math.MaxInt32), uint8(200), uint8(2))
	f.Add("a", bytes.Repeat([]byte("ab"), 3_000), []byte(nil), int64(1000), uint8(9), uint8(3))
	var codecs []compressor
	for _, name := range []Compression{CompressionNone, CompressionSnappy, CompressionLZ4, CompressionZstd} {
		c, err := newCompressor(name)
		if err != nil {
			f.Fatal(err)
		}
		codecs = append(codecs, c)
	}
	decompressor := kgo.DefaultDecompressor()
	f.Fuzz(func(t *testing.T, key string, head, tail []byte, step int64, count, codec uint8) {
		c := codecs[int(codec)%len(codecs)]
		b := &batch{}
		b.reset()
		var want strings.Builder
		var charge int64
		step %= int64(1000 * time.Hour / time.Millisecond)
		for i := range int(count)%20 + 1 {
			at := noon.Add(time.Duration(step*int64(i)) * time.Millisecond)
			h := head[min(i, len(head)):] // a different length each time
			b.add(at, key, h, tail)
			value := append(append([]byte{}, h...), tail...)
			fmt.Fprintf(&want, "%d %q %q\n", at.UnixMilli(), key, value)
			charge += recordCharge(len(key), len(value))
		}
		if got := int64(len(b.buf) - recordsAt); got > charge || b.charge != charge {
			t.Errorf("%d bytes of records charge %d, want %d", got, b.charge, charge)
		}
		var own strings.Builder
		b.each(func(ms int64, key, value []byte) { fmt.Fprintf(&own, "%d %q %q\n", ms, key, value) })
		wire, _ := c.wireOf(b, make([]byte, 7, 1000))
		producer{id: 1, epoch: 2, sequence: math.MaxInt32, known: true}.stamp(wire)
		franz, err1 := decodeByFranz(decompressor, wire)
		kafkaGo, err2 := decodeByKafkaGo(wire)
		if err1 != nil || err2 != nil {
			t.Fatalf("decoding: franz-go %v, kafka-go %v", err1, err2)
		}
		for name, got := range map[string]string{"our own": own.String(), "franz-go": franz, "kafka-go": kafkaGo} {
			if got != want.String() {
				t.Errorf("%s reads %.300s, want %.300s", name, got, want.String())
			}
		}
	})
}

func TestSplitKeepsEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := &batch{}
		b.reset()
		n := rapid.IntRange(2, 40).Draw(t, "records")
		for i := range n {
			value := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value")
			b.add(noon.Add(time.Duration(i)*time.Millisecond), rapid.StringN(0, 20, 60).Draw(t, "key"), value, nil)
		}
		list := func(bs ...*batch) string {
			var s strings.Builder
			for _, b := range bs {
				b.each(func(ms int64, key, value []byte) { fmt.Fprintf(&s, "%d %q %q\n", ms, key, value) })
			}
			return s.String()
		}
		first, second := b.split()
		if got, want := list(first, second), list(b); got != want {
			t.Fatalf("halves hold %s, want %s", got, want)
		}
		if first.count+second.count != n || first.count == 0 || second.count == 0 || first.charge+second.charge != b.charge {
			t.Fatalf("%d and %d records of %d, charges %d and %d of %d", first.count, second.count, n, first.charge, second.charge, b.charge)
		}
	})
}

// The vectors are those of the agent protocol's contract.
func TestPartitionOf(t *testing.T) {
	for key, want := range map[string]int{
		"a": 4, "agent-1": 0, "80ab2f3b-0000-0000-0000-000000000000": 7, "host-042": 0,
		"ffffffff-ffff-4fff-bfff-ffffffffffff": 3,
	} {
		if got := partitionOf(key, 8); got != want {
			t.Errorf("partitionOf(%s, 8) = %d, want %d", key, got, want)
		}
		if got := partitionOf([]byte(key), 8); got != want {
			t.Errorf("partitionOf of bytes %s = %d, want %d", key, got, want)
		}
	}
}

// TestSequenceGoesRound: after the greatest int32 comes 0, as Kafka counts.
func TestSequenceGoesRound(t *testing.T) {
	for _, c := range []struct{ from, by, want int32 }{
		{0, 5, 5}, {math.MaxInt32 - 1, 1, math.MaxInt32}, {math.MaxInt32, 1, 0}, {math.MaxInt32 - 2, 10, 7},
	} {
		p := producer{sequence: c.from}
		if p.advance(int(c.by)); p.sequence != c.want {
			t.Errorf("%d advanced by %d is %d, want %d", c.from, c.by, p.sequence, c.want)
		}
	}
}

func TestBackoffIsBounded(t *testing.T) {
	for failures := 1; failures < 100; failures++ {
		if d := backoff(failures); d < backoffMin/2 || d > backoffMax {
			t.Errorf("backoff(%d) = %v", failures, d)
		}
	}
}

func TestThrottle(t *testing.T) {
	th := newThrottle(2, time.Hour)
	for i, c := range []struct {
		key   string
		after time.Duration
		want  bool
	}{
		{"a", 0, true},
		{"a", time.Minute, false},
		{"b", time.Minute, true},
		{"a", time.Hour, true}, // an hour after its last
		{"c", time.Hour, true}, // b is forgotten, the oldest
		{"a", time.Hour, false},
		{"b", time.Hour, true}, // and a now
		{"c", time.Hour, false},
		{"a", time.Hour, true},
	} {
		if got := th.allow(c.key, noon.Add(c.after)); got != c.want {
			t.Errorf("step %d: allow(%s) = %v, want %v", i, c.key, got, c.want)
		}
		if len(th.keys) > 2 || th.order.Len() != len(th.keys) {
			t.Errorf("step %d: %d keys, %d in order, want at most 2", i, len(th.keys), th.order.Len())
		}
	}
}
