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
	buf mem.Buffer
}

func (f *frame) bytes() []byte { return f.buf.ReadOnlyData() }

func (f *frame) free() {
	if f.buf != nil {
		f.buf.Free()
		f.buf = nil
	}
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
	buf := c.pool.fit(data)
	switch v := v.(type) {
	case *frame:
		v.free()
		v.buf = buf
		return nil
	case proto.Message:
		defer buf.Free()
		if err := proto.Unmarshal(buf.ReadOnlyData(), v); err != nil {
			return fmt.Errorf("unmarshal %T: %w", v, err)
		}
		return nil
	}
	buf.Free()
	return fmt.Errorf("unmarshal: %T is no message", v)
}
