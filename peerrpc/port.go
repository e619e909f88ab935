// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc"

	"muster/fleet"
	"muster/internal/lifecycle"
	"muster/internal/pki"
	"muster/internal/rarelog"
)

const (
	// drainTimeout bounds how long Run waits for calls under way when it ends.
	drainTimeout = 5 * time.Second
	// acceptRetry is the pause after a failure such as "too many open files".
	acceptRetry = 100 * time.Millisecond
	// complainEvery is how often the same complaint about the same peer is logged.
	complainEvery = 30 * time.Second
)

// Port is this node's port for other nodes. It is safe for concurrent use.
type Port struct {
	opts       Options
	metrics    *metrics
	complaints *rarelog.Logger
	gate       *gate
	throttle   *throttle
	conns      *connections
	raft       *RaftLayer
	peers      *queue
	clients    *clients
	// expelled holds the ID of a member that said that this node was removed.
	expelled chan string
	pipes    *pipes
	// anonymous is shown to those who join: the proofs take its place.
	anonymous *tls.Certificate
	shaking   sync.WaitGroup
	awaiting  sync.WaitGroup // calls of Await
}

// New checks the options. It serves nothing before Run, but can dial.
func New(opts Options) (*Port, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	opts.Tuning.setDefaults()
	if opts.Dial == nil {
		opts.Dial = (&net.Dialer{}).DialContext
	}
	p := &Port{
		opts:       opts,
		complaints: rarelog.New(opts.Logger, complainEvery),
		gate:       &gate{limit: opts.Tuning.Handshakes, perHost: opts.Tuning.HandshakesPerHost, hosts: map[netip.Addr]int{}},
		throttle:   newThrottle(),
		conns:      newConnections(),
		peers:      newQueue(opts.Listener.Addr()),
		expelled:   make(chan string, 1),
		pipes:      &pipes{slots: make(chan struct{}, opts.Tuning.Pipes)},
	}
	p.raft = &RaftLayer{queue: newQueue(serverAddr(opts.ServerID)), port: p}
	p.clients = newClients(p)
	var err error
	if p.anonymous, err = newAnonymous(); err != nil {
		return nil, err
	}
	p.metrics, err = newMetrics(opts.Registerer, func(proto string) float64 { return float64(p.conns.count(proto)) })
	if err != nil {
		return nil, err
	}
	return p, nil
}

// newAnonymous makes a certificate that names nobody and that nobody trusts.
func newAnonymous() (*tls.Certificate, error) {
	ca, err := pki.NewCA("nobody", time.Now())
	if err != nil {
		return nil, err
	}
	pair, err := ca.IssuePair(pki.FleetRequest("nobody"), time.Now())
	if err != nil {
		return nil, err
	}
	return pair.TLS()
}

// Raft returns the layer for Raft's transport. It is always the same one.
func (p *Port) Raft() *RaftLayer { return p.raft }

// Expelled returns a channel that holds the server ID of a member which has said
// that this node was removed from the cluster, once one has.
func (p *Port) Expelled() <-chan string { return p.expelled }

// Close frees the listener of a Port whose Run is never called.
func (p *Port) Close() error { return p.opts.Listener.Close() }

// Run serves until ctx ends; then it lets calls under way finish for a few
// seconds and closes everything, what it dialled too. It is called once.
func (p *Port) Run(ctx context.Context) error {
	server := p.newServer()
	g := lifecycle.NewGroup(ctx)
	g.Go("accept", p.accept)
	g.Go("serve peers", func(ctx context.Context) error {
		return unlessEnded(ctx, server.Serve(p.peers))
	})
	g.Go("sweep", p.sweep)
	g.Go("stop", func(ctx context.Context) error {
		<-ctx.Done()
		_ = p.opts.Listener.Close()
		p.stop(server)
		return nil
	})
	err := g.Wait()
	p.shaking.Wait()
	p.awaiting.Wait()
	p.pipes.open.Wait()
	return err
}

// stop ends what is under way, calls of others with some patience.
func (p *Port) stop(server *grpc.Server) {
	var wait sync.WaitGroup
	drained := make(chan struct{})
	wait.Go(func() {
		timer := time.NewTimer(drainTimeout)
		defer timer.Stop()
		select {
		case <-timer.C:
			server.Stop()
		case <-drained:
		}
	})
	server.GracefulStop()
	close(drained)
	wait.Wait()
	_ = p.peers.Close()
	_ = p.raft.Close()
	p.clients.closeAll()
	p.conns.closeAll()
}

func (p *Port) accept(ctx context.Context) error {
	for {
		raw, err := p.opts.Listener.Accept()
		switch {
		case err == nil:
		case errors.Is(err, net.ErrClosed):
			return unlessEnded(ctx, fmt.Errorf("node port: %w", err))
		default:
			p.complaints.WarnOf("no connections of nodes can be accepted", "accept", "error", err)
			timer := time.NewTimer(acceptRetry)
			select {
			case <-ctx.Done(): // the listener is closed now
			case <-timer.C:
			}
			timer.Stop()
			continue
		}
		host := hostOf(raw.RemoteAddr())
		if !p.gate.enter(host) {
			p.refuse(raw, &refusedError{reasonBusy, "too many handshakes are under way"})
			continue
		}
		p.shaking.Go(func() {
			defer p.gate.leave(host)
			stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
			defer stop()
			if c, err := p.serve(ctx, raw); err != nil {
				if ctx.Err() != nil { // it is not the other side's fault
					_ = c.Close()
					return
				}
				p.refuse(c, err)
			}
		})
	}
}

// unlessEnded drops the error of what was closed because ctx has ended.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// serve finds out who is there and hands the connection on. With an error it
// returns what to close.
func (p *Port) serve(ctx context.Context, raw net.Conn) (net.Conn, error) {
	_ = raw.SetDeadline(time.Now().Add(p.opts.Tuning.HandshakeTimeout))
	m := p.opts.Membership()
	why := reasonHandshake
	t := tls.Server(raw, p.accepting(m, &why))
	if err := t.HandshakeContext(ctx); err != nil {
		return raw, &refusedError{why, "TLS handshake: " + err.Error()}
	}
	proto := t.ConnectionState().NegotiatedProtocol
	if proto == protoJoin {
		return t, p.answer(ctx, t)
	}
	if proto == protoKafka {
		return p.serveKafka(ctx, t, m)
	}
	c, err := p.greet(t, m, "", nil)
	if err != nil {
		return t, err
	}
	_ = t.SetDeadline(time.Time{})
	to := p.peers
	if proto == protoRaft {
		to = p.raft.queue
	}
	if err := p.conns.add(c); err != nil {
		return c, err
	}
	if err := to.put(c, p.opts.Tuning.HandshakeTimeout); err != nil {
		return c, err
	}
	p.metrics.connections.WithLabelValues(sideAccepted, proto).Inc()
	return c, nil
}

// refuse closes an accepted connection, counts and complains, unless it is this
// node that ends.
func (p *Port) refuse(c net.Conn, err error) {
	_ = c.Close()
	why := reasonHandshake
	if refused, ok := errors.AsType[*refusedError](err); ok {
		why = refused.reason
	}
	p.metrics.refused.WithLabelValues(sideAccepted, string(why)).Inc()
	if errors.Is(err, net.ErrClosed) {
		return
	}
	p.complaints.WarnOf("connection from a node refused", hostOf(c.RemoteAddr()).String()+" "+string(why),
		"remote", c.RemoteAddr().String(), "reason", why, "error", err)
}

// sweep closes connections whose peer's certificate has ended or that was
// removed, and clients that nobody uses.
func (p *Port) sweep(ctx context.Context) error {
	ticker := time.NewTicker(p.opts.Tuning.SweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			p.conns.closeIf(func(c *conn) bool {
				return now.After(c.until) || (p.opts.Removed != nil && p.opts.Removed(c.peer.ServerID))
			})
			p.clients.sweep(now)
		}
	}
}

func errNotServed() error {
	return &refusedError{reasonNotServed, "this node does not serve the protocol now"}
}

// errEnding is what a connection meets that came too late.
func errEnding() error { return fmt.Errorf("%w: %w", errNotServed(), net.ErrClosed) }

func errNoAddress() error {
	return fmt.Errorf("no other node knows its address now: %w", fleet.ErrUnavailable)
}
