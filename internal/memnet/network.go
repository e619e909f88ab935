// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// Network joins hosts. It is safe for concurrent use. Create it inside the
// bubble that uses it.
type Network struct {
	drops atomic.Uint64

	// mu guards what follows. It is taken before the lock of a stream, never
	// after it.
	mu      sync.Mutex
	hosts   map[string]*Host
	conns   map[*Conn]struct{}
	blocked map[link]struct{}
	cut     map[string]struct{}
	changed chan struct{} // closed and replaced when a link or a listener changes
}

// link is one direction between two hosts, named by their IP addresses.
type link struct{ from, to string }

// New returns a network without hosts.
func New() *Network {
	return &Network{
		hosts:   map[string]*Host{},
		conns:   map[*Conn]struct{}{},
		blocked: map[link]struct{}{},
		cut:     map[string]struct{}{},
		changed: make(chan struct{}),
	}
}

// Host returns the host with the given IP address and makes it when it is not
// there yet. It panics when ip is not an IP address.
func (n *Network) Host(ip string) *Host {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		panic(fmt.Sprintf("memnet: host address: %v", err))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	key := addr.String()
	h, ok := n.hosts[key]
	if !ok {
		h = &Host{
			network:   n,
			ip:        addr,
			listeners: map[int]*listener{},
			sockets:   map[int]*packetConn{},
			nextPort:  firstEphemeralPort,
		}
		n.hosts[key] = h
	}
	return h
}

// Block silences one direction: what from sends no longer reaches to. Bytes of
// open streams are kept, up to their buffer, and arrive after Heal; datagrams
// are lost; new connections between the two wait, whoever dials.
func (n *Network) Block(from, to string) {
	n.change(func() { n.blocked[link{from, to}] = struct{}{} })
}

// Partition silences both directions between two hosts, as Block does.
func (n *Network) Partition(a, b string) {
	n.change(func() {
		n.blocked[link{a, b}] = struct{}{}
		n.blocked[link{b, a}] = struct{}{}
	})
}

// Cut silences a host towards every other one, now and in future. It can still
// speak to itself.
func (n *Network) Cut(host string) {
	n.change(func() { n.cut[host] = struct{}{} })
}

// Heal undoes Block, Partition and Cut wherever one of the hosts takes part;
// without arguments it undoes all of them.
func (n *Network) Heal(hosts ...string) {
	n.change(func() {
		if len(hosts) == 0 {
			clear(n.blocked)
			clear(n.cut)
			return
		}
		for _, h := range hosts {
			delete(n.cut, h)
		}
		for l := range n.blocked {
			if slices.Contains(hosts, l.from) || slices.Contains(hosts, l.to) {
				delete(n.blocked, l)
			}
		}
	})
}

// Kill ends every listener, socket and stream of a host as the death of its
// process would: its own side sees closed connections, the peers a reset. The
// host can be used again at once.
func (n *Network) Kill(host string) {
	n.mu.Lock()
	h := n.hosts[host]
	if h == nil {
		n.mu.Unlock()
		return
	}
	var closers []func()
	for _, l := range h.listeners {
		closers = append(closers, func() { _ = l.Close() })
	}
	for _, p := range h.sockets {
		closers = append(closers, func() { _ = p.Close() })
	}
	for c := range n.conns {
		if c.link.from == host {
			closers = append(closers, c.abort)
		}
	}
	n.mu.Unlock()
	for _, closeIt := range closers {
		closeIt()
	}
}

// Drops counts the datagrams that were lost so far: sent to nobody, over a
// silenced link, or to a socket whose queue was full.
func (n *Network) Drops() uint64 { return n.drops.Load() }

// change alters the links and tells every stream and every waiting dialer.
func (n *Network) change(alter func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	alter()
	for c := range n.conns {
		c.out.setBlocked(n.isBlocked(c.link.from, c.link.to))
	}
	n.wake()
}

// wake tells waiting dialers to look again. The caller holds mu.
func (n *Network) wake() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// isBlocked tells whether bytes from one host reach another. The caller holds mu.
func (n *Network) isBlocked(from, to string) bool {
	if from == to {
		return false
	}
	if _, ok := n.cut[from]; ok {
		return true
	}
	if _, ok := n.cut[to]; ok {
		return true
	}
	_, ok := n.blocked[link{from, to}]
	return ok
}

// forget notes that one end is closed, and lets go of the stream when both are.
// It tells whether the end was open.
func (n *Network) forget(c *Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.closed {
		return false
	}
	c.closed = true
	if c.peer.closed {
		delete(n.conns, c)
		delete(n.conns, c.peer)
	}
	return true
}
