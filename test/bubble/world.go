// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster/internal/memnet"
	"muster/node"
)

// The hosts of a World.
const (
	NodeIP     = "10.0.0.1"
	KafkaIP    = "10.0.0.9" // of a Kafka outside the node, see StartKafka
	AgentIP    = "10.0.1.1"
	OperatorIP = "10.0.2.1"
)

// The node's addresses.
const (
	SDAddr    = NodeIP + ":8088"
	HTTPAddr  = NodeIP + ":6701"
	AgentAddr = NodeIP + ":6751"
	HTTPSAddr = NodeIP + ":6752"
)

// Admin is the first user, and AdminPassword the password that it is given.
const (
	Admin         = "admin"
	AdminPassword = "correct horse battery staple"
)

// startWithin bounds a node's start and stop, in the bubble's time.
const startWithin = time.Minute

// World is a network in memory with a node on it and everybody who speaks to
// it. It belongs to one bubble; its methods are for the test's goroutine.
type World struct {
	T   *testing.T
	Net *memnet.Network
	// Config is what the node gets at its next Start.
	Config node.Config
	// Node runs between Start and Stop.
	Node *node.Node
	Log  *Log

	stop    func() error
	client  *http.Client
	session session
	running sync.WaitGroup
	closers []func()
}

// Run runs a test in a bubble, with a node that was started and will be
// stopped. The changes are made to its config before.
func Run(t *testing.T, test func(t *testing.T, w *World), change ...func(*node.Config)) {
	t.Helper()
	// Two processors that run timers of one bubble at once share a context of the
	// race detector, which is not made for that and crashes now and then, the
	// sooner the more timers fire (go.dev/issue/78156). On one processor they
	// cannot; what races is found by its order, not by its time.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	dir := filepath.Join(t.TempDir(), "data")
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir)
		for _, c := range change {
			c(&w.Config)
		}
		t.Cleanup(w.end)
		w.Start()
		test(t, w)
	})
}

func newWorld(t *testing.T, dir string) *World {
	w := &World{
		T: t, Net: memnet.New(), Log: &Log{},
		Config: node.Config{
			NodeID: "node-a", DataDir: dir, Bind: NodeIP, Advertise: NodeIP, Profile: "lan",
			Listen: node.ListenConfig{
				SD: []string{SDAddr}, HTTP: []string{HTTPAddr}, HTTPS: HTTPSAddr,
				AllowPlainHTTP: true, Node: ":6760", Gossip: ":7946",
			},
			Agents:        node.AgentConfig{Addr: AgentAddr, Limit: 1000},
			Cluster:       node.ClusterConfig{BootstrapExpect: -1},
			Kafka:         node.KafkaConfig{Topic: "hids_svr", RetentionBytes: 1 << 30, Compression: "none"},
			AdminPassword: AdminPassword,
			Small:         true,
		},
	}
	w.client = &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			DialContext:       w.Net.Host(OperatorIP).DialContext,
			DisableKeepAlives: true, // nothing is left over between requests
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return w
}

// end stops all that still runs.
func (w *World) end() {
	for _, closer := range slices.Backward(w.closers) {
		closer()
	}
	if w.Node != nil {
		w.Stop()
	}
	w.running.Wait()
	if w.T.Failed() {
		w.T.Logf("log of the node:\n%s", w.Log.Tail(16<<10))
	}
}

// later has a function called at the end of the test, before the node stops.
func (w *World) later(f func()) { w.closers = append(w.closers, f) }

// Pass lets so much time pass, and waits until everybody rests.
func (w *World) Pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// Go runs a function that has ended before the test has.
func (w *World) Go(f func()) { w.running.Go(f) }

// Start starts the node and waits until it is ready.
func (w *World) Start() {
	w.T.Helper()
	host := w.Net.Host(NodeIP)
	n, err := node.New(w.Config, node.Env{
		Logger: slog.New(slog.NewTextHandler(w.Log, nil)),
		Listen: host.Listen,
		Dial:   host.DialContext,
		GossipSockets: func(addr string) (net.Listener, net.PacketConn, error) {
			l, err := host.Listen("tcp", addr)
			if err != nil {
				return nil, nil, err
			}
			p, err := host.ListenPacket("udp", addr)
			return l, p, err
		},
		Fatal: func(err error) { w.T.Errorf("the node's disk failed: %v", err) },
	})
	if err != nil {
		w.T.Fatalf("node.New: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	w.running.Go(func() { done <- n.Run(ctx) })
	w.Node = n
	w.stop = func() error {
		cancel()
		return <-done
	}
	select {
	case <-n.Ready():
	case err := <-done:
		done <- err
		w.T.Fatalf("the node ended before it was ready: %v", err)
	case <-time.After(startWithin):
		w.T.Fatalf("the node was not ready within %s", startWithin)
	}
}

// Stop stops the node as SIGTERM does, and fails the test if it did not end
// well. It returns how long that took.
func (w *World) Stop() time.Duration {
	w.T.Helper()
	began := time.Now()
	n := w.Node
	w.Node = nil
	if err := w.stop(); err != nil {
		w.T.Errorf("the node did not stop well: %v", err)
	}
	if l := n.Ledger(); l.Pending != 0 {
		w.T.Errorf("after a clean stop %d records are pending", l.Pending)
	}
	return time.Since(began)
}

// StopFor has the node stopped for so long: time costs nothing then.
func (w *World) StopFor(d time.Duration) {
	w.T.Helper()
	w.Stop()
	<-time.After(d)
	w.Start()
}

// Eventually waits until check returns nil, looking each 10 ms of the bubble's
// time, and fails the test with its last error after the deadline.
func (w *World) Eventually(within time.Duration, what string, check func() error) {
	w.T.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); ; <-tick.C {
		synctest.Wait()
		err := check()
		if err == nil {
			return
		}
		if !time.Now().Before(deadline) {
			w.T.Fatalf("%s: not within %s: %v", what, within, err)
		}
	}
}

// Log collects what a node logs. It is safe for concurrent use.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write appends.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// Tail returns at most the last n bytes.
func (l *Log) Tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buf.Bytes()
	return string(b[max(0, len(b)-n):])
}
