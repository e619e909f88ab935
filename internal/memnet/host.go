// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	firstEphemeralPort = 32768
	lastPort           = 65535

	// connectTimeout is when a dial without an earlier deadline gives up, about
	// as long as Linux tries.
	connectTimeout = 127 * time.Second
)

// Host is one machine of a Network. It is safe for concurrent use.
type Host struct {
	network *Network
	ip      netip.Addr

	// Guarded by network.mu.
	listeners map[int]*listener
	sockets   map[int]*packetConn
	nextPort  int
}

// IP returns the address that the host was made with.
func (h *Host) IP() string { return h.ip.String() }

// Listen opens a TCP port. The host part of addr may be empty, unspecified,
// the host's own IP, or loopback, which only this host reaches. Port 0 takes a
// free one. The listener's address always has an IP that can be dialled.
func (h *Host) Listen(network, addr string) (net.Listener, error) {
	ip, port, err := h.bindAddress("tcp", network, addr)
	if err != nil {
		return nil, opError("listen", network, nil, err)
	}
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	port, err = h.takePort(port, func(p int) bool { return h.listeners[p] != nil })
	if err != nil {
		return nil, opError("listen", network, nil, err)
	}
	l := &listener{
		host:    h,
		addr:    &net.TCPAddr{IP: ip.AsSlice(), Port: port},
		backlog: make(chan *Conn, backlogSize),
		closed:  make(chan struct{}),
	}
	h.listeners[port] = l
	h.network.wake()
	return l, nil
}

// ListenPacket opens a UDP port, with the same addresses as Listen.
func (h *Host) ListenPacket(network, addr string) (net.PacketConn, error) {
	ip, port, err := h.bindAddress("udp", network, addr)
	if err != nil {
		return nil, opError("listen", network, nil, err)
	}
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	port, err = h.takePort(port, func(p int) bool { return h.sockets[p] != nil })
	if err != nil {
		return nil, opError("listen", network, nil, err)
	}
	p := newPacketConn(h, &net.UDPAddr{IP: ip.AsSlice(), Port: port})
	h.sockets[port] = p
	return p, nil
}

// DialContext opens a stream to HOST:PORT, where the host is the IP of a Host
// of this network, or loopback for this host itself. A port that nobody listens
// on is refused; over a silenced link it waits for Heal, for ctx, or 127 s.
func (h *Host) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	target, err := h.resolve("tcp", network, addr)
	if err != nil {
		return nil, opError("dial", network, nil, err)
	}
	remote := net.TCPAddrFromAddrPort(target)
	timeout := time.NewTimer(connectTimeout)
	defer timeout.Stop()
	for {
		if err := ctx.Err(); err != nil {
			return nil, opError("dial", network, remote, dialError(err))
		}
		c, changed, err := h.tryDial(target)
		if err != nil {
			return nil, opError("dial", network, remote, err)
		}
		if c != nil {
			return c, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-timeout.C:
			return nil, opError("dial", network, remote, syscall.ETIMEDOUT)
		}
	}
}

// tryDial returns a stream, or the channel that is closed when it is worth
// trying again, or an error.
func (h *Host) tryDial(target netip.AddrPort) (*Conn, <-chan struct{}, error) {
	n := h.network
	n.mu.Lock()
	defer n.mu.Unlock()
	from, to := h.IP(), target.Addr().String()
	loopback := target.Addr().IsLoopback()
	if loopback {
		to = from
	}
	peer, ok := n.hosts[to]
	switch {
	case !ok:
		return nil, nil, syscall.EHOSTUNREACH
	case n.isBlocked(from, to) || n.isBlocked(to, from):
		return nil, n.changed, nil
	}
	l := peer.listeners[int(target.Port())]
	if l == nil || (l.addr.IP.IsLoopback() && from != to) {
		return nil, nil, syscall.ECONNREFUSED
	}
	if len(l.backlog) == cap(l.backlog) {
		return nil, n.changed, nil
	}
	localIP := h.ip
	if loopback {
		localIP = target.Addr()
	}
	port, err := h.takePort(0, func(p int) bool { return h.listeners[p] != nil })
	if err != nil {
		return nil, nil, err
	}
	near, far := newConnPair(n, link{from, to},
		&net.TCPAddr{IP: localIP.AsSlice(), Port: port}, net.TCPAddrFromAddrPort(target))
	n.conns[near], n.conns[far] = struct{}{}, struct{}{}
	l.backlog <- far // room was checked above, under the lock that every sender holds
	return near, nil, nil
}

// takePort returns the port asked for, or a free one for 0. The caller holds
// network.mu.
func (h *Host) takePort(port int, taken func(int) bool) (int, error) {
	if port != 0 {
		if taken(port) {
			return 0, os.NewSyscallError("bind", syscall.EADDRINUSE)
		}
		return port, nil
	}
	for range lastPort - firstEphemeralPort {
		port = h.nextPort
		h.nextPort++
		if h.nextPort > lastPort {
			h.nextPort = firstEphemeralPort
		}
		if !taken(port) {
			return port, nil
		}
	}
	return 0, syscall.EADDRNOTAVAIL
}

func (h *Host) bindAddress(want, network, addr string) (netip.Addr, int, error) {
	if host, port, err := net.SplitHostPort(addr); err == nil && host == "" {
		addr = net.JoinHostPort(h.IP(), port)
	}
	target, err := h.resolve(want, network, addr)
	if err != nil {
		return netip.Addr{}, 0, err
	}
	ip := target.Addr()
	switch {
	case ip.IsUnspecified():
		ip = h.ip
	case ip != h.ip && !ip.IsLoopback():
		return netip.Addr{}, 0, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
	}
	return ip, int(target.Port()), nil
}

func (h *Host) resolve(want, network, addr string) (netip.AddrPort, error) {
	if !strings.HasPrefix(network, want) {
		return netip.AddrPort{}, net.UnknownNetworkError(network)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, &net.DNSError{Err: "memnet knows IP addresses only", Name: host, IsNotFound: true}
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port %q: %w", port, err)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(number)), nil
}

func opError(op, network string, addr net.Addr, err error) error {
	return &net.OpError{Op: op, Net: network, Addr: addr, Err: err}
}

// dialError makes the end of a context look as it does from package net.
func dialError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return err
}
