// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package grpccodec

import (
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxZstdWindowBytes bounds the history that a frame may ask its reader to
	// keep: above what common encoders use for messages of 10 MiB, far below
	// the format's 128 MiB and more.
	maxZstdWindowBytes = 16 << 20
	// zstdWriterWindowBytes is enough for the messages that agents send.
	zstdWriterWindowBytes = 1 << 20
)

// zstdCompressor implements encoding.Compressor.
type zstdCompressor struct {
	writers sync.Pool // of *zstdWriter
}

func newZstd() *zstdCompressor { return &zstdCompressor{} }

// Name is "zstd".
func (*zstdCompressor) Name() string { return Zstd }

// Compress returns a writer that goes back to the pool when it is closed.
func (c *zstdCompressor) Compress(w io.Writer) (io.WriteCloser, error) {
	if z, ok := c.writers.Get().(*zstdWriter); ok {
		z.Reset(w)
		return z, nil
	}
	// Concurrency 1 works in the caller's goroutine and starts none.
	enc, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(zstdWriterWindowBytes), zstd.WithLowerEncoderMem(true), zstd.WithZeroFrames(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd writer: %w", err)
	}
	return &zstdWriter{Encoder: enc, pool: &c.writers}, nil
}

// Decompress returns a reader that is freed when it is closed, which gRPC does
// exactly once. It comes from no pool: a decoder is made around a channel, and
// one that was made inside a testing/synctest bubble ends the process when it is
// used outside. Making one costs some 90 KB and 50 µs; stock
// agents send snappy.
func (c *zstdCompressor) Decompress(r io.Reader) (io.Reader, error) {
	// Concurrency 1 works in the caller's goroutine and starts none.
	dec, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxZstdWindowBytes))
	if err != nil {
		return nil, fmt.Errorf("make zstd reader: %w", err)
	}
	return dec.IOReadCloser(), nil
}

type zstdWriter struct {
	*zstd.Encoder
	pool *sync.Pool
}

func (z *zstdWriter) Close() error {
	err := z.Encoder.Close()
	z.Reset(nil) // the pool must not keep the message
	z.pool.Put(z)
	return err
}
