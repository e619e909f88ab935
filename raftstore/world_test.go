// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"muster/fleet"
	"muster/internal/memnet"
	"muster/raftstore"
)

// world is a cluster in one process, over a network in memory.
type world struct {
	t    *testing.T
	net  *memnet.Network
	base string
	// tune changes the options of every node that is started.
	tune func(o *raftstore.Options)

	mu      sync.Mutex
	members map[string]*member // by name
	cut     map[string]bool    // IPs that nobody reaches
	split   map[[2]string]bool // pairs of IPs, both ways
	mute    bool               // Peers answers nobody, though raft works
	dials   map[string]int     // how often raft dialled a server, by ID
	// answered is called after a member carried out a proposal; an error is what
	// the asking one gets instead of the answer.
	answered func(from, to *member) error
}

// member is a node with its place in the network.
type member struct {
	*node
	w              *world
	name, ip, dir  string
	alive          bool // guarded by w.mu
	serverID, addr string
}

// bubble runs a test on synthetic time. One processor: the race detector cannot
// stand timers of one bubble on two (go.dev/issue/78156).
func bubble(t *testing.T, test func(w *world)) {
	t.Helper()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	base := t.TempDir()
	synctest.Test(t, func(t *testing.T) { test(newWorld(t, base)) })
}

func newWorld(t *testing.T, base string) *world {
	return &world{
		t: t, base: base, net: memnet.New(), members: make(map[string]*member),
		cut: make(map[string]bool), split: make(map[[2]string]bool), dials: make(map[string]int),
	}
}

// layer is raft's stream layer on one host. As with peerrpc, the addresses that
// raft knows are server IDs, so nobody is mistaken for who was there before.
type layer struct {
	net.Listener
	w    *world
	host *memnet.Host
	id   string
}

type serverAddr string

func (serverAddr) Network() string  { return "raft" }
func (a serverAddr) String() string { return string(a) }

func (l layer) Addr() net.Addr { return serverAddr(l.id) }

func (l layer) Dial(id raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	address, err := l.w.lookup(string(id))
	if err != nil {
		return nil, err
	}
	return l.host.DialContext(ctx, "tcp", address)
}

// start runs node number i, on its own directory unless dir says otherwise.
func (w *world) start(i int, dir string) *member {
	w.t.Helper()
	m := &member{w: w, name: fmt.Sprintf("n%d", i), ip: fmt.Sprintf("10.0.0.%d", i), dir: dir}
	if dir == "" {
		m.dir = filepath.Join(w.base, m.name)
	}
	host := w.net.Host(m.ip)
	l, err := host.Listen("tcp", m.ip+raftPort)
	must(w.t, err)
	opts := options(m.dir)
	opts.NodeName, opts.Peers = m.name, peers{m}
	opts.Fatal = func(err error) { w.t.Errorf("node %s: %v", m.name, err) }
	opts.Tuning.Election = 500 * time.Millisecond
	opts.Transport = func(id string) raft.Transport {
		return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: layer{l, w, host, id}, MaxPool: 3, Timeout: 2 * time.Second, Logger: hclog.NewNullLogger(),
		})
	}
	if w.tune != nil {
		w.tune(&opts)
	}
	n := run(w.t, opts)
	stop := n.stop
	n.stop = func() {
		w.mu.Lock()
		m.alive = false
		w.mu.Unlock()
		stop()
		w.net.Kill(m.ip)
	}
	w.t.Cleanup(n.stop)
	w.mu.Lock()
	defer w.mu.Unlock()
	m.node, m.serverID, m.addr, m.alive = n, n.ServerID(), n.ServerID(), true
	w.members[m.name] = m
	return m
}

const raftPort = ":6760"

// lookup does what gossip does: it knows where a server is.
func (w *world) lookup(id string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dials[id]++
	for _, m := range w.members {
		if m.serverID == id {
			return m.ip + raftPort, nil
		}
	}
	return "", fmt.Errorf("the address of %s is not known", id)
}

func (w *world) dialled(id string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials[id]
}

// form founds a cluster with node 1 and has the others join it.
func (w *world) form(n int) []*member {
	w.t.Helper()
	first := w.start(1, "")
	must(w.t, first.Bootstrap(w.t.Context(), "cluster-1", []byte("ca")))
	all := []*member{first}
	for i := 2; i <= n; i++ {
		m := w.start(i, "")
		must(w.t, first.Join(w.t.Context(), m.serverID, m.name, m.addr))
		all = append(all, m)
	}
	w.settled(n)
	return all
}

// settled waits until n servers vote, and all that run are ready and equal:
// nobody may write.
func (w *world) settled(n int) {
	w.t.Helper()
	w.voting(n)
	w.same()
}

// voting waits until n servers vote and all that run are ready.
func (w *world) voting(n int) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d voters", n), func() bool {
		l := w.leader()
		if l == nil {
			return false
		}
		servers, err := l.Servers()
		must(w.t, err)
		voters := 0
		for _, s := range servers {
			if s.Voter {
				voters++
			}
		}
		for _, m := range w.running() {
			if !m.Ready() {
				return false
			}
		}
		return voters == n
	})
}

// same waits until all running members are ready and at one index, with one hash.
func (w *world) same() {
	w.t.Helper()
	eventually(w.t, "all are at one index", func() bool {
		var at uint64
		for _, m := range w.running() {
			applied, _ := m.State()
			if at == 0 {
				at = applied
			}
			if !m.Ready() || !m.Current() || applied != at {
				return false
			}
		}
		return true
	})
	hashes := map[string]string{}
	for _, m := range w.running() {
		applied, hash := m.State()
		hashes[fmt.Sprint(applied, hash)] = m.name
		if why := m.Status().Quarantined; why != "" {
			w.t.Errorf("%s: %s", m.name, why)
		}
	}
	if len(hashes) != 1 {
		w.t.Fatalf("hashes at one index: %v", hashes)
	}
}

func (w *world) running() (list []*member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := 1; i <= len(w.members)+9; i++ {
		if m := w.members[fmt.Sprintf("n%d", i)]; m != nil && m.alive {
			list = append(list, m)
		}
	}
	return list
}

// leader returns the one that leads with the highest term, or nil.
func (w *world) leader() (best *member) {
	for _, m := range w.running() {
		if m.Leads() && (best == nil || m.Status().Term > best.Status().Term) {
			best = m
		}
	}
	return best
}

func (w *world) others(not *member) (list []*member) {
	for _, m := range w.running() {
		if m != not {
			list = append(list, m)
		}
	}
	return list
}

// die ends a member as kill -9 would: from this moment on nothing that it says
// reaches anybody. bury frees what is left of it.
func (m *member) die() {
	w := m.w
	w.mu.Lock()
	m.alive = false
	w.mu.Unlock()
	w.net.Cut(m.ip)
	w.net.Kill(m.ip)
}

func (m *member) bury() {
	m.stop()
	m.w.net.Heal(m.ip)
}

func (m *member) kill() {
	m.die()
	m.bury()
}

// again starts a member that was stopped.
func (m *member) again() *member {
	var i int
	_, err := fmt.Sscanf(m.name, "n%d", &i)
	must(m.w.t, err)
	return m.w.start(i, m.dir)
}

// isolate cuts a member off until join.
func (m *member) isolate() {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	m.w.cut[m.ip] = true
	m.w.net.Cut(m.ip)
}

func (m *member) rejoin() {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	delete(m.w.cut, m.ip)
	m.w.net.Heal(m.ip)
}

// divide silences every link between the two sides.
func (w *world) divide(a, b []*member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range a {
		for _, y := range b {
			w.split[[2]string{x.ip, y.ip}], w.split[[2]string{y.ip, x.ip}] = true, true
			w.net.Partition(x.ip, y.ip)
		}
	}
}

func (w *world) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.split)
	clear(w.cut)
	w.net.Heal()
}

// reach finds a running member, and whether the link to it is silent.
func (w *world) reach(from *member, id string) (to *member, silent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.members {
		if m.serverID == id && m.alive {
			return m, w.mute || w.cut[from.ip] || w.cut[m.ip] || w.split[[2]string{from.ip, m.ip}] || !from.alive
		}
	}
	return nil, false
}

// peers calls other members as peerrpc does over the network.
type peers struct{ from *member }

var errReset = errors.New("connection reset")

func (p peers) call(ctx context.Context, id string, fn func(to *member) error) error {
	to, silent := p.from.w.reach(p.from, id)
	if to == nil {
		return fmt.Errorf("calling %s: %w", id, fleet.ErrUnavailable)
	}
	if silent {
		<-ctx.Done()
		return fmt.Errorf("calling %s: %w", id, fleet.ErrTimeout)
	}
	err := fn(to)
	if now, silent := p.from.w.reach(p.from, id); now != to {
		return errReset
	} else if silent {
		<-ctx.Done()
		return fmt.Errorf("calling %s: %w", id, fleet.ErrTimeout)
	}
	return err
}

func (p peers) Propose(ctx context.Context, id string, entry []byte) (answer []byte, index uint64, err error) {
	err = p.call(ctx, id, func(to *member) error {
		answer, index, err = to.HandleProposal(ctx, entry)
		if hook := p.from.w.hook(); err == nil && hook != nil {
			err = hook(p.from, to)
		}
		return err
	})
	return answer, index, err
}

func (w *world) hook() func(from, to *member) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.answered
}

func (w *world) muted(yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mute = yes
}

func (w *world) onAnswer(fn func(from, to *member) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answered = fn
}

func (p peers) ReadIndex(ctx context.Context, id string) (index uint64, err error) {
	err = p.call(ctx, id, func(to *member) error {
		index, err = to.HandleReadIndex(ctx)
		return err
	})
	return index, err
}

func (p peers) State(ctx context.Context, id string) (state raftstore.PeerState, err error) {
	err = p.call(ctx, id, func(to *member) error {
		state = to.HandleState()
		return nil
	})
	return state, err
}

// pass lets so much of the bubble's time pass.
func pass(d time.Duration) { time.Sleep(d) }

func raftID(m *member) raft.ServerID        { return raft.ServerID(m.serverID) }
func raftAddr(m *member) raft.ServerAddress { return raft.ServerAddress(m.addr) }
