// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Partitions is how many each topic has.
const Partitions = 8

// receiveBytes is the kernel's buffer for a connection: batches come in whole.
const receiveBytes = 4 << 20

// Broker is one broker, which leads all partitions of any topic.
type Broker struct {
	addr      string
	host      string
	port      int32
	look      atomic.Bool  // at the numbers of records
	delay     atomic.Int64 // of each answer to a produce request; nanoseconds
	hung      atomic.Bool
	book      *book
	producers producers

	records, batches, bytes, duplicates atomic.Int64

	mu       sync.Mutex
	listener net.Listener
	conns    map[*net.TCPConn]struct{}
	serving  sync.WaitGroup
	closed   bool
}

// New listens on addr, which may have port 0.
func New(addr string) (*Broker, error) {
	b := &Broker{addr: addr, conns: make(map[*net.TCPConn]struct{}), book: newBook()}
	if err := b.Return(); err != nil {
		return nil, err
	}
	tcp, ok := b.listener.Addr().(*net.TCPAddr)
	if !ok {
		return nil, errors.New("the listener has no TCP address")
	}
	b.addr, b.host, b.port = tcp.String(), tcp.IP.String(), int32(tcp.Port) //nolint:gosec // 16 bits
	return b, nil
}

// Addr is host:port.
func (b *Broker) Addr() string { return b.addr }

// Run serves until ctx ends.
func (b *Broker) Run(ctx context.Context) {
	<-ctx.Done()
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.hung.Store(false)
	b.Refuse()
	b.serving.Wait()
}

// Refuse closes the listener and all connections.
func (b *Broker) Refuse() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listener != nil {
		_ = b.listener.Close()
		b.listener = nil
	}
	for c := range b.conns {
		_ = c.SetLinger(0) // as when the machine is gone
		_ = c.Close()
	}
}

// Return listens again after Refuse, and ends a hang.
func (b *Broker) Return() error {
	b.hung.Store(false)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listener != nil || b.closed {
		return nil
	}
	l, err := net.Listen("tcp", b.addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	b.listener = l
	b.serving.Go(func() { b.accept(l) })
	return nil
}

// Hang answers nothing more until Return.
func (b *Broker) Hang() { b.hung.Store(true) }

// Slow makes each answer to a produce request take so long; 0 is as before.
func (b *Broker) Slow(d time.Duration) { b.delay.Store(int64(d)) }

// Look reads the records of all later batches for their numbers, or no more.
func (b *Broker) Look(on bool) { b.look.Store(on) }

func (b *Broker) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			_ = c.Close()
			continue
		}
		_ = tcp.SetReadBuffer(receiveBytes)
		b.mu.Lock()
		if b.listener != l {
			_ = c.Close()
			b.mu.Unlock()
			return
		}
		b.conns[tcp] = struct{}{}
		b.mu.Unlock()
		b.serving.Go(func() {
			newConn(b, tcp).serve()
			_ = tcp.Close()
			b.mu.Lock()
			delete(b.conns, tcp)
			b.mu.Unlock()
		})
	}
}

// Stats is what has come so far.
type Stats struct {
	Records    int64 `json:"records"` // acknowledged
	Batches    int64 `json:"batches"`
	Bytes      int64 `json:"bytes"`
	Duplicates int64 `json:"duplicates"` // batches that were known by their sequence, and not counted again

	Book
}

// Stats counts.
func (b *Broker) Stats() Stats {
	return Stats{
		Records: b.records.Load(), Batches: b.batches.Load(), Bytes: b.bytes.Load(), Duplicates: b.duplicates.Load(),
		Book: b.book.read(),
	}
}
