// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package memnet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"muster/internal/memnet"
)

func TestPartitionHoldsBytesUntilHealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		client, server := pipe(t, n)
		n.Partition(hostA, hostB)
		write(t, client, "late")
		_ = server.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := server.Read(make([]byte, 4)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read over a partition: %v", err)
		}
		_ = client.Close()
		n.Heal()
		_ = server.SetReadDeadline(time.Time{})
		if got := readString(t, server, 4); got != "late" {
			t.Fatalf("read %q", got)
		}
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("read: %v, want EOF", err)
		}
	})
}

func TestBlockIsOneWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		client, server := pipe(t, n)
		n.Block(hostA, hostB)
		write(t, server, "heard")
		if got := readString(t, client, 5); got != "heard" {
			t.Fatalf("read %q", got)
		}
		write(t, client, "unheard")
		_ = server.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read against the block: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		l := listen(t, n.Host(hostA), ":9")
		if _, err := n.Host(hostB).DialContext(ctx, "tcp", l.Addr().String()); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("dial needs both directions: %v", err)
		}
	})
}

func TestDialWaitsForHealOrGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		listen(t, n.Host(hostB), ":1")
		n.Cut(hostB)
		start := time.Now()
		if _, err := n.Host(hostA).DialContext(context.Background(), "tcp", hostB+":1"); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Fatalf("dial: %v", err)
		}
		if waited := time.Since(start); waited != 127*time.Second {
			t.Fatalf("gave up after %v", waited)
		}
		time.AfterFunc(time.Second, func() { n.Heal(hostB) })
		dial(t, n.Host(hostA), hostB+":1")
	})
}

func TestHealOfOneHostLeavesOthersCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		for _, ip := range []string{hostA, hostB, "10.0.0.3"} {
			listen(t, n.Host(ip), ":1")
			n.Cut(ip)
		}
		n.Heal(hostA, hostB)
		dial(t, n.Host(hostA), hostB+":1")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Host(hostA).DialContext(ctx, "tcp", "10.0.0.3:1"); err == nil {
			t.Fatal("the third host is still cut")
		}
		dial(t, n.Host("10.0.0.3"), "127.0.0.1:1")
	})
}

func TestKillResetsPeersAndFreesPorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		client, server := pipe(t, n)
		waiting := listen(t, n.Host(hostB), ":7")
		n.Kill(hostB)
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("peer reads %v, want a reset", err)
		}
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("own side reads %v", err)
		}
		if _, err := waiting.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("accept: %v", err)
		}
		listen(t, n.Host(hostB), ":7")
	})
}

func TestDatagrams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		a := listenPacket(t, n.Host(hostA))
		b := listenPacket(t, n.Host(hostB))
		send := func(s string) {
			if _, err := a.WriteTo([]byte(s), b.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		buf := make([]byte, 100)
		send("one")
		size, from, err := b.ReadFrom(buf)
		if err != nil || string(buf[:size]) != "one" || from.String() != a.LocalAddr().String() {
			t.Fatalf("ReadFrom = %q, %v, %v", buf[:size], from, err)
		}
		n.Partition(hostA, hostB)
		send("lost")
		n.Heal()
		if got := n.Drops(); got != 1 {
			t.Fatalf("drops = %d, want 1", got)
		}
		for range 1025 {
			send("x")
		}
		if got := n.Drops(); got != 2 {
			t.Fatalf("drops = %d, want 2: the queue holds 1024", got)
		}
		for range 1024 {
			if _, _, err := b.ReadFrom(buf); err != nil {
				t.Fatal(err)
			}
		}
		_ = b.SetReadDeadline(time.Now().Add(time.Second))
		if _, _, err := b.ReadFrom(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("ReadFrom: %v", err)
		}
		if _, err := a.WriteTo(make([]byte, 70000), b.LocalAddr()); !errors.Is(err, syscall.EMSGSIZE) {
			t.Fatalf("oversized datagram: %v", err)
		}
		_ = b.Close()
		if _, _, err := b.ReadFrom(buf); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("ReadFrom after close: %v", err)
		}
	})
}

func listenPacket(t *testing.T, h *memnet.Host) net.PacketConn {
	t.Helper()
	p, err := h.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}
