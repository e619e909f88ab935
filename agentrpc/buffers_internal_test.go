// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
)

func TestBuffers(t *testing.T) {
	p := new(buffers)
	for _, c := range []struct{ n, capacity int }{
		{0, 1 << 10},
		{1, 1 << 10},
		{1 << 10, 1 << 10},
		{1<<10 + 1, 2 << 10},
		{readChunkBytes - 1, readChunkBytes},
		{readChunkBytes, messageChunkBytes},
		{readChunkBytes + 1, 2 * readChunkBytes},
		{maxMessageBytes, 16 << 20},
		{16<<20 + 1, 16<<20 + 1},
	} {
		b := p.Get(c.n)
		if len(*b) != c.n || cap(*b) < c.capacity || (c.n <= 16<<20 && cap(*b) != c.capacity) {
			t.Errorf("Get(%d) has %d bytes of %d, want room for %d", c.n, len(*b), cap(*b), c.capacity)
		}
		p.Put(b)
	}
	odd := make([]byte, 3000)
	p.Put(&odd)
	for range 10 {
		if b := p.Get(3000); cap(*b) != 4096 {
			t.Fatalf("a buffer of %d bytes was taken back", cap(*b))
		}
	}
}

// What waits for the record log must not be much larger than its message.
func TestMessagesFit(t *testing.T) {
	p := new(buffers)
	for _, n := range []int{0, 1, 600, 40 << 10, messageChunkBytes, messageChunkBytes + 1, 1 << 20} {
		want := bytes.Repeat([]byte{7}, n)
		got, err := mem.ReadAll(bytes.NewBuffer(want), p) // a bytes.Buffer writes in one piece
		if err != nil {
			t.Fatal(err)
		}
		chunks, err := mem.ReadAll(struct{ *bytes.Reader }{bytes.NewReader(want)}, p)
		if err != nil {
			t.Fatal(err)
		}
		for _, data := range []mem.BufferSlice{got, chunks} {
			var f frame
			f.fill(data, p)
			data.Free()
			b := f.bytes()
			if !bytes.Equal(b, want) {
				t.Errorf("%d bytes became %d", n, len(b))
			}
			if cap(b) > max(4*n, 1<<minBufferBits) {
				t.Errorf("a message of %d bytes holds %d", n, cap(b))
			}
			f.free()
		}
	}
}
