// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

const (
	// settleTime is between the last command to an agent that is shed and the end
	// of our side: what gRPC was given is on its way by then.
	settleTime = 50 * time.Millisecond
	// partingTime is how long the agent has to end its own side.
	partingTime = 2 * time.Second
	// quietTime without a message means that the receiver has taken all.
	quietTime = 100 * time.Millisecond
	// crowd is how many sessions of one address are more than one host's: its
	// other agents, too, are refused while one is shed.
	crowd = 20
)

// shedder knows the sessions that are being sent away.
type shedder struct {
	mu      sync.Mutex
	stopped bool
	leaving int
	work    sync.WaitGroup
}

// departure is the end of a session that is sent away.
type departure struct {
	server *Server
	sess   *session
}

// Shed sends up to n agents away, so that they ask service discovery for another
// node, and returns how many it chose; they are gone within seconds and are not
// in SessionCount any more. It chooses at random, last among agents that share
// their address with more than 20, and then among those that upload a file.
//
// The agent's address is refused for 30 s. Then our side of the connection is
// closed and the other is read to its end, so that nothing is lost that the agent
// has written. An agent that is being written to is not chosen.
func (s *Server) Shed(n int) int {
	if n <= 0 {
		return 0
	}
	shed := 0
	for _, group := range s.expendable() {
		rand.Shuffle(len(group), func(i, j int) { group[i], group[j] = group[j], group[i] })
		for _, sess := range group {
			if shed == n {
				return shed
			}
			if s.sendAway(sess) {
				shed++
			}
		}
	}
	return shed
}

// expendable returns the sessions in the order in which they may go, by group.
func (s *Server) expendable() [3][]*session {
	all := s.registry.all()
	addrs := make([]netip.Addr, len(all))
	sessions := make(map[netip.Addr]int, len(all)) // for a moment only: it is not needed between two calls
	for i, sess := range all {
		addrs[i] = sess.peer.ip()
		sessions[addrs[i]]++
	}
	var groups [3][]*session
	for i, sess := range all {
		switch {
		case sess.peer.conn.departing.Load() != nil:
		case sess.peer.conn.uploads.Load() > 0:
			groups[2] = append(groups[2], sess)
		case sessions[addrs[i]] > crowd:
			groups[1] = append(groups[1], sess)
		default:
			groups[0] = append(groups[0], sess)
		}
	}
	return groups
}

// sendAway begins the end of a session, unless it is ending already or has a
// sender, or this node stops.
func (s *Server) sendAway(sess *session) bool {
	p := s.parts.shedder
	p.mu.Lock()
	defer p.mu.Unlock()
	d := &departure{server: s, sess: sess}
	if p.stopped || sess.isEnded() || !sess.peer.conn.departing.CompareAndSwap(nil, d) {
		return false
	}
	if !sess.silence() {
		sess.peer.conn.departing.Store(nil)
		return false
	}
	s.connections.refusals.add(sess.peer.ip(), time.Now())
	s.metrics.shed.Inc()
	p.leaving++
	p.work.Go(d.run)
	return true
}

// run ends the connection and waits until the session has ended.
func (d *departure) run() {
	ended := d.sess.line.ended
	select {
	case <-ended: // by something else
	case <-time.After(settleTime):
		d.sess.peer.conn.closeWrite()
		<-ended // the reader sees to that
	}
	p := d.server.parts.shedder
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaving--
}

// taken waits until the receiver has taken what was read: gRPC gives up what it
// holds of a stream when the connection ends. It is called between the agent's end
// and gRPC's hearing of it.
func (d *departure) taken() {
	timer := time.NewTimer(quietTime)
	defer timer.Stop()
	until := time.Now().Add(d.server.opts.Tuning.DrainTimeout)
	for seen := d.sess.received.messages.Load(); ; timer.Reset(quietTime) {
		select {
		case <-d.sess.line.ended:
			return
		case <-timer.C:
		}
		messages := d.sess.received.messages.Load()
		if messages == seen && !d.sess.received.waits.Load() || !time.Now().Before(until) {
			return
		}
		seen = messages
	}
}

// stop begins no more departures; those that there are go on.
func (p *shedder) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
}

// count is how many sessions are being sent away.
func (p *shedder) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leaving
}

// silence makes sure that nothing more is sent on the stream, by taking the
// sender's place for good. It is false when a sender is there.
func (s *session) silence() bool {
	if !s.out.due.CompareAndSwap(0, 1) {
		return false
	}
	close(s.out.idle)
	return true
}

// ip is the agent's IP address, the zero value when it has none.
func (p *peerInfo) ip() netip.Addr {
	remote, err := netip.ParseAddrPort(p.addr)
	if err != nil {
		return netip.Addr{}
	}
	return plainIP(remote.Addr())
}
