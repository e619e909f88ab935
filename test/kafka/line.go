// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package kafka

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// Line is the way from a writer to the brokers: TCP that can be made to lose,
// delay or hold back what it carries. The zero fault is none. It ends with the
// test. It is safe for concurrent use.
type Line struct {
	t  testing.TB
	wg sync.WaitGroup

	mu     sync.Mutex
	doors  map[string]net.Listener // by the broker's address
	conns  map[*carried]bool
	held   map[string]chan struct{} // closed when the broker is reached again
	delay  time.Duration            // of each answer
	loss   float64                  // share of answers that are lost with their connection
	lost   int                      // so many answers were
	closed bool
}

// carried is one connection through a line.
type carried struct {
	addr           string
	client, broker net.Conn
}

func (c *carried) close() {
	_ = c.client.Close()
	_ = c.broker.Close()
}

// NewLine returns a line without fault.
func NewLine(t testing.TB) *Line {
	l := &Line{
		t: t, doors: make(map[string]net.Listener), conns: make(map[*carried]bool),
		held: make(map[string]chan struct{}),
	}
	t.Cleanup(l.close)
	return l
}

// Dial is for a writer's Dial option: it reaches a broker over this line.
func (l *Line) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	door, err := l.door(addr)
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, network, door)
}

// door returns where connections to a broker come in.
func (l *Line) door(addr string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return "", net.ErrClosed
	}
	if door, ok := l.doors[addr]; ok {
		return door.Addr().String(), nil
	}
	door, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	l.doors[addr] = door
	l.wg.Go(func() { l.accept(door, addr) })
	return door.Addr().String(), nil
}

func (l *Line) accept(door net.Listener, addr string) {
	for {
		client, err := door.Accept()
		if err != nil {
			return
		}
		l.wg.Go(func() { l.carry(client, addr) })
	}
}

// carry is one connection's life.
func (l *Line) carry(client net.Conn, addr string) {
	l.pass(addr)
	broker, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		_ = client.Close()
		return
	}
	c := &carried{addr: addr, client: client, broker: broker}
	defer c.close()
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.conns[c] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, c)
	}()
	var both sync.WaitGroup
	both.Go(func() { l.copy(c, broker, client, func() bool { return true }) })
	both.Go(func() { l.copy(c, client, broker, l.answer) })
	both.Wait()
}

// copy carries one direction until either end closes; allow is asked before
// each piece is passed on, and ends the connection with false.
func (l *Line) copy(c *carried, to io.Writer, from io.Reader, allow func() bool) {
	defer c.close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		l.pass(c.addr)
		if n > 0 && !allow() {
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass waits while the broker is not reached.
func (l *Line) pass(addr string) {
	l.mu.Lock()
	held := l.held[addr]
	l.mu.Unlock()
	if held != nil {
		<-held
	}
}

// answer delays an answer, and decides whether it is lost.
func (l *Line) answer() bool {
	l.mu.Lock()
	delay, lose := l.delay, l.loss > 0 && rand.Float64() < l.loss
	if lose {
		l.lost++
	}
	l.mu.Unlock()
	if delay > 0 {
		<-time.After(delay)
	}
	return !lose
}

// LoseAnswers has that share of answers lost, each with its connection: the
// broker has done what it was asked, and nobody hears of it.
func (l *Line) LoseAnswers(share float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loss = share
}

// Lost is how many answers were lost.
func (l *Line) Lost() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// Delay has every answer come so much later.
func (l *Line) Delay(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = d
}

// Cut ends all connections at this moment, in the middle of whatever they carry.
func (l *Line) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.close()
	}
}

// Hold swallows what goes to and comes from a broker until Release: connections
// stay open, and nothing gets through.
func (l *Line) Hold(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[addr] == nil {
		l.held[addr] = make(chan struct{})
	}
}

// Release ends every Hold.
func (l *Line) Release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, held := range l.held {
		close(held)
	}
	clear(l.held)
}

func (l *Line) close() {
	l.Release()
	l.mu.Lock()
	l.closed = true
	for _, door := range l.doors {
		_ = door.Close()
	}
	for c := range l.conns {
		c.close()
	}
	l.mu.Unlock()
	l.wg.Wait()
}
