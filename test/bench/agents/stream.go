// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Frame types and flags of HTTP/2 (RFC 9113).
const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePing         = 6
	frameGoAway       = 7
	frameWindowUpdate = 8

	flagEndStream  = 1 // also: acknowledgement
	flagEndHeaders = 4

	headerBytes       = 9
	maxFrameBytes     = 16 << 10
	defaultWindow     = 65535
	settingWindow     = 4
	receiveWindow     = 1 << 20
	streamID          = 1
	connectTimeout    = 60 * time.Second
	clientPreface     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	flushAtBytes      = maxFrameBytes - 64 // a TLS record
	readBufferBytes   = 1 << 10
	maxReceivedFrames = 1 << 20
)

// stream is a connection with one gRPC stream, of which this is the client's
// end. One goroutine sends, another one receives.
type stream struct {
	conn *tls.Conn
	read *bufio.Reader
	out  []byte // frames that are not written yet; the sender's own

	mu         sync.Mutex
	changed    sync.Cond
	connWindow int
	window     int
	initial    int   // the server's SETTINGS_INITIAL_WINDOW_SIZE
	ended      error // why nothing more can be sent
}

// open connects, waits for the server's settings as gRPC does, and starts the
// stream. receive must be run after it.
func open(ctx context.Context, dialer *net.Dialer, addr string, config *tls.Config) (*stream, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	raw, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	s := &stream{conn: conn, read: bufio.NewReaderSize(conn, readBufferBytes), connWindow: defaultWindow, window: defaultWindow, initial: defaultWindow}
	s.changed.L = &s.mu
	if err := s.greet(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return s, nil
}

func (s *stream) greet(ctx context.Context) error {
	if err := s.conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	deadline, _ := ctx.Deadline()
	if err := s.conn.SetReadDeadline(deadline); err != nil {
		return fmt.Errorf("set a deadline: %w", err)
	}
	hello := append([]byte(clientPreface), frameHeader(6, frameSettings, 0, 0)...)
	hello = binary.BigEndian.AppendUint16(hello, settingWindow)
	hello = binary.BigEndian.AppendUint32(hello, receiveWindow)
	hello = append(hello, windowUpdate(0, receiveWindow)...)
	if _, err := s.conn.Write(hello); err != nil {
		return fmt.Errorf("send preface: %w", err)
	}
	f, err := s.next()
	if err != nil {
		return fmt.Errorf("await settings: %w", err)
	}
	if f.kind != frameSettings {
		return fmt.Errorf("the server began with frame type %d", f.kind)
	}
	if err := s.handle(f, nil); err != nil {
		return err
	}
	block := requestHeaders()
	if _, err := s.conn.Write(append(frameHeader(len(block), frameHeaders, flagEndHeaders, streamID), block...)); err != nil {
		return fmt.Errorf("open stream: %w", err)
	}
	return s.conn.SetReadDeadline(time.Time{})
}

// requestHeaders are literals that HPACK does not index.
func requestHeaders() []byte {
	var b []byte
	for _, h := range [][2]string{
		{":method", "POST"},
		{":scheme", "https"},
		{":path", "/grpc.Transfer/Transfer"},
		{":authority", "elkeid.com"},
		{"content-type", "application/grpc"},
		{"user-agent", "grpc-go/1.60.1"},
		{"te", "trailers"},
		{"grpc-encoding", "snappy"},
		{"grpc-accept-encoding", "snappy"},
	} {
		b = append(b, 0, byte(len(h[0])))
		b = append(b, h[0]...)
		b = append(b, byte(len(h[1])))
		b = append(b, h[1]...)
	}
	return b
}

// send adds a message to what is to be written, as far as the server's windows
// allow; it waits for them.
func (s *stream) send(message []byte) error {
	for len(message) > 0 {
		n, err := s.reserve(min(len(message), maxFrameBytes))
		if err != nil {
			return err
		}
		s.out = append(s.out, frameHeader(n, frameData, 0, streamID)...)
		s.out = append(s.out, message[:n]...)
		message = message[n:]
		if len(s.out) >= flushAtBytes {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// reserve takes up to n bytes out of both windows.
func (s *stream) reserve(n int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.ended == nil && min(s.window, s.connWindow) <= 0 {
		if len(s.out) > 0 {
			s.mu.Unlock()
			err := s.flush()
			s.mu.Lock()
			if err != nil {
				return 0, err
			}
			continue
		}
		s.changed.Wait()
	}
	if s.ended != nil {
		return 0, s.ended
	}
	n = min(n, s.window, s.connWindow)
	s.window -= n
	s.connWindow -= n
	return n, nil
}

// flush writes what send has gathered.
func (s *stream) flush() error {
	if len(s.out) == 0 {
		return nil
	}
	_, err := s.conn.Write(s.out)
	s.out = s.out[:0]
	if cap(s.out) > 2*maxFrameBytes {
		s.out = nil
	}
	return err
}

// closeSend ends the client's side of the stream.
func (s *stream) closeSend() error {
	s.out = append(s.out, frameHeader(0, frameData, flagEndStream, streamID)...)
	return s.flush()
}

// fail makes send return an error from now on.
func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = err
	}
	s.changed.Broadcast()
}

// why is what ended the stream.
func (s *stream) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

var errStreamEnded = errors.New("the server has ended the stream")

// receive reads until the stream or the connection ends. message is given what
// the stream carries, in pieces as they come.
func (s *stream) receive(message func([]byte)) error {
	for {
		f, err := s.next()
		if err == nil {
			err = s.handle(f, message)
		}
		if err != nil {
			s.fail(err)
			return err
		}
	}
}

type frame struct {
	kind, flags byte
	stream      uint32
	body        []byte
}

func (s *stream) next() (frame, error) {
	var h [headerBytes]byte
	if _, err := io.ReadFull(s.read, h[:]); err != nil {
		return frame{}, err
	}
	size := int(h[0])<<16 | int(h[1])<<8 | int(h[2])
	if size > maxReceivedFrames {
		return frame{}, fmt.Errorf("a frame of %d bytes", size)
	}
	f := frame{kind: h[3], flags: h[4], stream: binary.BigEndian.Uint32(h[5:]) &^ (1 << 31), body: make([]byte, size)}
	_, err := io.ReadFull(s.read, f.body)
	return f, err
}

func (s *stream) handle(f frame, message func([]byte)) error {
	switch f.kind {
	case frameSettings:
		return s.settings(f)
	case framePing:
		if f.flags&flagEndStream != 0 {
			return nil
		}
		_, err := s.conn.Write(append(frameHeader(len(f.body), framePing, flagEndStream, 0), f.body...))
		return err
	case frameWindowUpdate:
		if len(f.body) != 4 {
			return errors.New("a malformed window update")
		}
		s.widen(f.stream, int(binary.BigEndian.Uint32(f.body)))
	case frameData:
		if message != nil {
			message(f.body)
		}
		if len(f.body) == 0 {
			return nil
		}
		n := uint32(len(f.body)) //nolint:gosec // at most 16 KiB
		_, err := s.conn.Write(append(windowUpdate(0, n), windowUpdate(streamID, n)...))
		return err
	case frameHeaders:
		if f.flags&flagEndStream != 0 {
			return fmt.Errorf("%w by a status", errStreamEnded)
		}
	case frameReset, frameGoAway: // both have a code; a reason stands after that of GOAWAY
		return fmt.Errorf("%w: frame type %d: %q", errStreamEnded, f.kind, f.body)
	}
	return nil
}

func (s *stream) settings(f frame) error {
	if f.flags&flagEndStream != 0 {
		return nil
	}
	for b := f.body; len(b) >= 6; b = b[6:] {
		if binary.BigEndian.Uint16(b) == settingWindow {
			now := int(binary.BigEndian.Uint32(b[2:]))
			s.widen(streamID, now-s.initial)
			s.initial = now
		}
	}
	_, err := s.conn.Write(frameHeader(0, frameSettings, flagEndStream, 0))
	return err
}

func (s *stream) widen(id uint32, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id == 0 {
		s.connWindow += by
	} else {
		s.window += by
	}
	s.changed.Broadcast()
}

func frameHeader(size int, kind, flags byte, id uint32) []byte {
	h := make([]byte, headerBytes, headerBytes+size)
	h[0], h[1], h[2], h[3], h[4] = byte(size>>16), byte(size>>8), byte(size), kind, flags
	binary.BigEndian.PutUint32(h[5:], id)
	return h
}

func windowUpdate(id, by uint32) []byte {
	return binary.BigEndian.AppendUint32(frameHeader(4, frameWindowUpdate, 0, id), by)
}
