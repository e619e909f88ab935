// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"encoding/binary"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"muster/peerrpc/peerrpcpb"
)

const (
	frameHeaderBytes = 2
	// maxFrameBytes is enough for an answer with two certificates.
	maxFrameBytes = 16 << 10
)

// writeFrame sends one message of muster-join/1: its length in two bytes,
// big-endian, then protobuf.
func writeFrame(w io.Writer, f *peerrpcpb.Frame) error {
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(make([]byte, frameHeaderBytes), f)
	if err != nil {
		return fmt.Errorf("encode a frame: %w", err)
	}
	if len(b)-frameHeaderBytes > maxFrameBytes {
		return fmt.Errorf("encode a frame: it has %d bytes, at most %d are sent", len(b)-frameHeaderBytes, maxFrameBytes)
	}
	binary.BigEndian.PutUint16(b, uint16(len(b)-frameHeaderBytes))
	_, err = w.Write(b)
	return err
}

// readFrame reads one message and no byte more.
func readFrame(r io.Reader) (*peerrpcpb.Frame, error) {
	var head [frameHeaderBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("read a frame: %w", err)
	}
	size := int(binary.BigEndian.Uint16(head[:]))
	if size > maxFrameBytes {
		return nil, fmt.Errorf("read a frame: it has %d bytes, at most %d are taken", size, maxFrameBytes)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read a frame: %w", err)
	}
	f := &peerrpcpb.Frame{}
	if err := proto.Unmarshal(b, f); err != nil {
		return nil, fmt.Errorf("read a frame: %w", err)
	}
	return f, nil
}
