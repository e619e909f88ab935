// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package memnet_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"muster/internal/memnet"
)

const (
	hostA = "10.0.0.1"
	hostB = "10.0.0.2"
)

// pipe returns both ends of a stream from hostA to hostB.
func pipe(t *testing.T, n *memnet.Network) (client, server net.Conn) {
	t.Helper()
	l := listen(t, n.Host(hostB), ":0")
	client = dial(t, n.Host(hostA), l.Addr().String())
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return client, server
}

func listen(t *testing.T, h *memnet.Host, addr string) net.Listener {
	t.Helper()
	l, err := h.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func dial(t *testing.T, h *memnet.Host, addr string) net.Conn {
	t.Helper()
	c, err := h.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func readString(t *testing.T, r io.Reader, size int) string {
	t.Helper()
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatalf("read %d bytes: %v", size, err)
	}
	return string(b)
}

func write(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if n, err := io.WriteString(w, s); err != nil || n != len(s) {
		t.Fatalf("write = %d, %v", n, err)
	}
}

func TestBothDirectionsAndHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pipe(t, memnet.New())
		write(t, client, "ping")
		write(t, server, "pong")
		if err := client.(*memnet.Conn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got := readString(t, server, 4); got != "ping" {
			t.Fatalf("server read %q", got)
		}
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("after CloseWrite: %v, want EOF", err)
		}
		write(t, server, "!")
		if got := readString(t, client, 5); got != "pong!" {
			t.Fatalf("client read %q", got)
		}
		if _, err := client.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("write after CloseWrite: %v", err)
		}
	})
}

func TestCloseIsSeenByBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pipe(t, memnet.New())
		write(t, server, "bye")
		_ = server.Close()
		if got := readString(t, client, 3); got != "bye" {
			t.Fatalf("read %q", got)
		}
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("read: %v, want EOF", err)
		}
		if _, err := client.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("write: %v, want EPIPE", err)
		}
		if err := server.Close(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("second close: %v", err)
		}
	})
}

func TestCloseReadRefusesThePeersBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pipe(t, memnet.New())
		if err := server.(*memnet.Conn).CloseRead(); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("write: %v", err)
		}
		write(t, server, "still") // the other direction stays open
		readString(t, client, 5)
	})
}

func TestFullBufferHoldsTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pipe(t, memnet.New())
		payload := bytes.Repeat([]byte("0123456789abcdef"), 3*memnet.BufferBytes/16)
		done := make(chan error, 1)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := client.Write(payload)
			done <- err
		})
		synctest.Wait()
		if len(done) > 0 {
			t.Fatal("a write of three buffers did not wait for the reader")
		}
		got := readString(t, server, len(payload))
		if err := <-done; err != nil || got != string(payload) {
			t.Fatalf("payload changed or error: %v", err)
		}
		wg.Wait()
	})
}

func TestWritesDoNotMix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pipe(t, memnet.New())
		const size = 2 * memnet.BufferBytes
		var wg sync.WaitGroup
		for _, c := range []byte("ab") {
			wg.Go(func() { _, _ = client.Write(bytes.Repeat([]byte{c}, size)) })
		}
		got := readString(t, server, 2*size)
		wg.Wait()
		if n := bytes.Count([]byte(got[:size]), []byte{got[0]}); n != size {
			t.Fatalf("two writes are mixed: %d of %d", n, size)
		}
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pipe(t, memnet.New())
		start := time.Now()
		_ = client.SetReadDeadline(start.Add(time.Second))
		_, err := client.Read(make([]byte, 1))
		var timeout net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Fatalf("read: %v, want a timeout", err)
		}
		if waited := time.Since(start); waited != time.Second {
			t.Fatalf("waited %v", waited)
		}
		_ = client.SetReadDeadline(time.Time{})
		write(t, server, "x")
		readString(t, client, 1)

		_ = client.SetWriteDeadline(time.Now().Add(time.Minute))
		n, err := client.Write(make([]byte, memnet.BufferBytes+1))
		if n != memnet.BufferBytes || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("write = %d, %v", n, err)
		}
		_ = server.SetReadDeadline(time.Now().Add(-time.Second))
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a passed deadline must win over waiting bytes: %v", err)
		}
	})
}

func TestCloseWakesAWaitingRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := pipe(t, memnet.New())
		time.AfterFunc(time.Second, func() { _ = client.Close() })
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("read: %v", err)
		}
	})
}

func TestAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		a := n.Host(hostA)
		l := listen(t, a, "0.0.0.0:80")
		if got := l.Addr().String(); got != hostA+":80" {
			t.Errorf("Addr = %s", got)
		}
		if _, err := a.Listen("tcp", ":80"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second listen: %v", err)
		}
		if _, err := a.Listen("tcp", hostB+":80"); !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Errorf("listen on a foreign address: %v", err)
		}
		if _, err := a.DialContext(t.Context(), "tcp", hostA+":81"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial a closed port: %v", err)
		}
		if _, err := a.DialContext(t.Context(), "tcp", "10.9.9.9:81"); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("dial nobody: %v", err)
		}
		local := listen(t, a, "127.0.0.1:0")
		if c := dial(t, a, local.Addr().String()); c.RemoteAddr().String() != local.Addr().String() {
			t.Errorf("remote = %s", c.RemoteAddr())
		}
		_, port, _ := net.SplitHostPort(local.Addr().String())
		if _, err := n.Host(hostB).DialContext(t.Context(), "tcp", net.JoinHostPort(hostA, port)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial loopback from afar: %v", err)
		}
		_ = l.Close()
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after close: %v", err)
		}
		listen(t, a, ":80")
	})
}

func TestFullBacklogMakesDialersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		l := listen(t, n.Host(hostB), ":1")
		for range 128 {
			dial(t, n.Host(hostA), hostB+":1")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Host(hostA).DialContext(ctx, "tcp", hostB+":1"); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("dial = %v, want a timeout", err)
		}
		time.AfterFunc(time.Second, func() {
			if c, err := l.Accept(); err == nil {
				_ = c.Close()
			}
		})
		dial(t, n.Host(hostA), hostB+":1")
	})
}
