// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// frame is one received message, decompressed and not unmarshalled. Whoever
// receives it calls free when nothing points into its bytes any more.
type frame struct {
	data []byte
	// One of these has the memory of data: a part of gRPC's, or our own.
	whole mem.Buffer
	copy  *[]byte
	pool  *buffers
}

func (f *frame) bytes() []byte { return f.data }

func (f *frame) free() {
	if f.whole != nil {
		f.whole.Free()
	}
	if f.copy != nil {
		f.pool.Put(f.copy)
	}
	*f = frame{}
}

// fill takes data over. It copies what would hold much more memory than it has
// bytes: a message may have to wait, and there is one for each agent then.
func (f *frame) fill(data mem.BufferSlice, pool *buffers) {
	f.free()
	whole := data.MaterializeToBuffer(pool)
	b := whole.ReadOnlyData()
	if len(b) > cap(b)/4 {
		f.data, f.whole = b, whole
		return
	}
	f.pool, f.copy = pool, pool.Get(len(b))
	f.data = (*f.copy)[:copy(*f.copy, b)]
	whole.Free()
}

// rawCodec hands over frames as they came and sends bytes as they are; any
// other type goes through protobuf. It is safe for concurrent use.
type rawCodec struct {
	pool *buffers
}

// Name is that of the encoding on the wire (content-type application/grpc+proto).
func (rawCodec) Name() string { return "proto" }

// Marshal takes an encoded message ([]byte) or a proto.Message.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	switch v := v.(type) {
	case []byte:
		return mem.BufferSlice{mem.SliceBuffer(v)}, nil
	case proto.Message:
		b, err := proto.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("marshal %T: %w", v, err)
		}
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return nil, fmt.Errorf("marshal: %T is no message", v)
}

// Unmarshal fills a *frame, which then holds a reference to the bytes, or a
// proto.Message.
func (c rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	switch v := v.(type) {
	case *frame:
		v.fill(data, c.pool)
		return nil
	case proto.Message:
		buf := data.MaterializeToBuffer(c.pool)
		defer buf.Free()
		if err := proto.Unmarshal(buf.ReadOnlyData(), v); err != nil {
			return fmt.Errorf("unmarshal %T: %w", v, err)
		}
		return nil
	}
	return fmt.Errorf("unmarshal: %T is no message", v)
}
