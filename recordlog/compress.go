// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// compressor appends the compressed form of src to dst. It belongs to one
// partition's sender.
type compressor struct {
	codec  int16 // Kafka's number of it; 0 is none and has no encode
	encode func(dst, src []byte) ([]byte, error)
}

// newCompressor makes the compressor of a name.
func newCompressor(name Compression) (compressor, error) {
	switch name {
	case CompressionNone:
		return compressor{}, nil
	case CompressionSnappy:
		// One raw block: every Kafka client reads it, as Sarama has always written it.
		return compressor{codec: 2, encode: func(dst, src []byte) ([]byte, error) {
			dst = slices.Grow(dst, s2.MaxEncodedLen(len(src)))
			block := s2.EncodeSnappy(dst[len(dst):cap(dst)], src)
			return dst[:len(dst)+len(block)], nil
		}}, nil
	case CompressionLZ4:
		return newLZ4()
	case CompressionZstd:
		w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
		if err != nil {
			return compressor{}, fmt.Errorf("preparing zstd: %w", err)
		}
		return compressor{codec: 4, encode: func(dst, src []byte) ([]byte, error) {
			return w.EncodeAll(src, dst), nil
		}}, nil
	default:
		return compressor{}, fmt.Errorf("%q is none of none, snappy, lz4 and zstd", name)
	}
}

func newLZ4() (compressor, error) {
	w := lz4.NewWriter(nil)
	// The batch has a checksum of its own.
	err := w.Apply(lz4.BlockSizeOption(lz4.Block256Kb), lz4.ChecksumOption(false), lz4.ConcurrencyOption(1))
	if err != nil {
		return compressor{}, fmt.Errorf("preparing lz4: %w", err)
	}
	return compressor{codec: 3, encode: func(dst, src []byte) ([]byte, error) {
		out := bytes.NewBuffer(dst)
		w.Reset(out)
		if _, err := w.Write(src); err != nil {
			return nil, fmt.Errorf("compressing with lz4: %w", err)
		}
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("compressing with lz4: %w", err)
		}
		return out.Bytes(), nil
	}}, nil
}

// wireOf returns b as it goes to the broker, unstamped. It is b's own memory if
// nothing is gained by compression, else scratch's, which is returned for reuse.
func (c compressor) wireOf(b *batch, scratch []byte) (wire, keep []byte) {
	if c.encode == nil {
		b.frame(b.buf, 0)
		return b.buf, scratch
	}
	scratch = slices.Grow(scratch[:0], recordsAt)[:recordsAt]
	packed, err := c.encode(scratch, b.buf[recordsAt:])
	if err != nil || len(packed) >= len(b.buf) {
		b.frame(b.buf, 0)
		return b.buf, scratch
	}
	b.frame(packed, c.codec)
	return packed, packed
}

// maxUnpacked bounds what a batch may become when it is decompressed.
const maxUnpacked = maxEntryBytes

// decompress undoes what the compressor of the codec did. It is used rarely: for
// batches from disk that have to be taken apart.
func decompress(codec int16, src []byte) ([]byte, error) {
	switch codec {
	case 0:
		return src, nil
	case 2:
		n, err := s2.DecodedLen(src)
		if err != nil || n > maxUnpacked {
			return nil, fmt.Errorf("snappy block of %d bytes: %w", n, errors.Join(err))
		}
		return s2.Decode(nil, src)
	case 3:
		return readBounded(lz4.NewReader(bytes.NewReader(src)))
	case 4:
		r, err := zstd.NewReader(bytes.NewReader(src), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxUnpacked))
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return readBounded(r)
	default:
		return nil, fmt.Errorf("codec %d is not known", codec)
	}
}

func readBounded(r io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxUnpacked+1))
	if err == nil && len(raw) > maxUnpacked {
		err = fmt.Errorf("it unpacks to more than %d bytes", maxUnpacked)
	}
	return raw, err
}
