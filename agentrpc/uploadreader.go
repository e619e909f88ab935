// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"muster/fleet"
	"muster/internal/agentpb"
)

var errOtherToken = fmt.Errorf("a later chunk has another token than the first: %w", fleet.ErrConflict)

// uploadChunk is one message of an upload, or the end of them.
type uploadChunk struct {
	req *agentpb.UploadRequest
	err error
}

// receiveChunks hands over messages until there are no more or gone is closed.
func receiveChunks(stream grpc.ServerStream, chunks chan<- uploadChunk, gone <-chan struct{}) {
	for {
		req := new(agentpb.UploadRequest)
		err := stream.RecvMsg(req)
		select {
		case chunks <- uploadChunk{req: req, err: err}:
		case <-gone:
			return
		}
		if err != nil {
			return
		}
	}
}

// uploadReader gives the bytes of an upload as an io.Reader. No read outlasts
// uploadIdle.
type uploadReader struct {
	chunks <-chan uploadChunk
	drain  <-chan struct{}
	ctx    context.Context //nolint:containedctx // the stream's, for the length of one upload
	until  time.Time
	token  string // of the first chunk
	rest   []byte
	name   string // under which it was stored
}

// chunk waits for the next message.
func (r *uploadReader) chunk() (*agentpb.UploadRequest, error) {
	timer := time.NewTimer(min(uploadIdle, time.Until(r.until)))
	defer timer.Stop()
	select {
	case c := <-r.chunks:
		switch {
		case errors.Is(c.err, io.EOF):
			return nil, io.EOF
		case c.err != nil && r.ctx.Err() != nil:
			return nil, r.ctx.Err()
		case c.err != nil:
			return nil, fmt.Errorf("receive chunk: %w", c.err)
		}
		return c.req, nil
	case <-timer.C:
		return nil, fmt.Errorf("receive chunk: %w", fleet.ErrTimeout)
	case <-r.drain:
		return nil, fmt.Errorf("receive chunk: %w", fleet.ErrUnavailable)
	}
}

// Read returns io.EOF when the agent has ended its side of the stream. A chunk
// with another token belongs to another file; one without goes with the first.
func (r *uploadReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		req, err := r.chunk()
		if err != nil {
			return 0, err
		}
		if token := req.GetToken(); token != "" && token != r.token {
			return 0, errOtherToken
		}
		r.rest = req.GetData()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
