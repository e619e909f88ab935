// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"time"
)

// A spooled batch is an entry of a segment file: a header, then the Kafka record
// batch as it was or would have been sent, compressed, without its size and
// without a producer (those are another's when it is sent again). Numbers are
// big-endian. These are the offsets of the header.
const (
	entID      = 0  // 8 bytes, the spool's ID
	entLength  = 8  // uint32, of the batch
	entRecords = 12 // uint32, in the batch
	entNumber  = 16 // uint64, 1 for the first entry of a spool, then counting up
	entBefore  = 24 // uint64, records in all entries before this one
	entOldest  = 32 // int64, when the oldest record came, milliseconds
	entCRC     = 40 // uint32, CRC32C of the header before it, and of the batch
	entBytes   = 44
)

// spoolID begins every entry of a spool. It is random and never leaves the disk, so
// that no agent can put bytes into a record that are taken for an entry, should
// what is around them be damaged.
type spoolID [8]byte

// idOfFormat1 begins all entries of format 1. What is behind it is the same.
var idOfFormat1 = spoolID{'M', 'S', 'P', 'E', 1}

func newSpoolID() (id spoolID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// maxEntryBytes is more than any batch: one record of the largest size that
// options allow, and framing.
const maxEntryBytes = 64 << 20

// entry is one spooled batch and its place in the spool.
type entry struct {
	number  uint64
	before  uint64 // records in the spool before this entry
	records uint32
	oldest  time.Time
	batch   []byte // from offBaseOffset on
}

// size is what an entry takes on disk.
func entrySize(batchBytes int) int64 { return int64(entBytes + batchBytes) }

// appendEntry appends e, whose batch is given in two pieces.
func appendEntry(dst []byte, id spoolID, e entry, head, rest []byte) []byte {
	at := len(dst)
	dst = slices.Grow(dst, entBytes+len(head)+len(rest))[:at+entBytes]
	h := dst[at:]
	be := binary.BigEndian
	copy(h[entID:], id[:])
	be.PutUint32(h[entLength:], uint32(len(head)+len(rest)))
	be.PutUint32(h[entRecords:], e.records)
	be.PutUint64(h[entNumber:], e.number)
	be.PutUint64(h[entBefore:], e.before)
	be.PutUint64(h[entOldest:], uint64(e.oldest.UnixMilli()))
	dst = append(append(dst, head...), rest...)
	be.PutUint32(dst[at+entCRC:], entrySum(dst[at:at+entBytes], dst[at+entBytes:]))
	return dst
}

// entrySum covers the header up to the sum itself, and the batch.
func entrySum(header, batch []byte) uint32 {
	return crc32.Update(crc32.Checksum(header[:entCRC], castagnoli), castagnoli, batch)
}

// spoolError is what can be wrong with a spool, within this package.
type spoolError string

// Error implements error.
func (e spoolError) Error() string { return string(e) }

const (
	errDamaged   = spoolError("damaged") // bytes that are no entry
	errSpoolFull = spoolError("the spool is full")
)

// parseHeader reads a header and the length of what follows; the sum is not checked.
func parseHeader(h []byte, id spoolID) (e entry, length int, err error) {
	be := binary.BigEndian
	if len(h) < entBytes || spoolID(h) != id {
		return e, 0, fmt.Errorf("no entry: %w", errDamaged)
	}
	e.records = be.Uint32(h[entRecords:])
	e.number = be.Uint64(h[entNumber:])
	e.before = be.Uint64(h[entBefore:])
	e.oldest = time.UnixMilli(int64(be.Uint64(h[entOldest:])))
	length = int(be.Uint32(h[entLength:]))
	if length < recordsAt-offBaseOffset || length > maxEntryBytes || e.records == 0 {
		return e, 0, fmt.Errorf("entry of %d bytes with %d records: %w", length, e.records, errDamaged)
	}
	return e, length, nil
}

// parseEntry reads one whole entry, sum and all. The batch points into data.
func parseEntry(data []byte, id spoolID) (e entry, err error) {
	e, length, err := parseHeader(data, id)
	if err != nil {
		return e, err
	}
	if len(data) < entBytes+length {
		return e, fmt.Errorf("entry ends early: %w", errDamaged)
	}
	header, body := data[:entBytes], data[entBytes:entBytes+length]
	if entrySum(header, body) != binary.BigEndian.Uint32(header[entCRC:]) {
		return e, fmt.Errorf("checksum: %w", errDamaged)
	}
	e.batch = body
	return e, nil
}

// batchOf makes e's batch ready for a sender; wire is a buffer whose bytes from
// offBaseOffset on are e.batch.
func batchOf(e entry, wire []byte) (*batch, error) {
	be := binary.BigEndian
	if len(wire) < recordsAt || wire[offMagic] != 2 || be.Uint32(wire[offCount:]) != e.records ||
		int(be.Uint32(wire[offLength:])) != len(wire)-offLeaderEpoch {
		return nil, fmt.Errorf("no record batch of format 2: %w", errDamaged)
	}
	be.PutUint32(wire[offSize:], uint32(len(wire)-offBaseOffset))
	return &batch{
		wire: wire, count: int(e.records), opened: e.oldest, spooled: true,
		baseTime: int64(be.Uint64(wire[offBaseTime:])), maxTime: int64(be.Uint64(wire[offMaxTime:])),
	}, nil
}

// unpack decodes the records of a batch that came from disk into b.buf, so that
// they can be told apart. Nothing in it is trusted.
func (b *batch) unpack() error {
	if b.wire == nil {
		return nil
	}
	raw, err := decompress(int16(binary.BigEndian.Uint16(b.wire[offAttributes:])&7), b.wire[recordsAt:])
	if err != nil {
		return fmt.Errorf("decompressing a spooled batch: %w: %w", err, errDamaged)
	}
	fresh := &batch{opened: b.opened, spooled: b.spooled, uncertain: b.uncertain, baseTime: b.baseTime, maxTime: b.maxTime, count: b.count}
	fresh.buf = append(make([]byte, recordsAt, recordsAt+len(raw)), raw...)
	charge, err := checkRecords(raw, b.count)
	if err != nil {
		return err
	}
	fresh.charge = charge
	*b = *fresh
	return nil
}

// checkRecords walks encoded records as each does, and sums their charges.
func checkRecords(raw []byte, count int) (charge int64, err error) {
	bad := func(i int) (int64, error) { return 0, fmt.Errorf("record %d of %d: %w", i, count, errDamaged) }
	for i := range count {
		size, n := binary.Varint(raw)
		if n <= 0 || size < 0 || size > int64(len(raw)-n) {
			return bad(i)
		}
		body := raw[n : n+int(size)]
		raw = raw[n+int(size):]
		if len(body) < 1 || body[0] != 0 {
			return bad(i)
		}
		body = body[1:]
		var keyLen, valueLen int64
		for field := range 4 { // time delta, offset delta, key and value
			v, n := binary.Varint(body)
			if n <= 0 || v < 0 && field != 0 || field == 1 && v != int64(i) {
				return bad(i)
			}
			body = body[n:]
			if field < 2 {
				continue
			}
			if v > int64(len(body)) {
				return bad(i)
			}
			body = body[v:]
			keyLen, valueLen = valueLen, v
		}
		if len(body) != 1 || body[0] != 0 { // no headers
			return bad(i)
		}
		charge += recordCharge(int(keyLen), int(valueLen))
	}
	if len(raw) != 0 {
		return 0, fmt.Errorf("%d bytes after %d records: %w", len(raw), count, errDamaged)
	}
	if charge > math.MaxInt32 {
		return 0, fmt.Errorf("records of %d bytes: %w", charge, errDamaged)
	}
	return charge, nil
}
