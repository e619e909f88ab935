// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	// maxPackets bounds the datagrams that wait in one socket; more are dropped
	// and counted by Network.Drops.
	maxPackets = 1024

	// maxDatagram is the payload that fits UDP over IPv4, in bytes.
	maxDatagram = 65507
)

type packet struct {
	data []byte
	from *net.UDPAddr
}

// packetConn is a UDP socket. Writes never wait.
type packetConn struct {
	host *Host
	addr *net.UDPAddr

	mu     sync.Mutex
	cond   *sync.Cond
	queue  []packet
	closed bool
	readBy deadline
}

func newPacketConn(h *Host, addr *net.UDPAddr) *packetConn {
	p := &packetConn{host: h, addr: addr}
	p.cond = sync.NewCond(&p.mu)
	return p
}

// ReadFrom waits for a datagram; what does not fit b is cut off.
func (p *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.closed:
			return 0, nil, opError("read", "udp", p.addr, net.ErrClosed)
		case p.readBy.passed:
			return 0, nil, opError("read", "udp", p.addr, os.ErrDeadlineExceeded)
		case len(p.queue) > 0:
			first := p.queue[0]
			p.queue = slices.Delete(p.queue, 0, 1)
			return copy(b, first.data), first.from, nil
		}
		p.cond.Wait()
	}
}

// WriteTo sends one datagram. As with UDP, nil does not mean that it arrived.
func (p *packetConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if len(b) > maxDatagram {
		return 0, opError("write", "udp", addr, syscall.EMSGSIZE)
	}
	target, err := p.host.resolve("udp", "udp", addr.String())
	if err != nil {
		return 0, opError("write", "udp", addr, err)
	}
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return 0, opError("write", "udp", addr, net.ErrClosed)
	}
	n := p.host.network
	from, to := p.host.IP(), target.Addr().String()
	if target.Addr().IsLoopback() {
		to = from
	}
	n.mu.Lock()
	var peer *packetConn
	if host, ok := n.hosts[to]; ok && !n.isBlocked(from, to) {
		peer = host.sockets[int(target.Port())]
	}
	n.mu.Unlock()
	if peer == nil || !peer.deliver(packet{data: slices.Clone(b), from: p.addr}) {
		n.drops.Add(1)
	}
	return len(b), nil
}

func (p *packetConn) deliver(d packet) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.queue) == maxPackets {
		return false
	}
	p.queue = append(p.queue, d)
	p.cond.Signal()
	return true
}

// Close frees the port; what was not read is gone.
func (p *packetConn) Close() error {
	p.host.network.mu.Lock()
	if p.host.sockets[p.addr.Port] == p {
		delete(p.host.sockets, p.addr.Port)
	}
	p.host.network.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return opError("close", "udp", p.addr, net.ErrClosed)
	}
	p.closed = true
	p.readBy.stop()
	p.cond.Broadcast()
	return nil
}

// LocalAddr returns a *net.UDPAddr.
func (p *packetConn) LocalAddr() net.Addr { return p.addr }

// SetDeadline sets the read deadline; writes never wait.
func (p *packetConn) SetDeadline(t time.Time) error { return p.SetReadDeadline(t) }

// SetReadDeadline ends pending and future reads at t; the zero time means none.
func (p *packetConn) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return opError("set", "udp", p.addr, net.ErrClosed)
	}
	p.readBy.set(t, p.cond)
	return nil
}

// SetWriteDeadline does nothing: writes never wait.
func (p *packetConn) SetWriteDeadline(time.Time) error { return nil }
