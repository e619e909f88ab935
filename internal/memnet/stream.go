// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// BufferBytes is how much one direction of a stream holds before its writer
// waits for the reader.
const BufferBytes = 64 << 10

// stream is one direction of a connection.
type stream struct {
	mu          sync.Mutex
	cond        *sync.Cond
	buf         bytes.Buffer
	blocked     bool // the link is silenced: the reader sees nothing of what follows
	writing     bool // one Write at a time, so that two do not mix their bytes
	writeClosed bool
	readClosed  bool
	wasReset    bool
	readBy      deadline
	writeBy     deadline
}

func newStream() *stream {
	s := &stream{}
	s.cond = sync.NewCond(&s.mu)
	return s
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.readClosed:
			return 0, net.ErrClosed
		case s.readBy.passed:
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case s.blocked:
		case s.wasReset:
			return 0, syscall.ECONNRESET
		case s.buf.Len() > 0:
			n, _ := s.buf.Read(p)
			s.cond.Broadcast()
			return n, nil
		case s.writeClosed:
			return 0, io.EOF
		}
		s.cond.Wait()
	}
}

func (s *stream) write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	written, mine := 0, false
	defer func() {
		if mine {
			s.writing = false
			s.cond.Broadcast()
		}
	}()
	for {
		switch {
		case s.writeClosed:
			return written, net.ErrClosed
		case s.writeBy.passed:
			return written, os.ErrDeadlineExceeded
		case s.readClosed && !s.blocked:
			return written, syscall.EPIPE
		case s.writing && !mine:
			s.cond.Wait()
			continue
		}
		s.writing, mine = true, true
		if room := BufferBytes - s.buf.Len(); room > 0 {
			part := p[written:min(len(p), written+room)]
			s.buf.Write(part)
			written += len(part)
			s.cond.Broadcast()
		}
		if written == len(p) {
			return written, nil
		}
		s.cond.Wait()
	}
}

func (s *stream) closeWrite() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeClosed = true
	s.writeBy.stop()
	s.cond.Broadcast()
}

func (s *stream) closeRead() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readClosed = true
	s.readBy.stop()
	s.cond.Broadcast()
}

func (s *stream) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wasReset = true
	s.cond.Broadcast()
}

func (s *stream) setBlocked(blocked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blocked = blocked
	s.cond.Broadcast()
}

func (s *stream) setReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readClosed {
		return net.ErrClosed
	}
	s.readBy.set(t, s.cond)
	return nil
}

func (s *stream) setWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writeClosed {
		return net.ErrClosed
	}
	s.writeBy.set(t, s.cond)
	return nil
}

// deadline wakes the waiters of a cond when a time has passed. The lock of the
// cond guards it.
type deadline struct {
	timer  *time.Timer
	passed bool
}

// set replaces the deadline; the zero time means none. The caller holds cond.L.
func (d *deadline) set(t time.Time, cond *sync.Cond) {
	d.stop()
	d.passed = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		cond.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		cond.L.Lock()
		defer cond.L.Unlock()
		if d.timer == timer { // else it was replaced while this call waited for the lock
			d.passed = true
			cond.Broadcast()
		}
	})
	d.timer = timer
}

// stop forgets the timer. The caller holds the lock.
func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
