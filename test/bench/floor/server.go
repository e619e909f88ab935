// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package floor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/s2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// Options say where agents come in and records go out.
type Options struct {
	Listener net.Listener
	TLS      *tls.Config
	Broker   string
	// Spoken counts the streams whose first message has come.
	Spoken *atomic.Int64
}

// Stats are what a running floor tells.
type Stats struct {
	Spoken int64 // streams whose first message has come
}

// Run serves until ctx ends or a batch is not taken.
func Run(ctx context.Context, opts Options) error {
	encoding.RegisterCompressor(newUnpacker())
	sink, err := newSink(opts.Broker)
	if err != nil {
		return err
	}
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(opts.TLS)),
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(10<<20),
		grpc.ReadBufferSize(4<<10), // the write buffer is shared by default
	)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "grpc.Transfer",
		Streams: []grpc.StreamDesc{{
			StreamName: "Transfer", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error { return sink.receive(stream, opts.Spoken) },
		}},
	}, nil)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(opts.Listener) })
	err = sink.run(ctx)
	server.Stop()
	serving.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// receive is the handler of a stream.
func (s *sink) receive(stream grpc.ServerStream, spoken *atomic.Int64) error {
	var f frame
	var m message
	for first := true; ; first = false {
		if err := stream.RecvMsg(&f); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		now := time.Now()
		if err := m.parse(f.buf.ReadOnlyData(), now.Unix()); err != nil {
			return err
		}
		s.parts[partitionOf(m.agent, partitions)].put(now.UnixMilli(), &m)
		f.buf.Free()
		if first {
			spoken.Add(1)
		}
	}
}

// frame is a decompressed message.
type frame struct{ buf mem.Buffer }

// codec hands over frames.
type codec struct{}

// Name is that of protobuf on the wire.
func (codec) Name() string { return "proto" }

// Marshal is not needed: nothing is sent.
func (codec) Marshal(any) (mem.BufferSlice, error) { return nil, errors.New("nothing is sent") }

// Unmarshal fills a *frame.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("unmarshal into %T", v)
	}
	f.buf = data.MaterializeToBuffer(mem.DefaultBufferPool())
	return nil
}

// unpacker is snappy, for reading.
type unpacker struct{ readers sync.Pool }

func newUnpacker() *unpacker {
	u := &unpacker{}
	u.readers.New = func() any { return &reader{Reader: s2.NewReader(nil), pool: &u.readers} }
	return u
}

// Name is what agents ask for.
func (*unpacker) Name() string { return "snappy" }

// Compress is not needed.
func (*unpacker) Compress(io.Writer) (io.WriteCloser, error) {
	return nil, errors.New("nothing is sent")
}

// Decompress returns a reader that goes back to the pool at its end.
func (u *unpacker) Decompress(r io.Reader) (io.Reader, error) {
	z, _ := u.readers.Get().(*reader)
	z.Reset(r)
	return z, nil
}

type reader struct {
	*s2.Reader
	pool *sync.Pool
}

// Close gives the reader back; gRPC calls it once.
func (r *reader) Close() error {
	r.Reset(nil)
	r.pool.Put(r)
	return nil
}
