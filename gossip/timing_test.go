// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/gossip"
	"muster/internal/memnet"
)

// weather loses packets of all nodes while it is bad. Datagrams are gone; what
// a connection loses it sends again, as Linux does, so that it comes late.
type weather struct {
	mu    sync.Mutex
	rnd   *rand.Rand
	loss  float64
	bytes int // of datagrams that were sent, lost ones included
}

func (w *weather) set(loss float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loss = loss
}

func (w *weather) loses() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.loss > 0 && w.rnd.Float64() < w.loss
}

func (w *weather) count(bytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes += bytes
}

// sent is how many bytes of datagrams all nodes have sent.
func (w *weather) sent() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes
}

// delay is how late something comes that is sent until it and its
// acknowledgement arrive, the second time after so long.
func (w *weather) delay(first time.Duration) (d time.Duration) {
	const longest = 10 * time.Second                                           // shorter than gossip.Linger: no goroutine outlives the bubble
	for d < longest/2 && slices.Contains([]bool{w.loses(), w.loses()}, true) { // it, or its acknowledgement
		d += first
		first *= 2
	}
	return d
}

// under gives a node's sockets this weather.
func (w *weather) under(o *gossip.Options) {
	dial := o.Dial
	o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		select {
		case <-time.After(w.delay(time.Second)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return wetConn{conn, w}, nil
	}
	o.Packets = wetPackets{o.Packets, w}
	o.Listener = wetListener{o.Listener, w}
}

type wetPackets struct {
	net.PacketConn
	*weather
}

func (p wetPackets) WriteTo(b []byte, addr net.Addr) (int, error) {
	p.count(len(b))
	if p.loses() {
		return len(b), nil
	}
	return p.PacketConn.WriteTo(b, addr)
}

type wetListener struct {
	net.Listener
	*weather
}

func (l wetListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return wetConn{conn, l.weather}, nil
}

type wetConn struct {
	net.Conn
	*weather
}

func (c wetConn) Write(b []byte) (int, error) {
	time.Sleep(c.delay(200 * time.Millisecond))
	return c.Conn.Write(b)
}

// startMany runs so many nodes under one weather, and waits until each knows
// the load of all.
func startMany(t *testing.T, count int, seed uint64, change ...func(*gossip.Options)) (nodes []*testNode, n *memnet.Network, w *weather) {
	t.Helper()
	n, w = memnet.New(), &weather{rnd: rand.New(rand.NewPCG(seed, 1))}
	for i := range count {
		nodes = append(nodes, startNode(t, n, 1+i, append(change, w.under)...))
		nodes[i].load.set(fleet.Load{Limit: 1000, Sessions: 10, Ready: true})
	}
	await(t, 3*time.Minute, "all nodes know the load of all", func() bool { return missing(nodes) == nil })
	time.Sleep(5 * time.Second)
	return nodes, n, w
}

// missed counts the times that someone was missing somewhere.
type missed map[string]int

// watch looks at all nodes for so long.
func (m missed) watch(nodes []*testNode, during time.Duration) {
	for range int(during / (50 * time.Millisecond)) {
		time.Sleep(50 * time.Millisecond)
		for _, what := range missing(nodes) {
			m[what]++
		}
	}
}

// missing says which nodes are not in whose answers to agents or lists of the
// living.
func missing(nodes []*testNode) (all []string) {
	for _, node := range nodes {
		picked := node.Pick(0)
		if len(picked) == len(nodes) && node.alive() == len(nodes) {
			continue
		}
		for _, other := range nodes {
			if !slices.ContainsFunc(picked, func(m *fleet.Member) bool { return m.NodeID == other.id }) {
				all = append(all, fmt.Sprintf("%s in an answer of %s", other.id, node.id))
			}
			if m, ok := node.member(other.id); !ok || !m.Alive {
				all = append(all, fmt.Sprintf("%s in the list of %s", other.id, node.id))
			}
		}
	}
	return all
}

// oneProcessor is for bubbles with many timers: those that fire on two at once
// upset the race detector (go.dev/issue/78156).
func oneProcessor() (undo func()) {
	before := runtime.GOMAXPROCS(1)
	return func() { runtime.GOMAXPROCS(before) }
}

// Three packets of ten are lost for ten seconds: nobody is given up, neither as
// an address for agents nor as a member. MUSTER_TEST_SEEDS makes it more storms.
func TestLossRemovesNobody(t *testing.T) {
	defer oneProcessor()()
	for _, tt := range []struct {
		nodes, runs int
		profile     gossip.Profile
	}{{2, 1, gossip.ProfileLAN}, {3, 1, gossip.ProfileLAN}, {5, 1, gossip.ProfileLAN}, {5, 1, gossip.ProfileWAN}} {
		t.Run(fmt.Sprint(tt.nodes, " nodes, ", tt.profile), func(t *testing.T) {
			for seed := range storms(tt.runs) {
				synctest.Test(t, func(t *testing.T) {
					nodes, _, w := startMany(t, tt.nodes, seed, func(o *gossip.Options) { o.Profile = tt.profile })
					calm, storm, after := missed{}, missed{}, missed{}
					began := w.sent()
					calm.watch(nodes, 10*time.Second)
					broke := w.sent()
					w.set(0.3)
					storm.watch(nodes, 10*time.Second)
					ended := w.sent()
					w.set(0)
					after.watch(nodes, 30*time.Second)
					t.Logf("seed %d: bytes a node and second %d, under loss %d", seed, (broke-began)/10/tt.nodes, (ended-broke)/10/tt.nodes)
					if len(calm)+len(storm)+len(after) > 0 {
						t.Errorf("seed %d: missing before the storm %v, in it %v, after it %v", seed, calm, storm, after)
					}
				})
			}
		})
	}
}

// storms is how many of them there are.
func storms(n int) uint64 {
	if v, err := strconv.ParseUint(os.Getenv("MUSTER_TEST_SEEDS"), 10, 32); err == nil {
		return v
	}
	return uint64(n)
}

// A node that is silent for a second and a half, whenever that begins, is missed
// by nobody, and misses nobody.
func TestAStallRemovesNobody(t *testing.T) {
	defer oneProcessor()()
	for _, tt := range []struct {
		profile gossip.Profile
		stall   time.Duration
	}{{gossip.ProfileLAN, 1500 * time.Millisecond}, {gossip.ProfileWAN, 3 * 1500 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) {
			nodes, n, _ := startMany(t, 5, 1, func(o *gossip.Options) { o.Profile = tt.profile })
			m := missed{}
			for i := range 10 {
				n.Cut(ip(1 + i%5)) // its packets are lost, which is worse than late
				m.watch(nodes, tt.stall)
				n.Heal()
				m.watch(nodes, 2*time.Second+time.Duration(i)*100*time.Millisecond)
			}
			if len(m) > 0 {
				t.Errorf("%s: missing after a stall of %s: %v", tt.profile, tt.stall, m)
			}
		})
	}
}

// A node that is silent for good is in nobody's answer soon, whenever that
// begins, and whatever the others tell each other of it; also while they lose
// three packets of ten.
func TestADeadNodeIsGoneSoon(t *testing.T) {
	defer oneProcessor()()
	for _, tt := range []struct {
		profile gossip.Profile
		loss    float64
		within  time.Duration
	}{{gossip.ProfileLAN, 0, 3100 * time.Millisecond}, {gossip.ProfileLAN, 0.3, 3600 * time.Millisecond}, {gossip.ProfileWAN, 0, 9100 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) {
			nodes, n, w := startMany(t, 5, 1, func(o *gossip.Options) { o.Profile = tt.profile })
			var took []time.Duration
			for i := range 5 {
				time.Sleep(time.Duration(10+i) * 97 * time.Millisecond)
				gone := nodes[i%5]
				n.Cut(ip(1 + i%5))
				w.set(tt.loss)
				took = append(took, await(t, tt.within, "nobody names "+gone.id, func() bool {
					for _, node := range nodes {
						if node != gone && strings.Contains(pickedIDs(node.Pick(0)), gone.id+" ") {
							return false
						}
					}
					return true
				}))
				w.set(0)
				n.Heal()
				await(t, time.Minute, "all are back", func() bool { return missing(nodes) == nil })
			}
			slices.Sort(took)
			t.Logf("%s, loss %.1f: gone after %s to %s", tt.profile, tt.loss, took[0], took[len(took)-1])
		})
	}
}

// A node that nobody heard for a while is there again soon after: it may have
// objected to its death while nobody heard that either.
func TestAnUnheardNodeIsBackSoon(t *testing.T) {
	defer oneProcessor()()
	synctest.Test(t, func(t *testing.T) {
		nodes, n, _ := startMany(t, 5, 1)
		dead := 0
		for i := range 12 {
			for other := range 4 {
				n.Block(ip(5), ip(1+other))
			}
			time.Sleep(time.Duration(5000+500*i) * time.Millisecond)
			for _, node := range nodes[:4] {
				if m, ok := node.member(nodes[4].id); !ok || !m.Alive {
					dead++
				}
			}
			n.Heal()
			await(t, 4*time.Second, "all know of all again", func() bool { return missing(nodes) == nil })
			time.Sleep(20 * time.Second)
		}
		if dead == 0 {
			t.Error("the node never counted as dead: the test shows nothing")
		}
	})
}
