// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
	"muster/internal/memnet"
	"muster/internal/pki"
	"muster/peerrpc"
)

const clusterID = "c1"

// world is a cluster's CA and nodes on a network in memory.
type world struct {
	t     testing.TB
	net   *memnet.Network
	ca    *pki.CA
	nodes map[string]*node
	addrs sync.Map // what gossip knows: server ID -> address
	wg    sync.WaitGroup
	// closers end what else serves.
	closers []func() error
}

type node struct {
	w          *world
	id         string
	listen     func(network, addr string) (net.Listener, error)
	addr       string
	port       *peerrpc.Port
	opts       peerrpc.Options
	membership atomic.Pointer[peerrpc.Membership]
	removed    sync.Map
	moved      sync.Map // server ID -> address, instead of the true one
	handler    *handler
	kafka      func(ctx context.Context) (net.Conn, error) // nil: no broker
	log        *logBuffer
	metrics    *prometheus.Registry
	stop       context.CancelFunc
	done       chan struct{}
}

func inBubble(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		test(t, w)
		w.end()
	})
}

func newWorld(t testing.TB) *world {
	t.Helper()
	ca, err := pki.NewCA(clusterID, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, net: memnet.New(), ca: ca, nodes: map[string]*node{}}
}

func (w *world) end() {
	for _, n := range w.nodes {
		n.stop()
	}
	for _, c := range w.closers {
		_ = c()
	}
	w.wg.Wait()
}

func serverID(name string) string { return name + "~0a1b2c3d" }

// start runs a member at an address of its own.
func (w *world) start(name, ip string, change ...func(*node)) *node {
	w.t.Helper()
	n := w.prepare(name, ip)
	n.membership.Store(w.member(w.ca, pki.NodeRequest(clusterID, n.id)))
	for _, c := range change {
		c(n)
	}
	n.run()
	return n
}

// prepare makes a node that belongs to no cluster.
func (w *world) prepare(name, ip string) *node {
	key, err := pki.JoinKey([]byte("a secret of the cluster"))
	if err != nil {
		w.t.Fatal(err)
	}
	host := w.net.Host(ip)
	n := &node{
		w: w, id: serverID(name), listen: host.Listen, addr: ip + ":6760",
		handler: &handler{}, log: &logBuffer{}, metrics: prometheus.NewRegistry(),
	}
	w.nodes[n.id] = n
	n.opts = peerrpc.Options{
		Dial: host.DialContext, ServerID: n.id, JoinKey: key, Membership: n.membership.Load,
		Resolve: func(id string) string {
			if addr, ok := n.moved.Load(id); ok {
				return addr.(string)
			}
			addr, _ := w.addrs.LoadOrStore(id, "")
			return addr.(string)
		},
		Removed: func(id string) bool { _, ok := n.removed.Load(id); return ok },
		Handler: n.handler, Issuer: issuer{w}, Promiser: promiser(func(peerrpc.Candidate) error { return nil }),
		Logger: slog.New(slog.NewTextHandler(n.log, nil)), Registerer: n.metrics,
	}
	return n
}

func (n *node) run() {
	n.w.t.Helper()
	var err error
	if n.opts.Listener, err = n.listen("tcp", n.addr); err != nil {
		n.w.t.Fatal(err)
	}
	n.addr = n.opts.Listener.Addr().String()
	if n.port, err = peerrpc.New(n.opts); err != nil {
		n.w.t.Fatal(err)
	}
	if n.kafka != nil {
		n.port.ServeKafka(n.kafka)
	}
	n.w.addrs.Store(n.id, n.addr)
	ctx, cancel := context.WithCancel(context.Background())
	n.stop, n.done = cancel, make(chan struct{})
	n.w.wg.Go(func() {
		defer close(n.done)
		if err := n.port.Run(ctx); err != nil {
			n.w.t.Errorf("Run of %s: %v", n.id, err)
		}
	})
}

// move stops the node and starts it again at another address.
func (n *node) move(ip string) {
	n.stop()
	<-n.done
	host := n.w.net.Host(ip)
	n.listen, n.opts.Dial, n.addr = host.Listen, host.DialContext, ip+":6760"
	n.metrics = prometheus.NewRegistry()
	n.opts.Registerer = n.metrics
	n.run()
}

func (w *world) member(ca *pki.CA, r pki.Request) *peerrpc.Membership {
	w.t.Helper()
	return w.memberAt(ca, r, time.Now())
}

func (w *world) memberAt(ca *pki.CA, r pki.Request, at time.Time) *peerrpc.Membership {
	w.t.Helper()
	pair, err := ca.IssuePair(r, at)
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		w.t.Fatal(err)
	}
	return &peerrpc.Membership{ClusterID: clusterID, CA: ca.Certificate(), Certificate: cert}
}

// echoRaft answers what it hears on connections of raft.
func (n *node) echoRaft() {
	n.w.wg.Go(func() {
		for {
			c, err := n.port.Raft().Accept()
			if err != nil {
				return
			}
			n.w.wg.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
}

// count returns a counter's value, in a bubble; labels are name, value pairs.
func (n *node) count(name string, labels ...string) float64 {
	n.w.t.Helper()
	synctest.Wait() // until what is under way has been counted
	families, err := n.metrics.Gather()
	if err != nil {
		n.w.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "muster_peerrpc_"+name {
			continue
		}
	next:
		for _, m := range f.GetMetric() {
			for i := 0; i < len(labels); i += 2 {
				found := false
				for _, l := range m.GetLabel() {
					found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
				}
				if !found {
					continue next
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// handler is a peerrpc.Handler of functions.
type handler struct {
	propose   func(ctx context.Context, entry []byte) ([]byte, uint64, error)
	readIndex func(ctx context.Context) (uint64, error)
	state     fleet.NodeState
}

func (h *handler) Propose(ctx context.Context, entry []byte) ([]byte, uint64, error) {
	return h.propose(ctx, entry)
}
func (h *handler) ReadIndex(ctx context.Context) (uint64, error)      { return h.readIndex(ctx) }
func (h *handler) NodeState(context.Context) (fleet.NodeState, error) { return h.state, nil }

type promiser func(c peerrpc.Candidate) error

func (p promiser) Promise(_ context.Context, c peerrpc.Candidate) error { return p(c) }

type issuer struct{ w *world }

func (i issuer) IssueNode(_ context.Context, id string, key crypto.PublicKey) (peerrpc.Issued, error) {
	node, err := i.w.ca.Issue(pki.NodeRequest(clusterID, id), key, time.Now())
	return peerrpc.Issued{ClusterID: clusterID, CA: i.w.ca.CertPEM(), Node: node}, err
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// lines returns the log lines at WARN that contain all texts.
func (l *logBuffer) lines(texts ...string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for line := range strings.Lines(l.b.String()) {
		ok := strings.Contains(line, "level=WARN")
		for _, t := range texts {
			ok = ok && strings.Contains(line, t)
		}
		if ok {
			n++
		}
	}
	return n
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// eventually waits in the bubble until something holds.
func eventually(t *testing.T, what string, within time.Duration, holds func() bool) {
	t.Helper()
	for start := time.Now(); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Since(start) > within {
			t.Fatalf("%s: not after %v", what, within)
		}
	}
}

func echo(t *testing.T, c net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	_, werr := c.Write([]byte(text))
	_, rerr := io.ReadFull(c, got)
	if err := errors.Join(werr, rerr); err != nil || string(got) != text {
		t.Fatalf("echo of %q: %q, %v", text, got, err)
	}
}
