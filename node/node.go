// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"muster/agentrpc"
	"muster/gossip"
	"muster/httpapi"
	"muster/internal/lifecycle"
	"muster/internal/quickconn"
	"muster/peerrpc"
	"muster/raftstore"
	"muster/recordlog"
)

// Env is what a node stands on; the zero value is the machine itself. Tests
// put a network in memory here.
type Env struct {
	Logger *slog.Logger // nil discards
	// Listen and Dial are the network; nil means the machine's TCP.
	Listen func(network, address string) (net.Listener, error)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	// GossipSockets binds the gossip address; nil means gossip.Listen.
	GossipSockets func(address string) (net.Listener, net.PacketConn, error)
	// Fatal is told of a disk that fails or lies; nil ends the process with code 1.
	Fatal func(error)
	Build Build
}

// Build says what program this is.
type Build struct{ Version, Commit, BuiltAt string }

// Node is one Muster node. New makes it, Run runs it once.
type Node struct {
	cfg     Config
	env     Env
	log     *slog.Logger
	metrics *prometheus.Registry

	parts
	gauges
	shedding shedding
	started  time.Time
	ready    chan struct{} // closed once everything runs
	draining atomic.Bool
	first    chan struct{} // full while the first user is made
	// waits says what a node that is not ready waits for.
	waits     atomic.Pointer[string]
	apart     apart
	storeRuns atomic.Bool // the store closes its files itself
}

// parts are what a node is made of, in the order in which they are opened.
type parts struct {
	sockets sockets
	kafka   recordlog.Options // what the files of the flags say
	store   *raftstore.Store
	trust   *trust
	// promises and port are how the node deals with other ones.
	promises *peerrpc.Promises
	port     *peerrpc.Port
	broker   *recordlog.Embedded // nil when Kafka is elsewhere
	records  *recordlog.Log
	members  *gossip.Mesh
	agents   *agentrpc.Server
	api      *httpapi.API
}

// gauges are what the node measures of itself.
type gauges struct {
	limit int   // of sessions
	rate  meter // of records
	usage usage
	// applied is what the other members have.
	applied appliedWatch
}

// sockets are the listeners, bound before anything starts.
type sockets struct {
	sd, http     []net.Listener
	https, agent net.Listener
	node         net.Listener

	gossip        net.Listener
	gossipPackets net.PacketConn
}

// New checks the config, opens every file and binds every port, and starts
// nothing. On an error everything is closed again and nothing has changed.
func New(cfg Config, env Env) (*Node, error) {
	env.fill()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, env: env, log: env.Logger, started: time.Now(),
		metrics: prometheus.NewRegistry(), ready: make(chan struct{}), first: make(chan struct{}, 1),
	}
	n.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := n.open(); err != nil {
		return nil, errors.Join(err, n.abandon())
	}
	n.metrics.MustRegister(newCollector(n))
	return n, nil
}

func (e *Env) fill() {
	if e.Logger == nil {
		e.Logger = slog.New(slog.DiscardHandler)
	}
	if e.Listen == nil {
		e.Listen = quickconn.Listen
	}
	if e.Dial == nil {
		e.Dial = quickconn.Dial
	}
	if e.GossipSockets == nil {
		e.GossipSockets = gossip.Listen
	}
	if e.Fatal == nil {
		logger := e.Logger
		e.Fatal = func(err error) {
			logger.Error("the disk failed, the node stops before it answers anything wrong", "error", err)
			os.Exit(1)
		}
	}
}

// open opens the parts in the order in which a fault is cheapest to find.
func (n *Node) open() error {
	for _, step := range []func() error{
		n.bind, n.behindProxies, n.readFiles, n.openStore, n.openPeers, n.openKafka, n.openGossip, n.openAgents, n.openAPI,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// Run starts the parts in order, serves until ctx ends or a part fails, and
// stops them in reverse. It returns nil after a stop that was asked for.
func (n *Node) Run(ctx context.Context) error {
	n.log.Info("node is starting", "node", n.cfg.NodeID, "server", n.trust.serverID, "version", n.env.Build.Version, "data_dir", n.cfg.DataDir,
		"advertise", n.cfg.Advertise, "join", n.cfg.Cluster.Join)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stack := lifecycle.NewStack()
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case err := <-stack.Failed():
			cancel(err)
		case <-ctx.Done():
		}
	})
	err := n.start(ctx, stack)
	if err == nil {
		close(n.ready)
		n.members.Hurry()
		n.log.Info("node is ready", "node", n.cfg.NodeID, "version", n.env.Build.Version,
			"agents", n.self().AgentAddr, "sd", n.Addrs().SD, "http", n.Addrs().HTTP, "https", n.Addrs().HTTPS, "took", time.Since(n.started).Round(time.Millisecond))
		<-ctx.Done()
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	} else if errors.Is(err, context.Canceled) {
		err = nil
	}
	n.draining.Store(true)
	began := time.Now()
	n.log.Info("node is stopping")
	n.leaveDiscovery()
	stopped := stack.Stop(stopWithin)
	cancel(nil)
	watch.Wait()
	n.log.Info("node has stopped", "took", time.Since(began).Round(time.Millisecond), "ledger", n.records.Ledger())
	return errors.Join(err, stopped, n.abandon())
}

// start brings the parts up in the order in which they are not stopped. Those
// that need the replicated state, or are for agents, wait for it; HTTP says
// meanwhile what the node waits for.
func (n *Node) start(ctx context.Context, stack *lifecycle.Stack) error {
	member, current := make(chan struct{}), make(chan struct{})
	after := func(gate <-chan struct{}, run func(ctx context.Context) error) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			select {
			case <-gate:
				return run(ctx)
			case <-ctx.Done():
				return nil
			}
		}
	}
	n.members.Yield() // until enter has looked for another node with this one's name
	stack.Start("node port", n.port.Run)
	stack.Start("gossip", n.members.Run)
	stack.Start("state", after(member, n.runStore))
	stack.Start("leader's duties", after(member, n.lead))
	stack.Start("certificates", after(current, n.trust.Run))
	if n.broker != nil {
		stack.Start("embedded kafka", n.broker.Run)
	}
	stack.Start("record log", n.records.Run)
	stack.Start("agents", n.agents.Run) // handshakes fail before there are certificates
	stack.Start("balance", after(current, n.balance))
	stack.Start("membership", after(member, n.watchRemoval))
	stack.Start("names", after(member, n.watchRivals))
	stack.Start("http", n.serveHTTP)
	joining := !n.store.Bootstrapped()
	if err := n.enter(ctx, func() { close(member) }); err != nil {
		return err
	}
	if joining {
		n.sayFirstUser()
	}
	n.shedding.drained.Store(n.Draining(n.trust.serverID)) // before anybody is told that it is ready
	close(current)
	return ctx.Err()
}

func (n *Node) runStore(ctx context.Context) error {
	n.storeRuns.Store(true)
	return n.store.Run(ctx)
}

// leaveDiscovery has the other nodes send no more agents here, before those
// that are here are sent away.
func (n *Node) leaveDiscovery() {
	others := 0
	for _, m := range n.members.Members() {
		if m.Alive && m.NodeID != n.cfg.NodeID {
			others++
		}
	}
	if others == 0 {
		return
	}
	n.members.Hurry()
	timer := time.NewTimer(leaveWait)
	defer timer.Stop()
	<-timer.C
}

// serveHTTP answers on every HTTP listener.
func (n *Node) serveHTTP(ctx context.Context) error {
	g := lifecycle.NewGroup(ctx)
	serve := func(kind httpapi.Listener, ln net.Listener) {
		g.Go(ln.Addr().String(), func(ctx context.Context) error { return n.api.Serve(ctx, kind, ln, nil) })
	}
	for _, ln := range n.sockets.sd {
		serve(httpapi.ListenerSD, ln)
	}
	for _, ln := range n.sockets.http {
		serve(httpapi.ListenerHTTP, ln)
	}
	g.Go("https", func(ctx context.Context) error {
		return n.api.Serve(ctx, httpapi.ListenerHTTPS, n.sockets.https, n.trust.webTLS())
	})
	return g.Wait()
}

// Ready is closed once the node serves.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// PasswordFile is where the first user's password stands, if it was not removed.
func (n *Node) PasswordFile() string { return filepath.Join(n.cfg.DataDir, passwordFile) }

// Addrs are the addresses that the node listens on.
func (n *Node) Addrs() Addrs {
	list := func(in []net.Listener) (out []string) {
		for _, l := range in {
			out = append(out, l.Addr().String())
		}
		return out
	}
	return Addrs{
		SD: list(n.sockets.sd), HTTP: list(n.sockets.http),
		HTTPS: n.sockets.https.Addr().String(), Agent: n.sockets.agent.Addr().String(),
		Node: n.sockets.node.Addr().String(), Gossip: n.sockets.gossip.Addr().String(),
	}
}

// Addrs are a node's bound addresses, HOST:PORT.
type Addrs struct {
	SD, HTTP     []string
	HTTPS, Agent string
	Node, Gossip string
}
