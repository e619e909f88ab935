// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"muster/internal/memnet"
	"muster/node"
)

// errDead is what a dead process gets from its network.
var errDead = errors.New("this process is dead")

// life is one process of a node, from its start to its end. Once it is dead
// nothing that it does reaches anybody, however long its goroutines take to end.
type life struct {
	host *memnet.Host
	// ctx ends with the process's death: it gives up what it dials.
	ctx context.Context
	die context.CancelFunc
	// running ends when the node is asked to stop.
	running context.Context
	stop    context.CancelFunc
	done    chan struct{} // closed when Run has returned
	err     error         // what Run returned; to be read after done

	steps   atomic.Int64
	trapped chan struct{} // closed once the trap has caught the process
	caught  sync.Once
	// released is closed when it may go on.
	released chan struct{}
	isTrap   func(step int, what string) bool // nil: none
}

func newLife(host *memnet.Host) *life {
	l := &life{host: host, done: make(chan struct{}), trapped: make(chan struct{}), released: make(chan struct{})}
	l.ctx, l.die = context.WithCancel(context.Background())
	l.running, l.stop = context.WithCancel(context.Background())
	return l
}

// env is what the node stands on.
func (l *life) env(t interface{ Errorf(string, ...any) }, logs ...io.Writer) node.Env {
	return node.Env{
		Logger: slog.New(trap{slog.NewTextHandler(io.MultiWriter(logs...), nil), l, false}),
		Listen: l.listen,
		Dial:   l.dial,
		GossipSockets: func(addr string) (net.Listener, net.PacketConn, error) {
			ln, err := l.listen("tcp", addr)
			if err != nil {
				return nil, nil, err
			}
			p, err := l.host.ListenPacket("udp", addr)
			return ln, p, err
		},
		Fatal: func(err error) {
			if l.ctx.Err() == nil {
				t.Errorf("host %s: the node's disk failed: %v", l.host.IP(), err)
			}
		},
	}
}

func (l *life) listen(network, addr string) (net.Listener, error) {
	if l.ctx.Err() != nil {
		return nil, errDead
	}
	return l.host.Listen(network, addr)
}

func (l *life) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if strings.HasSuffix(addr, ":"+strconv.Itoa(nodePort)) {
		l.step("dial " + addr)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	conn, err := l.host.DialContext(ctx, network, addr)
	if l.ctx.Err() != nil {
		if err == nil {
			_ = conn.Close()
		}
		return nil, fmt.Errorf("dial %s: %w", addr, errDead)
	}
	return conn, err
}

// step counts what the process does, and holds it there until it is released,
// dead or has to stop if that is where the trap is.
func (l *life) step(what string) {
	number := int(l.steps.Add(1))
	if l.isTrap == nil || l.ctx.Err() != nil || !l.isTrap(number, what) {
		return
	}
	l.caught.Do(func() { close(l.trapped) })
	select {
	case <-l.ctx.Done():
	case <-l.running.Done():
	case <-l.released:
	}
}
