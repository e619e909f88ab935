// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package grpccodec_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/s2"
	"google.golang.org/grpc/mem"

	"muster/internal/grpccodec"
)

// received is a message as gRPC gives it to a compressor, in frames of that size.
func received(data []byte, frame int) mem.BufferSlice {
	var all mem.BufferSlice
	for len(data) > 0 {
		n := min(frame, len(data))
		all = append(all, mem.SliceBuffer(data[:n]))
		data = data[n:]
	}
	return all
}

// checkSnappy wants the bytes and the error of the library's reader, whatever
// the frames and the reads are.
func checkSnappy(t *testing.T, data []byte, frame, read int) {
	t.Helper()
	const limit = 512 << 10
	library := s2.NewReader(bytes.NewReader(data), s2.ReaderMaxBlockSize(1<<20), s2.ReaderAllocBlock(64<<10))
	want, wantErr := io.ReadAll(io.LimitReader(library, limit))
	slice := received(data, frame)
	src := slice.Reader()
	z, err := compressor(t, grpccodec.Snappy).Decompress(src)
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	buf := make([]byte, read)
	for len(got) < limit && err == nil {
		var n int
		n, err = z.Read(buf[:min(len(buf), limit-len(got))])
		got = append(got, buf[:n]...)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if !errors.Is(err, wantErr) || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes and %v, the library: %d bytes and %v", len(got), err, len(want), wantErr)
	}
	if err == nil && len(got) < limit && src.Remaining() > 0 {
		t.Fatalf("%d bytes are left", src.Remaining())
	}
	if err := z.(io.Closer).Close(); err != nil {
		t.Fatal(err)
	}
}

// oddSnappy are streams that are not what agents send, and some that are.
func oddSnappy(t testing.TB) map[string][]byte {
	stock := func(data []byte) []byte {
		var out bytes.Buffer
		w := s2.NewWriter(&out, s2.WriterSnappyCompat(), s2.WriterConcurrency(1))
		_, _ = w.Write(data)
		_ = w.Close()
		return out.Bytes()
	}
	text := bytes.Repeat([]byte("a process started another one; "), 30)
	large := bytes.Repeat(text, 200)
	good := stock(text)
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	var s2Frame bytes.Buffer
	w := s2.NewWriter(&s2Frame, s2.WriterConcurrency(1))
	_, _ = w.Write(large)
	_ = w.Close()
	return map[string][]byte{
		"nothing":            nil,
		"empty":              stock([]byte{}),
		"magic alone":        good[:10],
		"text":               good,
		"ours":               pack(t, compressor(t, grpccodec.Snappy), text),
		"random":             stock([]byte("\x00\x91\x17\xf3\x82\x05\xee")),
		"several chunks":     stock(large),
		"two streams":        append(bytes.Clone(good), good...),
		"padding":            append(bytes.Clone(good), 0xfe, 2, 0, 0, 1, 2),
		"padding first":      append([]byte("\xff\x06\x00\x00sNaPpY\xfe\x01\x00\x00x"), good[10:]...),
		"skippable":          append(bytes.Clone(good), 0x80, 1, 0, 0, 7),
		"reserved":           append(bytes.Clone(good), 0x02, 1, 0, 0, 7),
		"an empty chunk":     append(bytes.Clone(good), 1, 4, 0, 0, 0xd8, 0xea, 0x82, 0xa2),
		"chunk too short":    append(bytes.Clone(good), 0, 3, 0, 0, 1, 2, 3),
		"cut off":            good[:len(good)-3],
		"cut in a header":    append(bytes.Clone(good), 0, 3),
		"wrong checksum":     change(14, good[14]^1),
		"wrong length":       change(11, good[11]-1),
		"wrong decoded size": change(18, good[18]^1),
		"wrong magic":        change(5, 'S'),
		"wrong data":         change(len(good)-1, 0xff),
		"no magic":           good[10:],
		"s2":                 s2Frame.Bytes(),
		"s2 chunks":          append(bytes.Clone(good[:10]), s2Frame.Bytes()[10:]...),
	}
}

func TestSnappyReadsAsTheLibraryDoes(t *testing.T) {
	for name, data := range oddSnappy(t) {
		t.Run(name, func(t *testing.T) {
			for _, frame := range []int{1, 7, 1000, 1 << 20} {
				for _, read := range []int{1, 50, 929, 930, 4096, 128 << 10, 1 << 20} {
					checkSnappy(t, data, frame, read)
				}
			}
		})
	}
}

func FuzzSnappy(f *testing.F) {
	for _, data := range oddSnappy(f) {
		f.Add(data, uint16(16<<10), uint32(128<<10))
	}
	f.Fuzz(func(t *testing.T, data []byte, frame uint16, read uint32) {
		checkSnappy(t, data, max(1, int(frame)), max(1, int(read%(1<<20))))
	})
}

// BenchmarkSmallSnappy decompresses a message of one record as gRPC does.
func BenchmarkSmallSnappy(b *testing.B) {
	c := compressor(b, grpccodec.Snappy)
	rng := rand.New(rand.NewPCG(1, 2))
	var text []byte
	for len(text) < 700 { // like the names, paths and numbers of an event
		text = fmt.Appendf(text, "key_%d\x12/usr/bin/%x", rng.IntN(100), rng.Uint64())
	}
	slice := received(pack(b, c, text), 1<<10)
	pool := mem.DefaultBufferPool()
	b.ReportAllocs()
	for b.Loop() {
		r, err := c.Decompress(slice.Reader())
		if err != nil {
			b.Fatal(err)
		}
		buf := pool.Get(1 << 10)
		if n, err := io.ReadFull(io.LimitReader(r, 1001), *buf); n != len(text) || !errors.Is(err, io.ErrUnexpectedEOF) {
			b.Fatal(n, err)
		}
		pool.Put(buf)
		_ = r.(io.Closer).Close()
	}
}
