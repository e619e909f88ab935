// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// refusalTime is how long an address is refused after an agent from there was
	// shed. A stock agent comes back 5 s after its connection has ended, and that
	// failure makes it ask service discovery 5 s later.
	refusalTime = 30 * time.Second
	// maxRefusals bounds the addresses that are refused at once; beyond it the
	// oldest may connect again.
	maxRefusals = 1 << 16
)

// refusals are the addresses that may not connect for now. Its zero value is
// ready; it is safe for concurrent use.
type refusals struct {
	mu    sync.Mutex
	until map[netip.Addr]time.Time
	// queue has what was added, oldest first, from head on. An address that was
	// added again is in it twice; the later entry is the one that counts.
	queue []refusal
	head  int
}

type refusal struct {
	addr  netip.Addr
	until time.Time
}

// add refuses an address from now on, for refusalTime.
func (r *refusals) add(addr netip.Addr, now time.Time) {
	if !addr.IsValid() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep(now)
	if len(r.queue)-r.head >= maxRefusals {
		r.drop()
	}
	if r.until == nil {
		r.until = make(map[netip.Addr]time.Time)
	}
	until := now.Add(refusalTime)
	r.until[addr] = until
	r.queue = append(r.queue, refusal{addr: addr, until: until})
}

// clear refuses nobody any more.
func (r *refusals) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue, r.until, r.head = nil, nil, 0
}

// holds tells whether the address is refused now.
func (r *refusals) holds(addr netip.Addr, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep(now)
	_, held := r.until[addr]
	return held
}

// count returns how many addresses are held, those that are over included
// until somebody asks.
func (r *refusals) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.until)
}

// sweep forgets the addresses whose time is over. It needs the lock.
func (r *refusals) sweep(now time.Time) {
	for r.head < len(r.queue) && !now.Before(r.queue[r.head].until) {
		r.drop()
	}
}

// drop takes the oldest entry out. It needs the lock.
func (r *refusals) drop() {
	oldest := r.queue[r.head]
	if r.until[oldest.addr].Equal(oldest.until) { // else it was added again since
		delete(r.until, oldest.addr)
	}
	switch r.head++; {
	case r.head == len(r.queue):
		r.queue, r.until, r.head = nil, nil, 0 // a storm's memory is not kept
	case r.head > len(r.queue)/2:
		r.queue = append([]refusal(nil), r.queue[r.head:]...)
		r.head = 0
	}
}

// refuses tells whether no connection is taken from an agent's address for now,
// and counts it if so. It is asked once the address is known, before the TLS
// handshake: only a connection that fails makes a stock agent ask service
// discovery at once.
func (c *connections) refuses(addr netip.Addr) bool {
	switch {
	case c.none.Load():
		c.refused(reasonDraining)
	case c.refusals.holds(addr, time.Now()):
		c.refused(reasonShed)
	default:
		return false
	}
	return true
}

// RefuseNew closes every new connection at once while on is true; those that
// there are stay. It is for a node that its agents should leave while another takes
// them: a stock agent that is refused everywhere ends after about 30 s. Once that is
// over, those that have left may come back at once.
func (s *Server) RefuseNew(on bool) {
	if s.connections.none.Swap(on) && !on {
		s.connections.refusals.clear()
	}
}

// reset closes a connection so that the other side sees a reset. A stock agent
// takes that for final and goes on to the next address; after a mere end it would
// try the same one for 15 s.
func reset(conn net.Conn) {
	if l, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0) // then it is a plain end
	}
	_ = conn.Close()
}

// remoteIP is the IP address of an agent, the zero value when it has none.
func remoteIP(addr net.Addr) netip.Addr {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return plainIP(tcp.AddrPort().Addr())
}

// plainIP makes addresses comparable.
func plainIP(ip netip.Addr) netip.Addr { return ip.Unmap().WithZone("") }
