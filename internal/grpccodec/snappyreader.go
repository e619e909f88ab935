// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package grpccodec

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/s2"
)

// What the framed format of snappy says (framing_format.txt).
const (
	snappyMagic        = "\xff\x06\x00\x00sNaPpY"
	chunkCompressed    = 0x00
	chunkUncompressed  = 0x01
	chunkHeaderBytes   = 4
	chunkChecksumBytes = 4
	maxChunkBytes      = 64 << 10 // decoded
	maskDelta          = 0xa282ead8
)

// maxWholeBytes bounds a message, compressed, that is decoded at once.
const maxWholeBytes = 128 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// snappyReader decodes what most messages are, a few plain chunks, from where
// they lie to where they go. Whatever else there is, right or wrong, is the
// library's: it then reads the message from its beginning.
type snappyReader struct {
	pool *sync.Pool
	src  io.Reader
	// whole is set while nothing of src has been read, ended once all of it has.
	whole, ended bool
	library      *s2.Reader // nil until it is needed
	pieces       [][]byte
	joined       []byte
}

// peeker is a part of gRPC's reader of a received message.
type peeker interface {
	Remaining() int
	Peek(n int, into [][]byte) ([][]byte, error)
	Discard(n int) (int, error)
}

// Read is io.Reader's.
func (z *snappyReader) Read(p []byte) (int, error) {
	if z.ended {
		return 0, io.EOF
	}
	if z.whole {
		z.whole = false
		if n := z.readWhole(p); n > 0 {
			z.ended = true
			return n, nil
		}
		if z.library == nil {
			z.library = s2.NewReader(nil, s2.ReaderMaxBlockSize(maxSnappyBlockBytes), s2.ReaderAllocBlock(64<<10))
		}
		z.library.Reset(z.src)
	}
	return z.library.Read(p)
}

// Close gives the reader back, which gRPC does exactly once.
func (z *snappyReader) Close() error {
	if z.library != nil {
		z.library.Reset(nil) // the pool must not keep the message
	}
	z.src = nil
	z.pool.Put(z)
	return nil
}

// readWhole decodes all of the message into p. It returns 0, and has taken
// nothing, if the message is not as expected.
func (z *snappyReader) readWhole(p []byte) int {
	src, ok := z.src.(peeker)
	if !ok {
		return 0
	}
	size := src.Remaining()
	if size > maxWholeBytes {
		return 0
	}
	var err error
	if z.pieces, err = src.Peek(size, z.pieces[:0]); err != nil {
		return 0
	}
	n := decodeWhole(p, z.contiguous(size))
	clear(z.pieces)
	if n > 0 {
		_, _ = src.Discard(size) // which is there
	}
	return n
}

// contiguous are the pieces in a row; it copies if there are several.
func (z *snappyReader) contiguous(size int) []byte {
	if len(z.pieces) == 1 {
		return z.pieces[0]
	}
	z.joined = slices.Grow(z.joined[:0], size)
	for _, piece := range z.pieces {
		z.joined = append(z.joined, piece...)
	}
	return z.joined
}

// decodeWhole decodes a stream of plain chunks into p. It returns 0 if there is
// anything else, or no room.
func decodeWhole(p, b []byte) (n int) {
	b, ok := bytes.CutPrefix(b, []byte(snappyMagic))
	if !ok {
		return 0
	}
	for len(b) > 0 {
		if len(b) < chunkHeaderBytes+chunkChecksumBytes {
			return 0
		}
		kind, size := b[0], int(b[1])|int(b[2])<<8|int(b[3])<<16
		b = b[chunkHeaderBytes:]
		if size < chunkChecksumBytes || size > len(b) {
			return 0
		}
		m := decodeChunk(p[n:], kind, b[chunkChecksumBytes:size])
		if m < 0 || checksum(p[n:n+m]) != binary.LittleEndian.Uint32(b) {
			return 0
		}
		n += m
		b = b[size:]
	}
	return n
}

// decodeChunk decodes one chunk to the beginning of p; -1 if it cannot.
func decodeChunk(p []byte, kind byte, b []byte) int {
	switch kind {
	case chunkCompressed:
		n, err := s2.DecodedLen(b)
		if err != nil || n > min(len(p), maxChunkBytes) {
			return -1
		}
		if _, err := s2.Decode(p[:n:n], b); err != nil {
			return -1
		}
		return n
	case chunkUncompressed:
		if len(b) > min(len(p), maxChunkBytes) {
			return -1
		}
		return copy(p, b)
	}
	return -1
}

// checksum is the format's masked CRC.
func checksum(b []byte) uint32 {
	sum := crc32.Checksum(b, castagnoli)
	return (sum>>15 | sum<<17) + maskDelta
}
