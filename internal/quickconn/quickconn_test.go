// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package quickconn_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"muster/internal/quickconn"
)

// pair returns both ends of a TCP connection.
func pair(t *testing.T, listen func(network, address string) (net.Listener, error), dial func(ctx context.Context, network, address string) (net.Conn, error)) (dialled, accepted net.Conn) {
	t.Helper()
	l, err := listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if dialled, err = dial(t.Context(), "tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = dialled.Close()
		_ = accepted.Close()
	})
	return dialled, accepted
}

// A wrapped connection ends as one of Go's own does, whatever happens to it.
func TestEndsAsTCPDoes(t *testing.T) {
	for name, happens := range map[string]func(c, other net.Conn) error{
		"the other side has closed": func(c, other net.Conn) error {
			_ = other.Close()
			_, err := c.Read(make([]byte, 8))
			return err
		},
		"it was reset": func(c, other net.Conn) error {
			_ = other.(interface{ SetLinger(sec int) error }).SetLinger(0)
			_ = other.Close()
			_, err := c.Read(make([]byte, 8))
			return err
		},
		"written to after a reset": func(c, other net.Conn) (err error) {
			_ = other.(interface{ SetLinger(sec int) error }).SetLinger(0)
			_ = other.Close()
			for err == nil || errors.Is(err, syscall.ECONNRESET) {
				_, err = c.Write(make([]byte, 8))
			}
			return err
		},
		"closed before a read": func(c, _ net.Conn) error {
			_ = c.Close()
			_, err := c.Read(make([]byte, 8))
			return err
		},
		"closed before a write": func(c, _ net.Conn) error {
			_ = c.Close()
			_, err := c.Write(make([]byte, 8))
			return err
		},
		"closed during a read": func(c, _ net.Conn) error {
			defer time.AfterFunc(20*time.Millisecond, func() { _ = c.Close() }).Stop()
			_, err := c.Read(make([]byte, 8))
			return err
		},
		"the deadline of a read": func(c, _ net.Conn) error {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			_, err := c.Read(make([]byte, 8))
			return err
		},
		"a deadline that has passed, with data there": func(c, other net.Conn) error {
			_, _ = other.Write([]byte("here"))
			_ = c.SetReadDeadline(time.Now().Add(-time.Second))
			_, err := c.Read(make([]byte, 8))
			return err
		},
		"the deadline of a write": func(c, _ net.Conn) error {
			all := make([]byte, 64<<20) // takes its time, too
			_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			n, err := c.Write(all)
			if n == 0 || n == 64<<20 {
				return errors.New("nothing, or all of it, was written")
			}
			return err
		},
		"nothing to read into": func(c, _ net.Conn) error {
			_, err := c.Read(nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var dialer net.Dialer
			want := describe(happens(pair(t, net.Listen, dialer.DialContext)))
			if got := describe(happens(pair(t, quickconn.Listen, quickconn.Dial))); got != want {
				t.Errorf("%s, of Go's own: %s", got, want)
			}
		})
	}
}

// describe tells what callers look at, without the ports.
func describe(err error) string {
	if err == nil {
		return "no error"
	}
	var words []string
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		words = append(words, op.Op, op.Net, op.Err.Error())
	} else {
		words = append(words, err.Error())
	}
	for _, is := range []error{io.EOF, net.ErrClosed, os.ErrDeadlineExceeded, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, is) {
			words = append(words, "is "+is.Error())
		}
	}
	if n := net.Error(nil); errors.As(err, &n) && n.Timeout() {
		words = append(words, "timeout")
	}
	return strings.Join(words, ", ")
}

// Gone sees the end of a connection, and nothing else, without reading.
func TestGone(t *testing.T) {
	for name, c := range map[string]struct {
		happens func(other net.Conn)
		gone    bool
	}{
		"nothing has happened":          {func(net.Conn) {}, false},
		"there is something to read":    {func(other net.Conn) { _, _ = other.Write([]byte("x")) }, false},
		"something, and then the end":   {func(other net.Conn) { _, _ = other.Write([]byte("x")); _ = other.Close() }, false},
		"the other side has closed":     {func(other net.Conn) { _ = other.Close() }, true},
		"the other side has reset":      {func(other net.Conn) { _ = other.(interface{ SetLinger(int) error }).SetLinger(0); _ = other.Close() }, true},
		"it was closed on this side":    {nil, true},
		"the deadline of reads is over": {func(net.Conn) {}, true},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := pair(t, quickconn.Listen, quickconn.Dial)
			conn, ok := near.(interface{ Gone() bool })
			if !ok {
				t.Skip("not on this system")
			}
			if c.happens == nil {
				_ = near.Close()
			} else {
				c.happens(far)
			}
			if strings.HasPrefix(name, "the deadline") {
				_ = near.SetReadDeadline(time.Now().Add(-time.Second))
			}
			for end := time.Now().Add(5 * time.Second); conn.Gone() != c.gone; <-time.After(time.Millisecond) { // the network is not instant
				if time.Now().After(end) {
					t.Fatalf("gone: %t", !c.gone)
				}
			}
			if name == "there is something to read" {
				if n, err := near.Read(make([]byte, 8)); n != 1 || err != nil {
					t.Errorf("%d bytes were left to read: %v", n, err)
				}
			}
		})
	}
}

// More than the kernel takes at once arrives whole and in order, both ways at the
// same time.
func TestCarriesAllBothWays(t *testing.T) {
	a, b := pair(t, quickconn.Listen, quickconn.Dial)
	const size = 8 << 20
	var both sync.WaitGroup
	for i, way := range [][2]net.Conn{{a, b}, {b, a}} {
		sent := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(sent)
		both.Go(func() {
			if n, err := way[0].Write(sent); n != size || err != nil {
				t.Errorf("%d bytes were written: %v", n, err)
			}
		})
		both.Go(func() {
			got := make([]byte, size)
			if _, err := io.ReadFull(way[1], got); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("not what was sent: %v", err)
			}
		})
	}
	both.Wait()
}

// A connection that is not TCP stays what it is.
func TestWrapsOnlyTCP(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if got := quickconn.Wrap(a); got != a {
		t.Errorf("a pipe became %T", got)
	}
	if _, err := quickconn.Listen("tcp", "127.0.0.1:99999"); err == nil {
		t.Error("listens on a port that does not exist")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := quickconn.Dial(ctx, "tcp", "127.0.0.1:9"); !errors.Is(err, context.Canceled) {
		t.Errorf("dialled without a context: %v", err)
	}
}

// BenchmarkEcho measures a byte to the other side and back.
func BenchmarkEcho(b *testing.B) {
	var dialer net.Dialer
	for name, wrap := range map[string]func(net.Conn) net.Conn{"Go": func(c net.Conn) net.Conn { return c }, "quick": quickconn.Wrap} {
		b.Run(name, func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			dialled, err := dialer.DialContext(b.Context(), "tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			accepted, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			near, far := wrap(dialled), wrap(accepted)
			var echo sync.WaitGroup
			echo.Go(func() {
				p := make([]byte, 1)
				for {
					if _, err := far.Read(p); err != nil {
						return
					}
					_, _ = far.Write(p)
				}
			})
			p := make([]byte, 1)
			for b.Loop() {
				_, _ = near.Write(p)
				_, _ = near.Read(p)
			}
			_ = near.Close()
			echo.Wait()
			_ = far.Close()
		})
	}
}
