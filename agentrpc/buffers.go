// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

const (
	// readChunkBytes is what gRPC asks for, whatever a message's size, to
	// decompress into: it takes all that it is given, and goes on with another.
	readChunkBytes = 32 << 10
	// messageChunkBytes is what it is given: most messages fit into one, and need
	// not be put together from several.
	messageChunkBytes = 128 << 10

	minBufferBits = 10 // 1 KiB
	maxBufferBits = 24 // 16 MiB: more than a message
)

// buffers lends memory to gRPC, in powers of two. Unlike gRPC's own pool it does
// not clear what comes back: whoever takes a buffer reads only what it wrote.
type buffers struct {
	sizes [maxBufferBits - minBufferBits + 1]sync.Pool // of *[]byte
}

var _ mem.BufferPool = (*buffers)(nil)

// Get returns a buffer of n bytes with any content.
func (p *buffers) Get(n int) *[]byte {
	size := max(bits.Len(uint(max(n, 1)-1)), minBufferBits)
	if n == readChunkBytes {
		size = bits.Len(messageChunkBytes - 1)
	}
	if size > maxBufferBits {
		b := make([]byte, n)
		return &b
	}
	if b, ok := p.sizes[size-minBufferBits].Get().(*[]byte); ok {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, 1<<size)
	return &b
}

// Put takes a buffer back, if it is of a size that Get makes.
func (p *buffers) Put(b *[]byte) {
	size := bits.Len(uint(cap(*b)) - 1)
	if cap(*b) == 1<<size && size >= minBufferBits && size <= maxBufferBits {
		p.sizes[size-minBufferBits].Put(b)
	}
}
