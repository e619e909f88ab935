// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"
)

// A batch is laid out as kafka-go's produce request wants it: a size, then one
// Kafka record batch of format v2 (KIP-98). Offsets below are from the start of
// the buffer.
const (
	offSize          = 0  // int32, of all that follows
	offBaseOffset    = 4  // int64, 0: the broker assigns it
	offLength        = 12 // int32, of what follows this field
	offLeaderEpoch   = 16 // int32, -1: the broker assigns it
	offMagic         = 20 // int8, 2
	offCRC           = 21 // uint32, CRC32C of what follows this field
	offAttributes    = 25 // int16, the codec in the lowest three bits
	offLastDelta     = 27 // int32, record count - 1
	offBaseTime      = 31 // int64, milliseconds
	offMaxTime       = 39 // int64, milliseconds
	offProducerID    = 47 // int64
	offProducerEpoch = 55 // int16
	offSequence      = 57 // int32, of the first record
	offCount         = 61 // int32
	recordsAt        = 65
)

// recordOverhead is the most that framing adds to a record's key and value.
const recordOverhead = 32

// recordCharge is what a record counts against the memory bound; its encoded
// form is never longer.
func recordCharge(keyLen, valueLen int) int64 {
	return int64(recordOverhead + keyLen + valueLen)
}

// batch is a run of encoded records of one partition. Its owner (a partition's
// buffer, later its sender) is the only one who touches it.
type batch struct {
	buf      []byte // from recordsAt on, the records; before, room for the header
	count    int
	charge   int64 // sum of recordCharge
	baseTime int64 // milliseconds
	maxTime  int64
	opened   time.Time // when the first record came

	// wire is the framed batch, its records compressed, as a spool keeps it; buf
	// is empty then, and only unpack fills it. Nil for a batch made in memory.
	wire []byte
	// spooled says that the records count as spooled and take no room in memory.
	spooled bool
	shares  []share   // of agents in the room, given back with it
	moves   []*ticket // of those who wait for it to be settled
	// kept counts the records that are still on disk too, in the entries of moves.
	// It may be too low: then a loss is overstated.
	kept int

	// uncertain is set once an attempt ended without an answer: the broker may
	// have written the records. Under another producer ID they may be doubled.
	uncertain bool
}

// share is what one agent takes of its bound, see fairness.
type share struct {
	slot  uint16
	bytes int32
}

// ticket counts the batches that hold records of a move; done is closed when
// all of them are settled or on disk.
type ticket struct {
	left atomic.Int32
	done chan struct{}
}

func (t *ticket) leave() {
	if t.left.Add(-1) == 0 {
		close(t.done)
	}
}

// reset empties b for other records, keeping its memory.
func (b *batch) reset() {
	*b = batch{buf: slices.Grow(b.buf[:0], recordsAt)[:recordsAt], shares: b.shares[:0]}
}

// add encodes one record whose value is head followed by tail.
func (b *batch) add(now time.Time, key string, head, tail []byte) {
	ms := now.UnixMilli()
	if b.count == 0 {
		b.opened, b.baseTime, b.maxTime = now, ms, ms
	}
	appendRecord(b, ms, key, head, tail)
}

// appendRecord is add for a record whose time is known, and for keys of either type.
func appendRecord[K string | []byte](b *batch, ms int64, key K, head, tail []byte) {
	if b.count == 0 {
		b.baseTime, b.maxTime = ms, ms
	}
	timeDelta, offsetDelta := ms-b.baseTime, int64(b.count)
	valueLen := len(head) + len(tail)
	body := 1 + varintLen(timeDelta) + varintLen(offsetDelta) +
		varintLen(int64(len(key))) + len(key) + varintLen(int64(valueLen)) + valueLen + 1

	buf := slices.Grow(b.buf, binary.MaxVarintLen32+body)
	buf = binary.AppendVarint(buf, int64(body))
	buf = append(buf, 0) // attributes
	buf = binary.AppendVarint(buf, timeDelta)
	buf = binary.AppendVarint(buf, offsetDelta)
	buf = binary.AppendVarint(buf, int64(len(key)))
	buf = append(buf, key...)
	buf = binary.AppendVarint(buf, int64(valueLen))
	buf = append(buf, head...)
	buf = append(buf, tail...)
	b.buf = append(buf, 0) // no headers

	b.count++
	b.maxTime = max(b.maxTime, ms)
	b.charge += recordCharge(len(key), valueLen)
}

// varintLen is the length of x as a zigzag varint.
func varintLen(x int64) int {
	zigzag := uint64(x<<1) ^ uint64(x>>63)
	return (bits.Len64(zigzag|1) + 6) / 7
}

// each calls fn for every record in order. The slices point into b. It reads
// only what appendRecord wrote, so nothing can be malformed.
func (b *batch) each(fn func(ms int64, key, value []byte)) {
	for rest := b.buf[recordsAt:]; len(rest) > 0; {
		next := func() int64 {
			v, n := binary.Varint(rest)
			rest = rest[n:]
			return v
		}
		take := func(n int64) []byte {
			v := rest[:n:n]
			rest = rest[n:]
			return v
		}
		next()  // length
		take(1) // attributes
		timeDelta := next()
		next() // offset delta
		key := take(next())
		value := take(next())
		take(1) // no headers
		fn(b.baseTime+timeDelta, key, value)
	}
}

// split returns the two halves of b, which must have more than one record.
func (b *batch) split() (first, second *batch) {
	first, second = &batch{}, &batch{}
	first.reset()
	second.reset()
	half := b.count / 2
	b.each(func(ms int64, key, value []byte) {
		into := first
		if first.count == half {
			into = second
		}
		appendRecord(into, ms, key, value, nil)
	})
	first.opened, second.opened = b.opened, b.opened
	first.uncertain, second.uncertain = b.uncertain, b.uncertain
	first.spooled, second.spooled = b.spooled, b.spooled
	second.shares = b.shares // given back when all of it is settled
	for _, t := range b.moves {
		t.left.Add(1)
	}
	first.moves, second.moves = b.moves, b.moves
	if b.kept == b.count {
		first.kept, second.kept = first.count, second.count
	}
	return first, second
}

// frame writes b's header into wire, whose bytes from recordsAt on are b's
// records under the given codec, all but what stamp writes.
func (b *batch) frame(wire []byte, codec int16) {
	be := binary.BigEndian
	be.PutUint32(wire[offSize:], uint32(len(wire)-offBaseOffset))
	be.PutUint64(wire[offBaseOffset:], 0)
	be.PutUint32(wire[offLength:], uint32(len(wire)-offLeaderEpoch))
	be.PutUint32(wire[offLeaderEpoch:], math.MaxUint32)
	wire[offMagic] = 2
	be.PutUint16(wire[offAttributes:], uint16(codec))
	be.PutUint32(wire[offLastDelta:], uint32(b.count-1))
	be.PutUint64(wire[offBaseTime:], uint64(b.baseTime))
	be.PutUint64(wire[offMaxTime:], uint64(b.maxTime))
	be.PutUint32(wire[offCount:], uint32(b.count))
}

// producer is what makes a partition's batches idempotent: the broker accepts
// each sequence number of a producer ID once.
type producer struct {
	id       int64
	epoch    int16
	sequence int32 // of the next record
	known    bool  // false until an ID is obtained
}

// stamp writes the producer into a framed batch and sums it up.
func (p producer) stamp(wire []byte) {
	be := binary.BigEndian
	be.PutUint64(wire[offProducerID:], uint64(p.id))
	be.PutUint16(wire[offProducerEpoch:], uint16(p.epoch))
	be.PutUint32(wire[offSequence:], uint32(p.sequence))
	be.PutUint32(wire[offCRC:], crc32.Checksum(wire[offAttributes:], castagnoli))
}

// advance moves the sequence over n records; after the greatest int32 comes 0.
func (p *producer) advance(n int) {
	p.sequence = int32((int64(p.sequence) + int64(n)) & math.MaxInt32)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// hashOf is FNV-1a.
func hashOf[K string | []byte](key K) uint32 {
	h := uint32(2166136261)
	for i := range len(key) {
		h = (h ^ uint32(key[i])) * 16777619
	}
	return h
}

// partitionOf is Sarama's default: FNV-1a of the key as a signed number modulo
// n, negated if negative. Elkeid's AgentCenter uses it, so an agent's records
// stay in their partition when it moves between the two.
func partitionOf[K string | []byte](key K, n int) int { return partitionOfHash(hashOf(key), n) }

func partitionOfHash(hash uint32, n int) int {
	p := int32(hash) % int32(n)
	if p < 0 {
		p = -p
	}
	return int(p)
}
