// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"net"
	"sync"
)

// backlogSize bounds the streams that wait for Accept; more dialers wait.
const backlogSize = 128

type listener struct {
	host    *Host
	addr    *net.TCPAddr
	backlog chan *Conn // sent to only with network.mu held
	once    sync.Once
	closed  chan struct{}
}

// Accept returns the next stream, or an error that wraps net.ErrClosed.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, opError("accept", "tcp", l.addr, net.ErrClosed)
	default:
	}
	select {
	case c := <-l.backlog:
		l.host.network.mu.Lock()
		l.host.network.wake()
		l.host.network.mu.Unlock()
		return c, nil
	case <-l.closed:
		return nil, opError("accept", "tcp", l.addr, net.ErrClosed)
	}
}

// Close frees the port and resets the streams that nobody accepted.
func (l *listener) Close() error {
	err := opError("close", "tcp", l.addr, net.ErrClosed)
	l.once.Do(func() {
		err = nil
		n := l.host.network
		n.mu.Lock()
		delete(l.host.listeners, l.addr.Port)
		close(l.closed)
		n.wake()
		n.mu.Unlock()
		for {
			select {
			case c := <-l.backlog:
				c.abort()
			default:
				return
			}
		}
	})
	return err
}

// Addr returns the bound address, with an IP that can be dialled.
func (l *listener) Addr() net.Addr { return l.addr }
