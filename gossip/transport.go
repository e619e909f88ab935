// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	maxPacketBytes = 64 << 10

	// receiveBufferBytes is asked of the kernel for the UDP socket, so that a
	// busy second does not lose packets; it may give less.
	receiveBufferBytes = 2 << 20

	acceptPause = 100 * time.Millisecond
)

// transport carries memberlist's traffic over a listener, a packet socket and a
// dialer that the caller chose.
type transport struct {
	listener  net.Listener
	packets   net.PacketConn
	dial      func(ctx context.Context, network, addr string) (net.Conn, error)
	advertise netip.AddrPort
	logger    *slog.Logger

	packetCh chan *memberlist.Packet
	streamCh chan net.Conn
	wg       sync.WaitGroup
	once     sync.Once
	closed   chan struct{}

	// dialing is stored because memberlist dials without a context.
	dialing     context.Context
	stopDialing context.CancelFunc
}

func newTransport(l net.Listener, p net.PacketConn, dial func(ctx context.Context, network, addr string) (net.Conn, error),
	advertise netip.AddrPort, logger *slog.Logger,
) *transport {
	t := &transport{
		listener:  l,
		packets:   p,
		dial:      dial,
		advertise: advertise,
		logger:    logger,
		packetCh:  make(chan *memberlist.Packet),
		streamCh:  make(chan net.Conn),
		closed:    make(chan struct{}),
	}
	t.dialing, t.stopDialing = context.WithCancel(context.Background())
	return t
}

// Listen opens TCP and UDP on one port, as Options wants them.
func Listen(addr string) (net.Listener, net.PacketConn, error) {
	const attempts = 10 // a free TCP port may be taken as a UDP port
	var err error
	for range attempts {
		var l net.Listener
		if l, err = net.Listen("tcp", addr); err != nil {
			return nil, nil, err
		}
		var p net.PacketConn
		if p, err = net.ListenPacket("udp", l.Addr().String()); err == nil {
			if udp, ok := p.(*net.UDPConn); ok {
				_ = udp.SetReadBuffer(receiveBufferBytes)
			}
			return l, p, nil
		}
		_ = l.Close()
		if _, port, splitErr := net.SplitHostPort(addr); splitErr != nil || port != "0" {
			break
		}
	}
	return nil, nil, err
}

// advertised completes the address that the others are told.
func advertised(want netip.AddrPort, bound net.Addr) (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(bound.String())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("options: Listener: %w", err)
	}
	ip, port := want.Addr(), want.Port()
	if !ip.IsValid() || ip.IsUnspecified() {
		ip = at.Addr()
	}
	if port == 0 {
		port = at.Port()
	}
	if ip.IsUnspecified() {
		return netip.AddrPort{}, fmt.Errorf("options: Advertise must be given, because the listener is bound to %s", bound)
	}
	return netip.AddrPortFrom(ip.Unmap(), port), nil
}

func (t *transport) start() {
	t.wg.Go(t.accept)
	t.wg.Go(t.receive)
}

func (t *transport) accept() {
	for {
		conn, err := t.listener.Accept()
		if err != nil {
			if t.pause(err) {
				return
			}
			continue
		}
		select {
		case t.streamCh <- conn:
		case <-t.closed:
			_ = conn.Close()
			return
		}
	}
}

func (t *transport) receive() {
	buf := make([]byte, maxPacketBytes)
	for {
		n, from, err := t.packets.ReadFrom(buf)
		if err != nil {
			if t.pause(err) {
				return
			}
			continue
		}
		packet := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: time.Now()}
		select {
		case t.packetCh <- packet:
		case <-t.closed:
			return
		}
	}
}

// pause tells whether the socket is closed; else it waits before the next try.
func (t *transport) pause(err error) (closed bool) {
	if errors.Is(err, net.ErrClosed) {
		return true
	}
	t.logger.Warn("could not read from the gossip sockets", "error", err)
	pause := time.NewTimer(acceptPause)
	defer pause.Stop()
	select {
	case <-pause.C:
		return false
	case <-t.closed:
		return true
	}
}

// FinalAdvertiseAddr returns the address that the others are told.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.advertise.Addr().AsSlice(), int(t.advertise.Port()), nil
}

// WriteTo sends a packet.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("gossip to %q: %w", addr, err)
	}
	_, err = t.packets.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return time.Now(), err
}

// WriteToAddress sends a packet to a node.
func (t *transport) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, addr.Addr)
}

// PacketCh returns the packets that came.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packetCh }

// StreamCh returns the streams that came.
func (t *transport) StreamCh() <-chan net.Conn { return t.streamCh }

// DialTimeout opens a stream, which ends when dialing is stopped.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.dialing, timeout)
	defer cancel()
	conn, err := t.dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &dialled{Conn: conn, stop: context.AfterFunc(t.dialing, func() { _ = conn.Close() })}, nil
}

// DialAddressTimeout opens a stream to a node.
func (t *transport) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(addr.Addr, timeout)
}

// Shutdown closes the sockets and waits for their readers.
func (t *transport) Shutdown() error {
	var err error
	t.once.Do(func() {
		t.stopDialing()
		close(t.closed)
		err = errors.Join(t.listener.Close(), t.packets.Close())
		t.wg.Wait()
	})
	return err
}

type dialled struct {
	net.Conn
	stop func() bool
}

func (d *dialled) Close() error {
	d.stop()
	return d.Conn.Close()
}
