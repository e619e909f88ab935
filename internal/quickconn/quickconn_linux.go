// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package quickconn

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// Wrap returns a connection in place of one of TCP, and any other as it is. It
// takes one reader and one writer at a time, and does what *net.TCPConn does in
// all else.
func Wrap(conn net.Conn) net.Conn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	c := &quick{TCPConn: tcp, raw: raw}
	c.in.call, c.out.call = syscall.SYS_READ, syscall.SYS_WRITE
	c.in.try, c.out.try = c.in.once, c.out.once
	return c
}

type quick struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out transfer
}

// transfer is a system call that is tried until it does not have to wait.
type transfer struct {
	call uintptr
	try  func(fd uintptr) bool // once, made one time for all calls
	p    []byte
	n    int
	err  error
}

func (t *transfer) once(fd uintptr) (done bool) {
	for {
		n, _, errno := syscall.RawSyscall(t.call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(t.p))), uintptr(len(t.p)))
		switch errno {
		case 0:
			t.n, t.err = int(n), nil
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			t.n, t.err = 0, errno
			return true
		}
	}
}

// Read implements net.Conn.
func (c *quick) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.in.p = p
	waiting := c.raw.Read(c.in.try)
	c.in.p = nil
	if err := c.failed("read", waiting, c.in.err); err != nil {
		return 0, err
	}
	if c.in.n == 0 {
		return 0, io.EOF
	}
	return c.in.n, nil
}

// Write implements net.Conn.
func (c *quick) Write(p []byte) (written int, err error) {
	for written < len(p) {
		c.out.p = p[written:]
		waiting := c.raw.Write(c.out.try)
		c.out.p = nil
		if err := c.failed("write", waiting, c.out.err); err != nil {
			return written, err
		}
		written += c.out.n
	}
	return written, nil
}

// Gone tells whether the other side has closed or reset the connection and all that
// it had sent was read. It does not wait, and is the reader's to call.
func (c *quick) Gone() bool {
	gone := false
	err := c.raw.Read(func(fd uintptr) bool {
		var one [1]byte
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&one)), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
		gone = errno == 0 && n == 0 || errno != 0 && errno != syscall.EAGAIN && errno != syscall.EINTR
		return true
	})
	return gone || err != nil
}

// failed is the error that *net.TCPConn has for it.
func (c *quick) failed(call string, waiting, tried error) error {
	if waiting == nil {
		if tried == nil {
			return nil
		}
		return &net.OpError{Op: call, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(call, tried)}
	}
	if op := (*net.OpError)(nil); errors.As(waiting, &op) {
		op.Op = call
	}
	return waiting
}
