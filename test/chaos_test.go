// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"muster/test/process"
)

const (
	chaosAgents = 60
	chaosRate   = 5
	// chaosRest is between two calls of a client, on the average.
	chaosRest = 300 * time.Millisecond
	// chaosSeconds is from giving a task to its deadline: more than an agent that
	// comes to another node is silent there.
	chaosSeconds = 75
	// wholeWithin is how long a cluster may take to be whole when nothing is wrong
	// any more.
	wholeWithin = time.Minute
)

// TestChaos lets all go wrong at random for as long as MUSTER_TEST_CHAOS says
// (make chaos), as a majority always comes back. MUSTER_TEST_CHAOS_SEED repeats
// a schedule; what it meets is another matter.
func TestChaos(t *testing.T) {
	long, err := time.ParseDuration(os.Getenv("MUSTER_TEST_CHAOS"))
	if err != nil {
		t.Skip("set MUSTER_TEST_CHAOS to a duration, or use make chaos")
	}
	seed := rand.Uint64()
	if s := os.Getenv("MUSTER_TEST_CHAOS_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("MUSTER_TEST_CHAOS_SEED: %v", err)
		}
	}
	repeat := fmt.Sprintf("make chaos DURATION=%s SEED=%d", long, seed)
	fmt.Printf("chaos: %s\n", repeat)
	defer func() {
		if t.Failed() {
			fmt.Printf("chaos has failed; the same schedule again: %s\n", repeat)
		}
	}()
	random := rand.New(rand.NewPCG(seed, 0))
	opts := process.ClusterOptions{}
	if process.HasNetworks() {
		opts.Network = process.NewNetwork(t)
	}
	size := 3 + 2*random.IntN(2)
	c := process.NewCluster(t, size, opts)
	c.Form()
	x := &chaos{watched: watch(t, c, process.AgentOptions{Agents: chaosAgents, Rate: chaosRate}, chaosRest, chaosSeconds), t: t, random: random, network: opts.Network}
	x.id = c.OneCluster()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { x.watchLedgers(ctx) })
	for end := time.Now().Add(long); time.Now().Before(end) && !t.Failed(); {
		x.step()
	}
	cancel()
	wg.Wait()
	x.finish()
}

// chaos is a run of it.
type chaos struct {
	*watched
	t       *testing.T
	random  *rand.Rand
	network *process.Network // nil: no cuts
	id      string           // of the cluster
	steps   int

	mu     sync.Mutex
	ledger error
}

// say tells what happens, when it does.
func (x *chaos) say(format string, args ...any) {
	fmt.Printf("chaos: %s %3d: %s\n", time.Now().Format("15:04:05.000"), x.steps, fmt.Sprintf(format, args...))
}

// step lets one thing go wrong for a while, and mends it.
func (x *chaos) step() {
	x.t.Helper()
	x.steps++
	hold := time.Duration(100+x.random.IntN(1900)) * time.Millisecond
	if x.random.IntN(4) == 0 {
		hold += time.Duration(x.random.IntN(9000)) * time.Millisecond
	}
	what := x.random.IntN(100)
	switch {
	case what < 48 || (what < 66 && x.network == nil):
		x.few(hold)
	case what < 66:
		x.cut(hold)
	case what < 75:
		x.all(hold)
	case what < 84:
		x.wipe()
	case what < 95:
		x.kafka(hold)
	default:
		x.say("nothing for %s", hold)
		<-time.After(hold)
	}
	for _, n := range x.Nodes {
		if err := n.Ended(); err != nil {
			x.t.Fatal(err)
		}
	}
	switch x.random.IntN(3) {
	case 0:
		x.whole()
	case 1:
		x.calm()
	}
}

// calm waits until everything is as it should be for agents, too. They take
// their time: one whose node is killed tries that address for ten seconds.
func (x *chaos) calm() {
	x.t.Helper()
	x.whole()
	began := time.Now()
	process.Eventually(x.t, 2*wholeWithin, "all agents stream again", func() error { return x.agents.Connected(chaosAgents) })
	x.say("all agents stream after another %s", time.Since(began).Round(time.Millisecond))
}

// whole waits until everything is as it should be.
func (x *chaos) whole() {
	x.t.Helper()
	began := time.Now()
	x.Whole()
	x.say("whole after %s", time.Since(began).Round(time.Millisecond))
	if took := time.Since(began); took > wholeWithin {
		x.t.Errorf("nothing was wrong any more, and it took %s", took)
	}
}

// pick chooses some nodes.
func (x *chaos) pick(count int) (nodes []*process.Node) {
	for _, i := range x.random.Perm(len(x.Nodes))[:count] {
		nodes = append(nodes, x.Nodes[i])
	}
	return nodes
}

// few kills, stops or ends up to a minority of the nodes, or the leader.
func (x *chaos) few(hold time.Duration) {
	x.t.Helper()
	nodes := x.pick(1 + x.random.IntN(len(x.Nodes)/2))
	if x.random.IntN(2) == 0 {
		if leader, err := x.LeaderNow(); err == nil {
			nodes = []*process.Node{leader}
		}
	}
	var mend []func()
	for _, n := range nodes {
		mend = append(mend, x.hurt(n, hold))
	}
	<-time.After(hold)
	for _, m := range mend {
		m()
	}
}

// hurt does one thing to a node and returns what undoes it.
func (x *chaos) hurt(n *process.Node, hold time.Duration) (mend func()) {
	x.t.Helper()
	switch x.random.IntN(5) {
	case 0, 1:
		x.say("SIGSTOP %s for %s", n.Name, hold)
		n.Pause()
		return n.Resume
	case 2:
		x.say("SIGTERM %s, again after %s", n.Name, hold)
		if took, code := n.Stop(); code != 0 || took > 30*time.Second {
			x.t.Errorf("%s ended with code %d after %s", n.Name, code, took)
		}
	default:
		x.say("kill -9 %s, again after %s", n.Name, hold)
		n.Kill()
	}
	return func() { n.StartOnly() }
}

// cut cuts off some nodes, or lets one be heard by nobody, or breaks one link.
func (x *chaos) cut(hold time.Duration) {
	x.t.Helper()
	nodes := x.pick(len(x.Nodes))
	switch x.random.IntN(3) {
	case 0:
		few := 1 + x.random.IntN(len(nodes)/2)
		x.say("%s and the others apart for %s", names(nodes[:few]), hold)
		x.network.Divide(nodes[:few], nodes[few:])
	case 1:
		x.say("%s is unheard for %s", nodes[0].Name, hold)
		x.network.Cut(nodes[0], nodes[1:]...)
	case 2:
		x.say("%s does not reach %s for %s", nodes[0].Name, nodes[1].Name, hold)
		x.network.Cut(nodes[0], nodes[1])
	}
	<-time.After(hold)
	x.network.Heal()
}

// all kills every node at once, as when the power fails.
func (x *chaos) all(hold time.Duration) {
	x.t.Helper()
	x.say("kill -9 all, again after %s", hold)
	for _, n := range x.Nodes {
		n.Kill()
	}
	<-time.After(hold)
	for _, n := range x.pick(len(x.Nodes)) {
		n.StartOnly()
	}
	x.whole()
}

// wipe takes one node's disk while all others have everything, and waits until
// that has come back to it: two such nodes at once may lose the majority.
func (x *chaos) wipe() {
	x.t.Helper()
	x.whole()
	n := x.pick(1)[0]
	x.say("kill -9 %s and wipe its disk", n.Name)
	n.Kill()
	n.Wipe()
	n.StartOnly()
	x.whole()
}

// kafka takes Kafka away, or silences it, for long enough that records go to the
// nodes' disks. As often as not nodes fail meanwhile.
func (x *chaos) kafka(hold time.Duration) {
	x.t.Helper()
	hold += 3 * time.Second
	if x.random.IntN(2) == 0 {
		x.say("Kafka is away for %s", hold)
		x.Kafka.Away()
	} else {
		x.say("Kafka is silent for %s", hold)
		x.Kafka.Silent()
	}
	defer x.Kafka.Back()
	if x.random.IntN(2) == 0 {
		<-time.After(hold / 2)
		x.few(hold / 2)
		return
	}
	<-time.After(hold)
}

func names(nodes []*process.Node) (names []string) {
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return names
}

// watchLedgers wants the ledger of each node to balance whenever it is looked at.
func (x *chaos) watchLedgers(ctx context.Context) {
	token := x.Token()
	for ctx.Err() == nil {
		for _, n := range x.Nodes {
			s, err := n.Status(token)
			if err != nil {
				continue // it may be dead or stopped
			}
			r := s.Records
			sum := r.Delivered + r.Pending + r.Spooled + r.Refused
			for _, d := range r.Dropped {
				sum += d
			}
			if sum != r.Received {
				x.mu.Lock()
				x.ledger = errors.Join(x.ledger, fmt.Errorf("the ledger of %s does not balance: %+v", n.Name, r))
				x.mu.Unlock()
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// finish mends all and checks what must hold.
func (x *chaos) finish() {
	x.t.Helper()
	x.say("the end: %d steps", x.steps)
	x.calm()
	everywhere(x.t, x.Cluster, chaosAgents)
	x.check(x.t)
	x.agents.Stop()
	if x.ledger != nil {
		x.t.Error(x.ledger)
	}
	if now := x.OneCluster(); now != x.id {
		x.t.Errorf("cluster %s was %s", now, x.id)
	}
	for _, n := range x.Nodes {
		settled(x.t, x.Cluster, n)
		for _, words := range []string{"DATA RACE", "panic: ", "quarantine"} {
			if strings.Contains(n.Log.String(), words) {
				x.t.Errorf("the log of %s has %q", n.Name, words)
			}
		}
	}
	total := x.Tally(x.agents).Total()
	x.say("%d writes acknowledged; records: %+v, %d may be double; agents: %+v",
		x.writers.Acked(), total, x.mayBeDouble(), x.agents.Summary().Records)
	if may := x.mayBeDouble(); total.Duplicates > may {
		x.t.Errorf("%d records are in Kafka twice; nodes count %d that may be", total.Duplicates, may)
	}
}

var foundInSpool = regexp.MustCompile(`found records of an earlier run.* possible_duplicates=(\d+)`)

// mayBeDouble is how many records nodes found on their disks, at all their
// starts, of which the life before did not know whether Kafka had taken them.
// Nothing else here gives it a record twice.
func (x *chaos) mayBeDouble() (records uint64) {
	x.t.Helper()
	for _, n := range x.Nodes {
		for _, found := range foundInSpool.FindAllStringSubmatch(n.Log.String(), -1) {
			count, err := strconv.ParseUint(found[1], 10, 64)
			if err != nil {
				x.t.Fatal(err)
			}
			records += count
		}
	}
	return records
}
