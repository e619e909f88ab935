// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package floor

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"math/bits"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

var errMalformed = errors.New("malformed message")

// message is a RawData message taken apart; its slices point into it.
type message struct {
	records [][]byte
	agent   []byte
	suffix  []byte
}

// parse walks the top level of a message, and makes the suffix that turns its
// records into MQData.
func (m *message) parse(b []byte, now int64) error {
	*m = message{records: m.records[:0], suffix: m.suffix[:0]}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || typ != protowire.BytesType {
			return errMalformed
		}
		v, k := protowire.ConsumeBytes(b[n:])
		if k < 0 {
			return errMalformed
		}
		b = b[n+k:]
		switch num {
		case 1:
			if err := walk(v); err != nil {
				return err
			}
			m.records = append(m.records, v)
		case 2:
			m.agent = v
			m.suffix = appendText(m.suffix, 4, v)
		case 3:
			m.suffix = appendText(m.suffix, 5, v)
		case 7, 8, 9:
			m.suffix = appendText(m.suffix, num+2, v)
		}
	}
	m.suffix = protowire.AppendTag(m.suffix, 12, protowire.VarintType)
	m.suffix = protowire.AppendVarint(m.suffix, uint64(now)) //nolint:gosec // after 1970
	return nil
}

// walk sees to it that a record has its three fields alone.
func walk(b []byte) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || num > 3 {
			return errMalformed
		}
		k := protowire.ConsumeFieldValue(num, typ, b[n:])
		if k < 0 {
			return errMalformed
		}
		b = b[n+k:]
	}
	return nil
}

func appendText(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// recordsAt is where records begin, after a size and the header of a batch.
const recordsAt = 65

// batch is a record batch of format v2 that is being filled.
type batch struct {
	buf   []byte
	count int
	base  int64 // milliseconds
	last  int64
}

func (b *batch) reset() { *b = batch{buf: append(b.buf[:0], make([]byte, recordsAt)...)} }

// add appends one record: key, and a value of two pieces.
func (b *batch) add(ms int64, key, head, tail []byte) {
	if b.count == 0 {
		b.base = ms
	}
	value := len(head) + len(tail)
	delta, offset := ms-b.base, int64(b.count)
	size := 1 + varintLen(delta) + varintLen(offset) + varintLen(int64(len(key))) + len(key) + varintLen(int64(value)) + value + 1
	buf := binary.AppendVarint(b.buf, int64(size))
	buf = append(buf, 0)
	buf = binary.AppendVarint(buf, delta)
	buf = binary.AppendVarint(buf, offset)
	buf = binary.AppendVarint(buf, int64(len(key)))
	buf = append(buf, key...)
	buf = binary.AppendVarint(buf, int64(value))
	buf = append(buf, head...)
	buf = append(buf, tail...)
	b.buf = append(buf, 0)
	b.last = ms
	b.count++
}

func varintLen(x int64) int {
	return (bits.Len64(uint64(x<<1)^uint64(x>>63)|1) + 6) / 7 //nolint:gosec // zigzag
}

// finish writes size, header and checksum.
func (b *batch) finish() []byte {
	w, be := b.buf, binary.BigEndian
	be.PutUint32(w, uint32(len(w)-4))       //nolint:gosec // about 512 KiB
	be.PutUint32(w[12:], uint32(len(w)-16)) //nolint:gosec // as above
	be.PutUint32(w[16:], math.MaxUint32)
	w[20] = 2
	be.PutUint32(w[27:], uint32(b.count-1)) //nolint:gosec // as above
	be.PutUint64(w[31:], uint64(b.base))    //nolint:gosec // after 1970
	be.PutUint64(w[39:], uint64(b.last))    //nolint:gosec // after 1970
	be.PutUint64(w[47:], math.MaxUint64)
	be.PutUint16(w[55:], math.MaxUint16)
	be.PutUint32(w[57:], math.MaxUint32)
	be.PutUint32(w[61:], uint32(b.count)) //nolint:gosec // as above
	be.PutUint32(w[21:], crc32.Checksum(w[25:], castagnoli))
	return w
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// partitionOf is Sarama's default.
func partitionOf(key []byte, n int) int {
	h := uint32(2166136261)
	for _, c := range key {
		h = (h ^ uint32(c)) * 16777619
	}
	p := int32(h) % int32(n) //nolint:gosec // Sarama's arithmetic
	if p < 0 {
		p = -p
	}
	return int(p)
}

func milliseconds() int64 { return time.Now().UnixMilli() }
