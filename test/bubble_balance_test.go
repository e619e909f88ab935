// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/gossip"
	"muster/internal/memnet"
)

// What stock agents and nodes do, where the model has it as a number.
const (
	agentRetry     = 5 * time.Second
	channelReuses  = 5
	turnedAwayFor  = 30 * time.Second
	handshakeCost  = 2500 * time.Microsecond // one after the other on each node
	modelStep      = 50 * time.Millisecond
	sessionsOfNode = 5000
	nodeLimit      = 20_000
)

// balanced is real meshes and balancers under agents of a model, in one bubble.
type balanced struct {
	t      *testing.T
	net    *memnet.Network
	rnd    *rand.Rand
	sites  []*site
	agents []modelAgent
	due    map[int][]int // agents that do something in a step
	step   int
	gaps   []time.Duration
	moves  int // streams that ended
}

// site is a node but for its agents' port, which is the model's.
type site struct {
	*gossip.Mesh
	balancer fleet.Balancer
	stop     func()
	alive    bool

	busyUntil time.Time // by handshakes
	refuses   bool      // every new agent
	refused   map[int]time.Time
	held      []int // agents
	place     map[int]int

	mu   sync.Mutex
	load fleet.Load
}

// modelAgent acts as a stock agent: it comes back to its old
// address first, and asks a random node when that fails.
type modelAgent struct {
	at     int // node, -1 without a stream
	link   int // node of the channel, -1 without one
	reuses int
	lost   time.Time
	opens  int // node that does the handshake
}

func newBalanced(t *testing.T, agents int) *balanced {
	b := &balanced{t: t, net: memnet.New(), rnd: rand.New(rand.NewPCG(7, 7)), due: map[int][]int{}}
	for range agents {
		b.agents = append(b.agents, modelAgent{at: -1, link: -1, opens: -1})
	}
	return b
}

// add starts a node.
func (b *balanced) add() *site {
	b.t.Helper()
	i := len(b.sites)
	host := b.net.Host(fmt.Sprintf("10.0.0.%d", i+1))
	listener, err := host.Listen("tcp", ":7946")
	if err != nil {
		b.t.Fatal(err)
	}
	packets, err := host.ListenPacket("udp", ":7946")
	if err != nil {
		b.t.Fatal(err)
	}
	s := &site{alive: true, refused: map[int]time.Time{}, place: map[int]int{}, load: fleet.Load{Limit: nodeLimit, Ready: true}}
	s.Mesh, err = gossip.New(gossip.Options{
		Self: fleet.Member{NodeID: fmt.Sprint(i), AgentAddr: host.IP() + ":6751", Started: time.Now()}, Key: bytes.Repeat([]byte{1}, 32),
		Listener: listener, Packets: packets, Dial: host.DialContext, Join: []string{"10.0.0.1:7946", "10.0.0.2:7946"},
		Load: s.report, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			b.t.Error(err)
		}
	})
	s.stop = func() {
		cancel()
		<-done
	}
	b.t.Cleanup(s.stop)
	b.sites = append(b.sites, s)
	return s
}

func (s *site) report() fleet.Load {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.load
}

// hold and release keep the list of a node's agents.
func (b *balanced) hold(i, agent int) {
	s := b.sites[i]
	s.place[agent], s.held = len(s.held), append(s.held, agent)
	b.tell(s)
}

func (b *balanced) release(i, agent int) {
	s := b.sites[i]
	at, last := s.place[agent], s.held[len(s.held)-1]
	s.held[at], s.place[last] = last, at
	s.held = s.held[:len(s.held)-1]
	delete(s.place, agent)
	b.tell(s)
}

func (b *balanced) tell(s *site) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.load.Sessions = uint32(len(s.held))
}

// after has an agent do something so much later.
func (b *balanced) after(d time.Duration, agent int) {
	at := b.step + max(1, int(d/modelStep))
	b.due[at] = append(b.due[at], agent)
}

// pass lets time pass.
func (b *balanced) pass(d time.Duration) {
	for range int(d / modelStep) {
		for _, agent := range b.due[b.step] {
			b.act(agent)
		}
		delete(b.due, b.step)
		if b.step%int(time.Second/modelStep) == 0 {
			for i := range b.sites {
				b.balance(i)
			}
		}
		b.step++
		time.Sleep(modelStep)
	}
}

// balance is what a node does each second.
func (b *balanced) balance(i int) {
	s := b.sites[i]
	if !s.alive {
		return
	}
	step := s.balancer.Step(time.Now(), s.Members(), fmt.Sprint(i), len(s.held))
	s.refuses = step.RefuseNew
	s.balancer.Sent(min(step.Shed, len(s.held)))
	for range min(step.Shed, len(s.held)) {
		agent := s.held[b.rnd.IntN(len(s.held))]
		s.refused[agent] = time.Now().Add(turnedAwayFor)
		b.lose(agent)
	}
}

// lose ends an agent's stream.
func (b *balanced) lose(agent int) {
	a := &b.agents[agent]
	b.release(a.at, agent)
	a.at, a.reuses, a.lost = -1, 0, time.Now()
	b.moves++
	b.after(agentRetry, agent)
}

// act is an agent's attempt to get a stream, or its getting one.
func (b *balanced) act(agent int) {
	a := &b.agents[agent]
	if i := a.opens; i >= 0 {
		a.opens = -1
		if !b.sites[i].alive {
			b.after(agentRetry, agent)
			return
		}
		a.at, a.link = i, i
		b.hold(i, agent)
		if !a.lost.IsZero() {
			b.gaps = append(b.gaps, time.Since(a.lost))
		}
		return
	}
	if a.link >= 0 && a.reuses < channelReuses {
		if a.reuses++; !b.dial(a.link, agent) {
			a.link = -1
			b.after(agentRetry, agent)
		}
		return
	}
	a.reuses = 0
	for _, m := range b.alive()[b.rnd.IntN(len(b.alive()))].Pick(10) {
		var i int
		if _, err := fmt.Sscan(m.NodeID, &i); err != nil {
			b.t.Fatal(err)
		}
		if b.dial(i, agent) {
			return
		}
	}
	b.after(agentRetry, agent)
}

// dial begins a handshake, unless the node refuses or is dead.
func (b *balanced) dial(i, agent int) bool {
	s, now := b.sites[i], time.Now()
	if !s.alive || s.refuses || now.Before(s.refused[agent]) {
		return false
	}
	if s.busyUntil.Before(now) {
		s.busyUntil = now
	}
	s.busyUntil = s.busyUntil.Add(handshakeCost)
	b.agents[agent].opens = i
	b.after(s.busyUntil.Sub(now), agent)
	return true
}

func (b *balanced) alive() (sites []*site) {
	return slices.DeleteFunc(slices.Clone(b.sites), func(s *site) bool { return !s.alive })
}

// arrive has all agents come, so many a second.
func (b *balanced) arrive(rate int) {
	for agent := range b.agents {
		b.after(time.Duration(agent)*time.Second/time.Duration(rate), agent)
	}
	b.pass(time.Duration(len(b.agents))*time.Second/time.Duration(rate) + 5*time.Second)
}

// kill ends a node at once.
func (b *balanced) kill(i int) {
	s := b.sites[i]
	s.alive = false
	b.net.Kill(fmt.Sprintf("10.0.0.%d", i+1))
	for len(s.held) > 0 {
		b.lose(s.held[0])
	}
	s.stop()
}

// streams is how many agents have one, and how far the fullest node is above its
// share.
func (b *balanced) streams() (sum int, worst float64) {
	most := 0
	for _, s := range b.alive() {
		sum += len(s.held)
		most = max(most, len(s.held))
	}
	return sum, float64(most) * float64(len(b.alive())) / float64(sum)
}

// story runs in a bubble with so many nodes, each full of agents.
func story(t *testing.T, nodes int, tell func(b *balanced)) {
	t.Helper()
	// See bubble.RunCluster.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(gossip.Linger) }) // after the nodes' own
		b := newBalanced(t, nodes*sessionsOfNode)
		for range nodes {
			b.add()
		}
		b.pass(20 * time.Second)
		b.arrive(1000)
		if sum, worst := b.streams(); sum != len(b.agents) || worst > 1.05 || b.moves > 0 {
			t.Fatalf("%d of %d agents arrived, %d were sent away, the fullest node has %.3f of its share", sum, len(b.agents), b.moves, worst)
		}
		tell(b)
	})
}

// A node with 5,000 agents dies: they have streams on the others soon after they
// may first try, evenly, and nobody else moves.
func TestBubbleDeathOfAFullNode(t *testing.T) {
	story(t, 5, func(b *balanced) {
		for _, i := range []int{2, 0} {
			b.pass(time.Duration(rand.IntN(20)) * modelStep)
			lost := len(b.sites[i].held)
			b.moves, b.gaps = 0, nil
			b.kill(i)
			b.pass(20 * time.Second)
			sum, worst := b.streams()
			b.t.Logf("a node with %d agents died: %d agents were elsewhere after %s to %s; most/mean %.3f",
				lost, len(b.gaps), slices.Min(b.gaps), slices.Max(b.gaps), worst)
			if sum != len(b.agents) || slices.Max(b.gaps) > 20*time.Second || worst > 1.05 {
				b.t.Errorf("after 20 s %d of %d agents have a stream, the fullest node has %.3f of its share", sum, len(b.agents), worst)
			}
			if b.moves != lost {
				b.t.Errorf("%d streams ended, of a node with %d", b.moves, lost)
			}
		}
	})
}

// A sixth node joins five full ones and gets its share; then nothing moves for an
// hour.
func TestBubbleJoinAndAnHourOfRest(t *testing.T) {
	story(t, 5, func(b *balanced) {
		b.moves, b.gaps = 0, nil
		b.pass(time.Minute)
		if b.moves > 0 {
			b.t.Errorf("%d agents moved between even nodes", b.moves)
		}
		joined, began := b.add(), time.Now()
		share := len(b.agents) / 6
		for len(joined.held) < share*9/10 && time.Since(began) < 5*time.Minute {
			b.pass(time.Second)
		}
		took := time.Since(began)
		b.pass(2 * time.Minute)
		slices.Sort(b.gaps)
		sum, worst := b.streams()
		p99, longest := b.gaps[len(b.gaps)*99/100], b.gaps[len(b.gaps)-1]
		b.t.Logf("the sixth node had %d of %d agents after %s, and %d in the end; %d moved, without a stream p99 %s, max %s; most/mean %.3f",
			share*9/10, share, took, len(joined.held), b.moves, p99, longest, worst)
		if b.moves > share*105/100 {
			b.t.Errorf("%d agents moved for a share of %d", b.moves, share)
		}
		if took >= 5*time.Minute || sum != len(b.agents) || worst > 1.05 || p99 > 12*time.Second || longest >= 20*time.Second {
			b.t.Errorf("%d of %d agents have a stream", sum, len(b.agents))
		}
		b.moves = 0
		b.pass(time.Hour)
		if b.moves > 0 {
			b.t.Errorf("%d agents moved in an hour of rest", b.moves)
		}
	})
}
