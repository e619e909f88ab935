// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package grpccodec_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc/encoding"
	"pgregory.net/rapid"

	"muster/internal/grpccodec"
)

func compressor(t testing.TB, name string) encoding.Compressor {
	t.Helper()
	grpccodec.Register()
	c := encoding.GetCompressor(name)
	if c == nil {
		t.Fatalf("compressor %q is not registered", name)
	}
	return c
}

func pack(t testing.TB, c encoding.Compressor, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := c.Compress(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// unpack reads as gRPC does: at most limit+1 bytes, then one Close.
func unpack(c encoding.Compressor, data []byte, limit int64) ([]byte, error) {
	r, err := c.Decompress(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if closer, ok := r.(io.Closer); ok {
		defer closer.Close()
	}
	return io.ReadAll(io.LimitReader(r, limit+1))
}

func packed() []string { return []string{grpccodec.Snappy, grpccodec.Gzip, grpccodec.Zstd} }

func TestNames(t *testing.T) {
	for _, name := range grpccodec.Names() {
		if !grpccodec.Known(name) {
			t.Errorf("Known(%q) = false", name)
		}
		if name != grpccodec.None && compressor(t, name).Name() != name {
			t.Errorf("compressor %q has another name", name)
		}
	}
	if grpccodec.Known("lz4") {
		t.Error(`Known("lz4") = true`)
	}
}

func TestRoundTrip(t *testing.T) {
	for _, name := range packed() {
		t.Run(name, func(t *testing.T) {
			c := compressor(t, name)
			rapid.Check(t, func(rt *rapid.T) {
				seed := rapid.Uint64().Draw(rt, "seed")
				size := rapid.IntRange(0, 150_000).Draw(rt, "size")
				alphabet := rapid.IntRange(1, 256).Draw(rt, "alphabet")
				rng := rand.New(rand.NewPCG(seed, 1))
				data := make([]byte, size)
				for i := range data {
					data[i] = byte(rng.Uint32() % uint32(alphabet))
				}
				got, err := unpack(c, pack(t, c, data), 10<<20)
				if err != nil || !bytes.Equal(got, data) {
					rt.Fatalf("round trip of %d bytes: got %d bytes, %v", size, len(got), err)
				}
			})
		})
	}
}

// TestSnappyIsTheStockFormat checks the frame header, the chunk types (0x00 and
// 0x01 alone) and the 64 KiB limit of a chunk, as a stock reader wants them.
func TestSnappyIsTheStockFormat(t *testing.T) {
	data := bytes.Repeat([]byte("a process started another one; "), 20_000)
	out := pack(t, compressor(t, grpccodec.Snappy), data)
	magic := []byte("\xff\x06\x00\x00sNaPpY")
	if !bytes.HasPrefix(out, magic) {
		t.Fatalf("stream begins with %q", out[:10])
	}
	for rest := out[len(magic):]; len(rest) > 0; {
		kind, size := rest[0], int(rest[1])|int(rest[2])<<8|int(rest[3])<<16
		body := rest[4 : 4+size]
		rest = rest[4+size:]
		if kind > 1 {
			t.Fatalf("chunk of type %#x", kind)
		}
		decoded := size - 4
		if kind == 0 {
			n, err := s2.DecodedLen(body[4:])
			if err != nil {
				t.Fatal(err)
			}
			decoded = n
		}
		if decoded > 64<<10 {
			t.Fatalf("chunk of %d bytes, at most 65536 are allowed", decoded)
		}
	}
}

func TestBombsStopAtTheLimit(t *testing.T) {
	const limit = 10 << 20
	zeros := make([]byte, 24<<20)
	for _, name := range packed() {
		t.Run(name, func(t *testing.T) {
			c := compressor(t, name)
			got, err := unpack(c, pack(t, c, zeros), limit)
			if err != nil || len(got) != limit+1 {
				t.Fatalf("read %d bytes, %v; want the reader to go on to %d", len(got), err, limit+1)
			}
			// An abandoned reader goes back to the pool: it must work again.
			again, err := unpack(c, pack(t, c, []byte("next")), limit)
			if err != nil || string(again) != "next" {
				t.Fatalf("after a bomb: %q, %v", again, err)
			}
		})
	}
}

func TestReadersRefuseLargeWindows(t *testing.T) {
	var big bytes.Buffer
	w, err := zstd.NewWriter(&big, zstd.WithWindowSize(64<<20))
	if err != nil {
		t.Fatal(err)
	}
	// Larger than one buffer, so the frame cannot be a single segment.
	for range 9 {
		if _, err := w.Write(make([]byte, 8<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(compressor(t, grpccodec.Zstd), big.Bytes(), 10<<20); !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Errorf("zstd window of 64 MiB: %v, want %v", err, zstd.ErrWindowSizeExceeded)
	}
	var blocks bytes.Buffer
	sw := s2.NewWriter(&blocks, s2.WriterBlockSize(4<<20), s2.WriterConcurrency(1))
	if _, err := sw.Write(make([]byte, 8<<20)); err != nil {
		t.Fatal(err)
	}
	if err := sw.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(compressor(t, grpccodec.Snappy), blocks.Bytes(), 10<<20); err == nil {
		t.Error("a block of 4 MiB was read")
	}
}

func TestDamageIsAnErrorAndLeavesThePoolGood(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	for _, name := range packed() {
		t.Run(name, func(t *testing.T) {
			c := compressor(t, name)
			good := pack(t, c, data)
			if _, err := unpack(c, good[:len(good)-5], 10<<20); err == nil {
				t.Error("a cut message was read without an error")
			}
			if _, err := unpack(c, []byte("this is not compressed"), 10<<20); err == nil {
				t.Error("plain text was read without an error")
			}
			if got, err := unpack(c, good, 10<<20); err != nil || !bytes.Equal(got, data) {
				t.Errorf("after damage: %d bytes, %v", len(got), err)
			}
		})
	}
}

func TestConcurrentUse(t *testing.T) {
	for _, name := range packed() {
		t.Run(name, func(t *testing.T) {
			c := compressor(t, name)
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					data := bytes.Repeat([]byte{byte(i)}, 1000*(i+1))
					for range 50 {
						got, err := unpack(c, pack(t, c, data), 10<<20)
						if err != nil || !bytes.Equal(got, data) {
							t.Errorf("goroutine %d: %d bytes, %v", i, len(got), err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestPoolsOutliveABubble guards against pooling anything that holds a channel:
// what one bubble put back would end the process of the next one.
func TestPoolsOutliveABubble(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 100_000)
	for _, name := range packed() {
		t.Run(name, func(t *testing.T) {
			c := compressor(t, name)
			use := func(t *testing.T) {
				for range 5 {
					got, err := unpack(c, pack(t, c, data), 1<<20)
					if err != nil || !bytes.Equal(got, data) {
						t.Fatalf("%d bytes, %v", len(got), err)
					}
				}
			}
			for range 3 {
				synctest.Test(t, use)
			}
			use(t)
		})
	}
}

func BenchmarkDecompress(b *testing.B) {
	for _, name := range packed() {
		b.Run(name, func(b *testing.B) {
			c := compressor(b, name)
			in := pack(b, c, bytes.Repeat([]byte("hello, this is one record of some; "), 600))
			b.ReportAllocs()
			b.SetBytes(35 * 600)
			for b.Loop() {
				if _, err := unpack(c, in, 10<<20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func FuzzDecompress(f *testing.F) {
	for _, name := range packed() {
		f.Add(name, pack(f, compressor(f, name), []byte("one record")))
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		if name == grpccodec.None || !grpccodec.Known(name) {
			t.Skip("no name of a compressor")
		}
		c := compressor(t, name)
		out, err := unpack(c, data, 1<<20)
		if err != nil || len(out) > 1<<20 {
			return
		}
		if back, err := unpack(c, pack(t, c, out), 1<<20); err != nil || !bytes.Equal(back, out) {
			t.Fatalf("%s: what was read does not survive a round trip: %v", name, err)
		}
	})
}
