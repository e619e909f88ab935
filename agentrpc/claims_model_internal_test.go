// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"muster/fleet"
	"muster/internal/agentpb"
)

// The model: three servers without a network, whose streams are channels.

const modelNodes, modelAgents = 3, 3

// op is one step of a history.
type op struct {
	kind  opKind
	agent int
	node  int // where the agent goes; the first node of a partition
	known bool
	pause time.Duration // afterwards
}

type opKind int

const (
	opMove  opKind = iota // the old stream is dead, and the node does not know
	opClose               // the old stream is closed before
	opPart
	opHeal
	opPass
)

func (o op) String() string {
	return fmt.Sprintf("%s agent %d node %d known %v, then %v",
		[]string{"move", "close and move", "part", "heal", "pass"}[o.kind], o.agent, o.node, o.known, o.pause)
}

type history struct {
	offsets []time.Duration
	ops     []op
	// lossy: every so many calls or answers are lost, while there is trouble; 0: none
	lossy int
	// every is how often an agent says something.
	every time.Duration
}

func genHistory() *rapid.Generator[history] {
	return rapid.Custom(func(t *rapid.T) history {
		clock := rapid.SampledFrom([]time.Duration{0, 10 * time.Second, -10 * time.Second, -40 * 365 * 24 * time.Hour})
		wait := rapid.SampledFrom([]time.Duration{0, 30 * time.Millisecond, 200 * time.Millisecond, time.Second, 6 * time.Second, 20 * time.Second})
		step := rapid.Custom(func(t *rapid.T) op {
			return op{
				kind:  rapid.SampledFrom([]opKind{opMove, opMove, opMove, opClose, opPart, opHeal, opPass}).Draw(t, "kind"),
				agent: rapid.IntRange(0, modelAgents-1).Draw(t, "agent"), node: rapid.IntRange(0, modelNodes-1).Draw(t, "node"),
				known: rapid.Bool().Draw(t, "known"), pause: wait.Draw(t, "pause"),
			}
		})
		return history{
			offsets: rapid.SliceOfN(clock, modelNodes, modelNodes).Draw(t, "clocks"),
			ops:     rapid.SliceOfN(step, 1, 16).Draw(t, "ops"),
			lossy:   rapid.IntRange(0, 4).Draw(t, "lossy"),
			every:   rapid.SampledFrom([]time.Duration{100 * time.Millisecond, time.Second, 20 * time.Second}).Draw(t, "every"),
		}
	})
}

// Whatever happened: when all is quiet again, each agent has one session, on the
// node where its newest stream is, and that one delivers.
func TestOneSessionAfterAnyHistory(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		h := genHistory().Draw(rt, "history")
		var faults []string
		synctest.Test(t, func(t *testing.T) { faults = replay(t, dir, h) })
		for _, f := range faults {
			rt.Error(f)
		}
	})
}

func replay(t *testing.T, dir string, h history) (faults []string) {
	m := newModel(t, dir, h)
	defer m.stop()
	for _, o := range h.ops {
		m.apply(o)
		time.Sleep(o.pause)
	}
	m.apply(op{kind: opHeal})
	m.mu.Lock()
	m.lossy = 0
	m.mu.Unlock()
	// Keepalive, a call that hangs, a contest, and an agent's return.
	time.Sleep(30*time.Second + maxClaimTimeout + 2*contestWait + 2*returnAfter)
	synctest.Wait()
	before := m.deliveredAll()
	time.Sleep(25 * time.Second)
	synctest.Wait()
	for i, a := range m.agents {
		if a.node < 0 {
			continue
		}
		var holders []int
		for n, s := range m.servers {
			if s.registry.get(a.id) != nil {
				holders = append(holders, n)
			}
		}
		if !slices.Equal(holders, []int{a.node}) {
			faults = append(faults, fmt.Sprintf("%s is held by %v, want %d alone", a.id, holders, a.node))
		}
		if now := m.deliveredAll()[i]; now <= before[i] {
			faults = append(faults, fmt.Sprintf("%s delivers nothing on its node", a.id))
		}
	}
	for n, s := range m.servers {
		if w := s.parts.claims.waiting(); w != 0 {
			faults = append(faults, fmt.Sprintf("node %d: %d claims wait at the end", n, w))
		}
		if len(s.parts.claims.contested) != 0 {
			faults = append(faults, fmt.Sprintf("node %d: a contest is open at the end", n))
		}
	}
	return faults
}

type model struct {
	t       *testing.T
	servers []*Server
	agents  []*modelAgent
	every   time.Duration
	cancel  context.CancelFunc
	running sync.WaitGroup
	streams sync.WaitGroup

	mu        sync.Mutex
	cut, gone map[[2]int]bool
	lossy     int
	calls     int
}

// returnAfter is when a stock agent opens another stream.
const returnAfter = 5 * time.Second

type modelAgent struct {
	id   string
	node int // -1: nowhere yet
	// leave ends the present stream: known to its node or not.
	leave func(known bool)
}

func newModel(t *testing.T, dir string, h history) *model {
	m := &model{t: t, every: h.every, cut: make(map[[2]int]bool), gone: make(map[[2]int]bool), lossy: h.lossy}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	for i, offset := range h.offsets {
		parts := modelParts{done: make(chan struct{})}
		s, err := New(Options{
			Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Node: fmt.Sprint(i),
			Listeners: []net.Listener{parts}, TLS: &tls.Config{MinVersion: tls.VersionTLS12},
			Identify: func(tls.ConnectionState) (string, bool, error) { return "", true, nil },
			Log:      parts, Desired: parts, Tasks: parts, Inventory: parts, Lookup: parts,
			Peers: &modelPeers{m: m, node: i}, UploadDir: dir, Limit: 100,
			Tuning: Tuning{Clock: func() time.Time { return time.Now().Add(offset) }},
		})
		if err != nil {
			t.Fatal(err)
		}
		m.servers = append(m.servers, s)
	}
	for _, s := range m.servers {
		m.running.Go(func() {
			if err := s.Run(ctx); err != nil {
				t.Errorf("Run = %v", err)
			}
		})
	}
	for i := range modelAgents {
		m.agents = append(m.agents, &modelAgent{id: fmt.Sprint("a", i), node: -1})
	}
	return m
}

func (m *model) stop() {
	for _, a := range m.agents {
		if a.leave != nil {
			a.leave(true)
		}
	}
	m.streams.Wait()
	m.cancel()
	m.running.Wait()
}

func (m *model) deliveredAll() []uint64 {
	out := make([]uint64, len(m.agents))
	for i, a := range m.agents {
		if a.node >= 0 {
			if sess := m.servers[a.node].registry.get(a.id); sess != nil {
				out[i] = sess.received.messages.Load()
			}
		}
	}
	return out
}

func (m *model) apply(o op) {
	other := (o.node + 1 + o.agent%2) % modelNodes
	switch o.kind {
	case opMove, opClose:
		a := m.agents[o.agent]
		if a.leave != nil {
			a.leave(o.kind == opClose)
		}
		a.node = o.node
		m.connect(a)
	case opPart, opHeal:
		m.mu.Lock()
		defer m.mu.Unlock()
		if o.kind == opHeal {
			clear(m.cut)
			clear(m.gone)
			return
		}
		for _, pair := range [][2]int{{o.node, other}, {other, o.node}} {
			m.cut[pair], m.gone[pair] = true, o.known
		}
	case opPass:
	}
}

// connect lets the agent stay with its node until it leaves: when a stream ends
// it opens another.
func (m *model) connect(a *modelAgent) {
	s, left := m.servers[a.node], make(chan struct{})
	// A stream whose agent is dead ends when keepalive finds out.
	ctx, closed := context.WithCancel(context.Background())
	a.leave = func(known bool) {
		close(left)
		if known {
			closed()
		} else {
			time.AfterFunc(30*time.Second, closed)
		}
	}
	m.streams.Go(func() {
		for {
			st := &modelStream{id: a.id, every: m.every, left: left}
			var cancel context.CancelFunc
			st.ctx, cancel = context.WithCancel(peer.NewContext(ctx, &peer.Peer{
				Addr: &net.TCPAddr{}, AuthInfo: agentAuth{conn: &leanConn{raw: &agentConn{}}, fleetWide: true},
			}))
			_ = s.transfer(nil, st)
			cancel()
			select {
			case <-left:
				return
			case <-time.After(returnAfter):
			}
		}
	})
}

// modelStream delivers a message at once and then every so often, until the
// agent has left.
type modelStream struct {
	ctx   context.Context //nolint:containedctx // a stream's
	id    string
	every time.Duration
	left  chan struct{}
	begun bool
}

func (s *modelStream) Context() context.Context     { return s.ctx }
func (s *modelStream) SetHeader(metadata.MD) error  { return nil }
func (s *modelStream) SendHeader(metadata.MD) error { return nil }
func (s *modelStream) SetTrailer(metadata.MD)       {}
func (s *modelStream) SendMsg(any) error            { return s.ctx.Err() }

func (s *modelStream) RecvMsg(v any) error {
	wait := s.every
	if !s.begun {
		wait = 0
	}
	s.begun = true
	select {
	case <-s.left: // dead: nothing comes any more
		<-s.ctx.Done()
		return io.EOF
	case <-s.ctx.Done():
		return io.EOF
	case <-time.After(wait):
	}
	f, ok := v.(*frame)
	if !ok {
		return errors.New("no frame")
	}
	raw, err := proto.Marshal(&agentpb.RawData{AgentId: s.id, Records: []*agentpb.Record{{DataType: 1000}}})
	f.data = raw
	return err
}

// modelPeers is what a node sees of the others.
type modelPeers struct {
	m    *model
	node int
}

func (p *modelPeers) Nodes() []string {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	var out []string
	for i := range modelNodes {
		if i != p.node && !p.m.gone[[2]int{p.node, i}] {
			out = append(out, fmt.Sprint(i))
		}
	}
	return out
}

func (p *modelPeers) Claim(ctx context.Context, id string, claims []fleet.Claim) ([]fleet.Claim, error) {
	to := int(id[0] - '0')
	p.m.mu.Lock()
	cut := p.m.cut[[2]int{p.node, to}]
	p.m.calls++
	lost := p.m.lossy > 0 && p.m.calls%(p.m.lossy+1) == 0
	before := p.m.calls%2 == 0
	p.m.mu.Unlock()
	if cut || (lost && before) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	refused := p.m.servers[to].HandleClaims(claims)
	if lost {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return refused, nil
}

// modelParts are the parts of a node that a session needs: nothing is kept.
type modelParts struct{ done chan struct{} }

func (modelParts) Append(context.Context, string, [][]byte, []byte) error { return nil }
func (modelParts) TryAppend(time.Time, string, [][]byte, []byte) bool     { return true }
func (modelParts) Desired(string) (fleet.Desired, error)                  { return fleet.Desired{}, nil }
func (modelParts) Current() bool                                          { return true }
func (modelParts) CurrentSince(time.Time) bool                            { return true }
func (modelParts) Watch(...fleet.Table) (<-chan struct{}, func())         { return nil, func() {} }
func (modelParts) PendingDispatch(string) []fleet.Dispatch                { return nil }
func (modelParts) Due([]string) []string                                  { return nil }
func (modelParts) SetResults(context.Context, []fleet.TaskResult) error   { return nil }
func (modelParts) ReportAgents(context.Context, []fleet.AgentReport) error {
	return nil
}

func (modelParts) MarkSent(_ context.Context, _ string, marks []fleet.TaskMark) ([]bool, error) {
	return make([]bool, len(marks)), nil
}

func (modelParts) SubTaskByToken(string) (fleet.SubTask, error) {
	return fleet.SubTask{}, fleet.ErrNotFound
}
func (modelParts) Task(string) (fleet.Task, error) { return fleet.Task{}, fleet.ErrNotFound }

// Accept waits for the end: modelParts is a listener too.
func (p modelParts) Accept() (net.Conn, error) {
	<-p.done
	return nil, net.ErrClosed
}

func (p modelParts) Close() error {
	close(p.done)
	return nil
}
func (modelParts) Addr() net.Addr { return &net.TCPAddr{} }
