// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	// brokerWithin bounds the connect to the broker beside this port.
	brokerWithin = 2 * time.Second
	// stallLimit is how long one side may refuse to take what the other said.
	stallLimit = 10 * time.Second
	// pipeIdleLimit is more than the rest that clients give a connection, 4 min.
	pipeIdleLimit = 6 * time.Minute
	// vanishLimit is when a peer counts as gone whose host does not answer.
	vanishLimit = 12 * time.Second
	pipeBytes   = 32 << 10
)

// pipes join connections of other members with the broker inside this node.
type pipes struct {
	dial  func(ctx context.Context) (net.Conn, error) // nil: no broker here
	slots chan struct{}
	open  sync.WaitGroup
}

// ServeKafka has the port join other members that DialKafka this node with its
// embedded broker, which dial connects to; without it they are refused. It is
// called before Run, at most once.
func (p *Port) ServeKafka(dial func(ctx context.Context) (net.Conn, error)) { p.pipes.dial = dial }

// DialKafka connects to the broker inside another member, which asks for no
// credentials: its node has let in members only. The error of a node that has
// none, or whose broker is not up, says so and wraps fleet.ErrUnavailable. A
// member that vanishes is noticed within 15 s while something was asked.
func (p *Port) DialKafka(ctx context.Context, serverID string) (net.Conn, error) {
	c, err := p.dial(ctx, protoKafka, serverID)
	if err != nil {
		return nil, err // not c: a nil *conn in an interface is not nil
	}
	noticeVanished(c.NetConn())
	return c, nil
}

// serveKafka welcomes a member only when the broker has answered, so that its
// log says in words why there is none.
func (p *Port) serveKafka(ctx context.Context, t *tls.Conn, m *Membership) (net.Conn, error) {
	var broker net.Conn
	c, err := p.greet(t, m, "", func() (v verdict, err error) {
		broker, v, err = p.pipes.connect(ctx)
		return v, err
	})
	if broker != nil && err != nil {
		_ = broker.Close()
	}
	if err != nil {
		return t, err
	}
	if err := p.conns.add(c); err != nil {
		_ = broker.Close()
		return c, err
	}
	_ = t.SetDeadline(time.Time{})
	noticeVanished(t.NetConn())
	p.metrics.connections.WithLabelValues(sideAccepted, protoKafka).Inc()
	p.pipes.open.Go(func() { join(c, broker) })
	return c, nil
}

// connect takes a slot, which closing the connection frees, and goes to the broker.
func (s *pipes) connect(ctx context.Context) (net.Conn, verdict, error) {
	if s.dial == nil {
		return nil, noBroker, errors.New("this node has no embedded kafka")
	}
	select {
	case s.slots <- struct{}{}:
	default:
		return nil, tooMany, fmt.Errorf("%d connections with the embedded kafka are open already", cap(s.slots))
	}
	free := sync.OnceFunc(func() { <-s.slots })
	ctx, cancel := context.WithTimeout(ctx, brokerWithin)
	defer cancel()
	c, err := s.dial(ctx)
	if err != nil {
		free()
		return nil, brokerDown, fmt.Errorf("the embedded kafka does not answer: %w", err)
	}
	return &slotConn{c, free}, welcome, nil
}

// slotConn frees its slot when it is closed.
type slotConn struct {
	net.Conn
	free func()
}

// Close may be called more than once.
func (c *slotConn) Close() error {
	c.free()
	return c.Conn.Close()
}

// join copies both ways until either side ends, takes nothing for too long, or
// nothing comes from both; then it closes both. Kafka's clients never half-close:
// whoever says that it has nothing more to say is gone.
func join(a, b net.Conn) {
	end := func() {
		_ = b.Close() // first: it frees the place, and a may take seconds to say goodbye
		_ = a.Close()
	}
	idle := time.AfterFunc(pipeIdleLimit, end)
	defer idle.Stop()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			defer end()
			pump(way[0], way[1], func() { idle.Reset(pipeIdleLimit) })
		})
	}
	both.Wait()
}

// pump copies until an end or an error, which say no more than that it is over.
func pump(from, to net.Conn, alive func()) {
	buf := make([]byte, pipeBytes)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			alive()
			if to.SetWriteDeadline(time.Now().Add(stallLimit)) != nil {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// noticeVanished has the kernel end a connection whose other host is silent:
// probes while nothing is sent, a limit for what is not acknowledged.
func noticeVanished(c net.Conn) {
	t, ok := c.(interface { // TCP, not a connection in memory
		syscall.Conn
		SetKeepAliveConfig(config net.KeepAliveConfig) error
	})
	if !ok {
		return
	}
	_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3})
	limitUnacknowledged(t, vanishLimit)
}
