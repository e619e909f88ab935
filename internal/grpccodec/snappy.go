// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package grpccodec

import (
	"io"
	"sync"

	"github.com/klauspost/compress/s2"
)

// maxSnappyBlockBytes bounds one decoded block. Snappy's format allows 64 KiB;
// an S2 writer with default options makes 1 MiB blocks, which are read as well.
const maxSnappyBlockBytes = 1 << 20

// snappyCompressor implements encoding.Compressor. It writes what any snappy
// reader of the framed format can read.
type snappyCompressor struct {
	writers sync.Pool // of *snappyWriter
	readers sync.Pool // of *snappyReader
}

func newSnappy() *snappyCompressor {
	c := &snappyCompressor{}
	c.writers.New = func() any {
		// Concurrency 1 starts no goroutines: a message is one or two blocks.
		return &snappyWriter{Writer: s2.NewWriter(nil, s2.WriterSnappyCompat(), s2.WriterConcurrency(1)), pool: &c.writers}
	}
	c.readers.New = func() any { return &snappyReader{pool: &c.readers} }
	return c
}

// Name is "snappy".
func (*snappyCompressor) Name() string { return Snappy }

// Compress returns a writer that goes back to the pool when it is closed.
func (c *snappyCompressor) Compress(w io.Writer) (io.WriteCloser, error) {
	z := c.writers.Get().(*snappyWriter)
	z.Reset(w)
	return z, nil
}

// Decompress returns a reader that goes back to the pool when it is closed,
// which gRPC does exactly once.
func (c *snappyCompressor) Decompress(r io.Reader) (io.Reader, error) {
	z := c.readers.Get().(*snappyReader)
	z.src, z.whole, z.ended = r, true, false
	return z, nil
}

type snappyWriter struct {
	*s2.Writer
	pool *sync.Pool
}

func (z *snappyWriter) Close() error {
	err := z.Writer.Close()
	z.Reset(nil) // the pool must not keep the message
	z.pool.Put(z)
	return err
}
