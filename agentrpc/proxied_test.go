// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"muster/agentrpc"
	"muster/internal/proxyproto"
)

// balancer dials as one does, for a client: with a PROXY protocol header.
func (w *world) balancer(client string) func(ctx context.Context, addr string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := w.net.Host("10.0.3.1").DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		ip := netip.MustParseAddr(client).As4()
		header := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"), ip[:]...)
		header = binary.BigEndian.AppendUint16(append(header, 10, 0, 0, 1), 40000)
		_, err = conn.Write(binary.BigEndian.AppendUint16(header, 6751))
		return conn, err
	}
}

// Behind a balancer agents are sent away, and refused for a while, by their own
// address: all others come through the same balancer as before.
func TestShedBehindABalancer(t *testing.T) {
	proxied := func(o *agentrpc.Options) {
		o.Listeners[0] = proxyproto.Listen(o.Listeners[0], proxyproto.Options{
			Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.3.1/32")}, CloseLocal: true,
			Refused: func(_ net.Addr, err error) { t.Errorf("a header was refused: %v", err) },
		})
	}
	inBubble(t, func(t *testing.T, w *world) {
		addr := net.JoinHostPort(serverIP, agentPort)
		agents := make([]*agent, 30) // more than 20 of one address would be spared
		for i := range agents {
			conn, err := grpc.NewClient("passthrough:///"+addr, append(w.dialOptions("", nil), grpc.WithContextDialer(w.balancer(fmt.Sprintf("10.1.0.%d", i+1))))...)
			if err != nil {
				t.Fatal(err)
			}
			w.clients = append(w.clients, conn)
			agents[i] = w.open(fmt.Sprint("a", i), conn)
			agents[i].beat()
		}
		if n := w.srv.Shed(10); n != 10 {
			t.Fatalf("Shed(10) = %d", n)
		}
		w.eventually("streams end", time.Second, func() bool { return ended(agents) == 10 })
		for i, a := range agents {
			shed := false
			select {
			case <-a.ended:
				shed = true
			default:
			}
			conn, err := w.balancer(fmt.Sprintf("10.1.0.%d", i+1))(t.Context(), addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			_, err = conn.Read(make([]byte, 1))
			if refused := errors.Is(err, syscall.ECONNRESET); refused != shed {
				t.Errorf("%s: shed %t, then refused %t (%v)", a.id, shed, refused, err)
			}
			_ = conn.Close()
		}
	}, proxied)
}
