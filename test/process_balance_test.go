// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"muster/test/bench/agents"
	"muster/test/process"
)

const (
	// While agents arrive and when they have: most-loaded over mean.
	arrivalRatio, endRatio = 1.10, 1.05
	// arrivalGrace is how long after the first agent the ratio says nothing.
	arrivalGrace = 10 * time.Second
	// A stock agent tries its old channel first, so long after it was lost.
	firstRetry = 5 * time.Second
	// streamsWithin is how long after that all agents of a dead node may take.
	streamsWithin = 15 * time.Second
	// Of agents that are moved: without a stream.
	gapMedian99, gapMax = 12 * time.Second, 20 * time.Second
	// fairWithin is how long a new node may wait for fairPart of its share.
	fairWithin, fairPart = 5 * time.Minute, 0.9
)

// TestProcessBalance has stock agents, as an independent generator plays them, ask
// a random node whenever they connect, and take the first address, while nodes
// come and go. MUSTER_TEST_BALANCE, which `make balance` sets, makes it all of it.
func TestProcessBalance(t *testing.T) {
	nodes, count, rate, quiet := 3, 300, 100, time.Second // rest has waited, too
	whole := os.Getenv("MUSTER_TEST_BALANCE") != ""
	if whole {
		nodes, count, rate, quiet = 5, 3000, 400, time.Minute
	} else {
		t.Parallel()
	}
	c := process.NewCluster(t, nodes, process.ClusterOptions{})
	c.Form()
	b := newBalance(t, c, count, rate)
	b.arrive()
	b.kill(c.Nodes[1], firstRetry+streamsWithin)
	b.fills(c.Nodes[1], "a node that was killed is back", func() { c.Nodes[1].Start() })
	if whole {
		b.pause(c.Nodes[2])
		b.drain(c.Nodes[3])
		b.fills(c.Nodes[3], "a drained node takes agents again", func() { b.mark(c.Nodes[3], false) })
		b.fills(c.Grow(), "one more node", func() { c.Nodes[nodes].Start() })
	}
	b.quiet(quiet)
	b.load.Stop()
}

// TestProcessBalanceFullNode kills one of three nodes, which hold 5,000 agents each
// in `make balance`. The time is mostly that of as many TLS handshakes, both ends
// of them, on the processors of this one machine, so it is only told, with theirs;
// TestBubbleDeathOfAFullNode judges it.
func TestProcessBalanceFullNode(t *testing.T) {
	count, rate := 450, 150
	if os.Getenv("MUSTER_TEST_BALANCE") != "" {
		count, rate = 15_000, 400
	} else {
		t.Parallel()
	}
	c := process.NewCluster(t, 3, process.ClusterOptions{})
	c.Form()
	b := newBalance(t, c, count, rate)
	b.arrive()
	nodes, rest := b.processors(c.Nodes[0], c.Nodes[2])
	b.kill(c.Nodes[1], time.Minute)
	nodesAfter, restAfter := b.processors(c.Nodes[0], c.Nodes[2])
	t.Logf("CPU seconds meanwhile: %.1f of the two nodes, %.1f of agents and Kafka", nodesAfter-nodes, restAfter-rest)
	b.quiet(15 * time.Second)
	b.load.Stop()
}

// balance is a cluster under the load of stock agents.
type balance struct {
	*process.Cluster
	t     *testing.T
	load  *agents.Agents
	count int
	ramp  time.Duration
	began time.Time
	gaps  int // that were looked at
	pulse pulse
}

// newBalance starts the agents, so many a second.
func newBalance(t *testing.T, c *process.Cluster, count, rate int) *balance {
	t.Helper()
	b := &balance{Cluster: c, t: t, count: count, ramp: time.Duration(count) * time.Second / time.Duration(rate)}
	var sd []string
	for _, n := range c.Nodes {
		sd = append(sd, n.SD)
	}
	load, err := agents.New(agents.Options{
		SD: sd, TLS: c.AgentTLS(), Agents: count, Ramp: b.ramp, Heartbeat: time.Minute,
		// An address for each: those that share one are moved last.
		Source: func(index uint32) net.IP { return net.IPv4(127, 240, byte(index>>8), byte(index)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.load = load
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { load.Run(ctx) })
	running.Go(func() { b.pulse.watch(ctx.Done()) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	b.began = time.Now()
	return b
}

// sessions are those of each running node, as it counts them itself.
func (b *balance) sessions(nodes ...*process.Node) map[string]int {
	b.t.Helper()
	held := map[string]int{}
	for _, n := range nodes {
		sessions, err := n.Connections(b.Token())
		if err != nil {
			b.t.Fatal(err)
		}
		held[n.Name] = sessions
	}
	return held
}

// spread sums sessions up, and says how many times the mean the most loaded has.
func spread(held map[string]int) (sum int, ratio float64) {
	most := 0
	for _, sessions := range held {
		sum += sessions
		most = max(most, sessions)
	}
	return sum, float64(most) * float64(len(held)) / float64(max(sum, 1))
}

// even fails the test when the most loaded node has too much. Ten agents more
// than the others are no load; and on a machine that did not run its processes now
// and then nobody knows where agents that are on their way are.
func (b *balance) even(when string, held map[string]int, limit float64) {
	b.t.Helper()
	sum, ratio := spread(held)
	if slack := 10 * float64(len(held)) / float64(max(sum, 1)); ratio > max(limit, 1+slack) {
		text := fmt.Sprintf("%s: the most loaded node has %.3f times the mean: %v; the machine stood still for %s", when, ratio, held, b.pulse.gap())
		if b.t.Log(text); b.pulse.gap() <= calm {
			b.t.Error("that is too much")
		}
	}
}

// arrive looks at the nodes each second until all agents are there.
func (b *balance) arrive() {
	b.t.Helper()
	var ratios []string
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for end := b.began.Add(max(b.ramp, arrivalGrace) + b.ramp); time.Now().Before(end); <-tick.C {
		held := b.sessions(b.Running()...)
		sum, ratio := spread(held)
		ratios = append(ratios, fmt.Sprintf("%d:%.3f", sum, ratio))
		if time.Since(b.began) > arrivalGrace {
			b.even("arrival", held, arrivalRatio)
		}
	}
	held := b.sessions(b.Running()...)
	b.t.Logf("arrival: sessions and most-loaded/mean each second: %s; in the end %s; the machine stood still for %s", strings.Join(ratios, " "), show(held), b.pulse.gap().Round(time.Millisecond))
	if sum, _ := spread(held); sum != b.count {
		b.t.Errorf("%d of %d agents have arrived: %+v", sum, b.count, b.load.Stats())
	}
	b.even("after the arrival", held, endRatio)
	b.newGaps()
}

func show(held map[string]int) string {
	_, ratio := spread(held)
	var text []string
	for _, name := range slices.Sorted(maps.Keys(held)) {
		text = append(text, fmt.Sprintf("%s %d", name, held[name]))
	}
	return fmt.Sprintf("%s (most/mean %.3f)", strings.Join(text, ", "), ratio)
}

// newGaps are those that ended since the last call, shortest first.
func (b *balance) newGaps() (took []time.Duration) {
	gaps := b.load.Gaps()
	for _, g := range gaps[b.gaps:] {
		took = append(took, g.Took)
	}
	b.gaps = len(gaps)
	slices.Sort(took)
	return took
}

func showGaps(took []time.Duration) string {
	if len(took) == 0 {
		return "no agent moved"
	}
	at := func(part float64) time.Duration {
		return took[int(part*float64(len(took)-1))].Round(10 * time.Millisecond)
	}
	return fmt.Sprintf("%d agents moved, without a stream median %s, p99 %s, max %s", len(took), at(0.5), at(0.99), at(1))
}

// processors returns the CPU seconds of these nodes and of the test's own process.
func (b *balance) processors(nodes ...*process.Node) (theirs, own float64) {
	b.t.Helper()
	for _, n := range nodes {
		seconds, err := n.Metric("process_cpu_seconds_total")
		if err != nil {
			b.t.Fatal(err)
		}
		theirs += seconds
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.t.Fatal(err)
	}
	return theirs, time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

// kill ends a node, whose agents are to be elsewhere within so long.
func (b *balance) kill(n *process.Node, within time.Duration) {
	b.t.Helper()
	lost := b.sessions(n)[n.Name]
	n.Kill()
	began := time.Now()
	process.Eventually(b.t, within, "all agents are elsewhere", func() error {
		held := b.sessions(b.Running()...)
		if sum, _ := spread(held); sum != b.count {
			return fmt.Errorf("%d of %d agents have a stream: %v", sum, b.count, held)
		}
		return nil
	})
	took := time.Since(began)
	<-time.After(2 * time.Second) // until those streams count
	held := b.sessions(b.Running()...)
	b.t.Logf("%s killed with %d agents: all have a stream elsewhere %s after the first allowed retry; %s; %s",
		n.Name, lost, (took - firstRetry).Round(10*time.Millisecond), showGaps(b.newGaps()), show(held))
	b.even("after a death", held, arrivalRatio)
}

// fills wants a node that is new, or takes agents again, to get its share.
func (b *balance) fills(n *process.Node, what string, begin func()) {
	b.t.Helper()
	begin()
	began := time.Now()
	share := float64(b.count) / float64(len(b.Running()))
	process.Eventually(b.t, fairWithin, what, func() error {
		if held := b.sessions(n)[n.Name]; float64(held) < fairPart*share {
			return fmt.Errorf("%d of %.0f agents", held, share)
		}
		return nil
	})
	took := time.Since(began)
	b.rest()
	b.moved(fmt.Sprintf("%s: %.0f %% of its share after %s", what, 100*fairPart, took.Round(100*time.Millisecond)), b.Running())
	b.even(what, b.sessions(b.Running()...), arrivalRatio)
}

// rest waits until all agents have a stream and none has moved for a while.
func (b *balance) rest() {
	b.t.Helper()
	const calm = 15 * time.Second
	ended, since := int64(-1), time.Now()
	process.Eventually(b.t, fairWithin, "the agents rest", func() error {
		s := b.load.Stats()
		if s.Ended != ended || s.Connected != int64(b.count) {
			ended, since = s.Ended, time.Now()
		}
		if time.Since(since) < calm {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// moved holds the gaps of agents that were moved on purpose against what may be,
// and shows the sessions of these nodes.
func (b *balance) moved(what string, nodes []*process.Node) {
	b.t.Helper()
	took := b.newGaps()
	b.t.Logf("%s; %s; %s", what, showGaps(took), show(b.sessions(nodes...)))
	if len(took) == 0 {
		return
	}
	if p99, longest := took[99*(len(took)-1)/100], took[len(took)-1]; p99 > gapMedian99 || longest >= gapMax {
		b.t.Errorf("%s: without a stream p99 %s, max %s", what, p99, longest)
	}
}

// pause stops a node's process for a while: its agents keep their streams.
func (b *balance) pause(n *process.Node) {
	b.t.Helper()
	n.Pause()
	<-time.After(20 * time.Second)
	n.Resume()
	b.rest()
	b.moved(n.Name+" stopped for 20 s", b.Running())
	b.even("after a stop", b.sessions(b.Running()...), arrivalRatio)
}

func (b *balance) mark(n *process.Node, drain bool) {
	b.t.Helper()
	if err := b.Nodes[0].Drain(n, drain, b.Token()); err != nil {
		b.t.Fatal(err)
	}
}

// drain empties a node.
func (b *balance) drain(n *process.Node) {
	b.t.Helper()
	lost := b.sessions(n)[n.Name]
	b.mark(n, true)
	began := time.Now()
	process.Eventually(b.t, fairWithin, n.Name+" is empty", func() error {
		if held := b.sessions(n)[n.Name]; held > 0 {
			return fmt.Errorf("it has %d agents", held)
		}
		return nil
	})
	took := time.Since(began)
	b.rest()
	if held := b.sessions(n)[n.Name]; held != 0 {
		b.t.Errorf("%s is drained, and has %d agents again", n.Name, held)
	}
	b.moved(fmt.Sprintf("%s with %d agents drained in %s", n.Name, lost, took.Round(100*time.Millisecond)), b.Others(n))
	b.even("after a drain", b.sessions(b.Others(n)...), arrivalRatio)
}

// quiet wants nobody to move.
func (b *balance) quiet(during time.Duration) {
	b.t.Helper()
	before := b.load.Stats()
	<-time.After(during)
	after := b.load.Stats()
	b.t.Logf("steady for %s: %d streams ended; agents passed over %d addresses that did not work, %d gave up",
		during, after.Ended-before.Ended, after.Passed, after.Exits)
	if after.Ended != before.Ended || after.Exits > 0 {
		b.t.Errorf("in %s of rest %d streams ended: %s; %d agents gave up", during, after.Ended-before.Ended, after.Ending, after.Exits)
	}
}
