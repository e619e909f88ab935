// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster/agentrpc"
	"muster/fleet"
)

// nodes are servers that hear each other's claims through memory. Their IDs are
// n1, n2 and so on; each has its own network of agents and its own store.
type nodes struct {
	t      *testing.T
	worlds map[string]*world
	logs   map[string]*bytes.Buffer // read them after the stop

	mu    sync.Mutex
	cut   map[[2]string]bool // calls hang
	gone  map[[2]string]bool // and the nodes do not see each other
	calls map[[2]string]int
	sizes map[[2]string][]int
	busy  map[[2]string]bool
	// fault may change what becomes of a call; nth counts the calls from one
	// node to another, beginning with 1.
	fault func(from, to string, nth int) fault
}

// fault is what goes wrong with a call.
type fault struct {
	before, after       time.Duration // waits
	loseCall, loseReply bool          // the caller hears nothing
	twice               bool
}

// someNodes runs a test with servers that are stopped at the end. Each offset is
// that of a node's clock.
func someNodes(t *testing.T, offsets []time.Duration, test func(t *testing.T, n *nodes)) {
	t.Helper()
	dirs := make([]string, len(offsets))
	for i := range dirs {
		dirs[i] = t.TempDir()
	}
	synctest.Test(t, func(t *testing.T) {
		n := newNodes(t, dirs, offsets)
		t.Cleanup(n.stop)
		test(t, n)
	})
}

func newNodes(t *testing.T, dirs []string, offsets []time.Duration) *nodes {
	n := &nodes{
		t: t, worlds: make(map[string]*world), logs: make(map[string]*bytes.Buffer),
		cut: make(map[[2]string]bool), gone: make(map[[2]string]bool),
		calls: make(map[[2]string]int), sizes: make(map[[2]string][]int), busy: make(map[[2]string]bool),
	}
	// Nobody calls before all are there.
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, offset := range offsets {
		id := fmt.Sprint("n", i+1)
		n.logs[id] = &bytes.Buffer{}
		n.worlds[id] = newWorld(t, dirs[i], func(o *agentrpc.Options) {
			o.Node, o.Peers = id, &peersOf{nodes: n, id: id}
			o.Tuning.Clock = func() time.Time { return time.Now().Add(offset) }
			o.Logger = slog.New(slog.NewTextHandler(n.logs[id], nil))
		})
	}
	return n
}

// stop ends the agents first: those that were cut off would never notice.
func (n *nodes) stop() {
	for _, w := range n.worlds {
		for _, conn := range w.clients {
			_ = conn.Close()
		}
	}
	for _, id := range n.ids() {
		n.worlds[id].stop()
	}
}

func (n *nodes) ids() []string { return slices.Sorted(maps.Keys(n.worlds)) }

// part lets the calls between two nodes hang; when they know, they are gone from
// each other's lists too.
func (n *nodes) part(a, b string, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, pair := range [][2]string{{a, b}, {b, a}} {
		n.cut[pair], n.gone[pair] = true, known
	}
}

func (n *nodes) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
	clear(n.gone)
}

func (n *nodes) setFault(f func(from, to string, nth int) fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fault = f
}

// holders are the nodes that count a session of the agent.
func (n *nodes) holders(agentID string) []string {
	var out []string
	for _, id := range n.ids() {
		if _, ok := n.worlds[id].srv.Session(agentID); ok {
			out = append(out, id)
		}
	}
	return out
}

// watch lets time pass and tells for how long of it the agent was counted more
// than once.
func (n *nodes) watch(agentID string, d time.Duration) (twice time.Duration) {
	const tick = 10 * time.Millisecond
	for range d / tick {
		time.Sleep(tick)
		synctest.Wait()
		if len(n.holders(agentID)) > 1 {
			twice += tick
		}
	}
	n.t.Logf("%s was counted twice for %v", agentID, twice)
	return twice
}

// only fails the test unless exactly one node holds the agent.
func (n *nodes) only(agentID, node string) {
	n.t.Helper()
	if got := n.holders(agentID); !slices.Equal(got, []string{node}) {
		n.t.Errorf("%s is held by %v, want %s alone", agentID, got, node)
	}
}

// die cuts an agent off its node without a word; the stream stays until the
// node's keepalive finds out.
func (w *world) die(ip string) { w.net.Partition(ip, serverIP) }

// chatter lets an agent deliver something every 100 ms until the stream ends or
// stop is called.
func (w *world) chatter(a *agent) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	raw := mustMarshal(a.id, record(59))
	w.running.Go(func() {
		for {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return
			case <-a.ended:
				return
			}
			if a.stream.SendMsg(raw) != nil {
				return
			}
		}
	})
	return cancel
}

// peersOf is what a node sees of the others.
type peersOf struct {
	nodes *nodes
	id    string
}

func (p *peersOf) Nodes() []string {
	n := p.nodes
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for id := range n.worlds {
		if id != p.id && !n.gone[[2]string{p.id, id}] {
			out = append(out, id)
		}
	}
	return out
}

func (p *peersOf) Claim(ctx context.Context, to string, claims []fleet.Claim) ([]fleet.Claim, error) {
	n, pair := p.nodes, [2]string{p.id, to}
	n.mu.Lock()
	if n.busy[pair] {
		n.t.Errorf("two calls from %s to %s at once", p.id, to)
	}
	n.busy[pair] = true
	n.calls[pair]++
	n.sizes[pair] = append(n.sizes[pair], len(claims))
	var f fault
	if n.fault != nil {
		f = n.fault(p.id, to, n.calls[pair])
	}
	cut, srv := n.cut[pair], n.worlds[to].srv
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.busy[pair] = false
	}()
	if cut || f.loseCall || !wait(ctx, f.before) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	refused := srv.HandleClaims(claims)
	if f.twice {
		refused = srv.HandleClaims(claims)
	}
	if f.loseReply || !wait(ctx, f.after) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return refused, nil
}

func wait(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return true
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
