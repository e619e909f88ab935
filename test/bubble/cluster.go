// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster/gossip"
	"muster/internal/memnet"
	"muster/node"
)

// The hosts beside the nodes, which are 10.0.0.1 and so on.
const (
	NodeIP     = "10.0.0.1"
	KafkaIP    = "10.0.0.99" // of a Kafka outside the nodes, see StartKafka
	AgentIP    = "10.0.1.1"
	OperatorIP = "10.0.2.1"
)

// The ports of every node.
const (
	sdPort     = 8088
	httpPort   = 6701
	httpsPort  = 6752
	agentPort  = 6751
	nodePort   = 6760
	gossipPort = 7946
)

// Addresses of the first node.
const (
	AgentAddr = NodeIP + ":6751"
	HTTPSAddr = NodeIP + ":6752"
)

// Admin is the first user, and AdminPassword the password that it is given.
const (
	Admin         = "admin"
	AdminPassword = "correct horse battery staple"
)

// secret is what the nodes of a cluster share.
const secret = "an open secret of all the bubbles"

// founders is how many nodes found a cluster, and are in its --join lists.
const founders = 3

// Cluster is a network in memory with nodes on it and everybody who speaks to
// them. It belongs to one bubble.
type Cluster struct {
	T   *testing.T
	Net *memnet.Network
	// Nodes are those that there ever were.
	Nodes []*Node
	// Log is what all nodes log, each line with the name of its node in front.
	Log *Log

	base    string
	change  []func(*node.Config)
	client  *http.Client
	session session
	seen    seen
	running sync.WaitGroup
	closers []func() // called before the nodes are stopped, the last one first
	outside []func() // called after it
}

// Run runs a test in a bubble, with one node that was started and will be
// stopped. The changes are made to its config before.
func Run(t *testing.T, test func(t *testing.T, n *Node), change ...func(*node.Config)) {
	t.Helper()
	RunCluster(t, 1, func(t *testing.T, c *Cluster) {
		c.Nodes[0].Start()
		test(t, c.Nodes[0])
	}, change...)
}

// RunCluster runs a test in a bubble, with so many nodes that were not started
// yet and will be stopped if they run. More than one have a Kafka outside.
func RunCluster(t *testing.T, nodes int, test func(t *testing.T, c *Cluster), change ...func(*node.Config)) {
	t.Helper()
	// Two processors that run timers of one bubble at once share a context of the
	// race detector, which is not made for that and crashes now and then, the
	// sooner the more timers fire (go.dev/issue/78156). On one processor they
	// cannot; what races is found by its order, not by its time.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer time.AfterFunc(standsStill, func() { panic(whyStill()) }).Stop()
	base := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, base)
		c.change = change
		t.Cleanup(c.end)
		if nodes > 1 {
			c.StartKafka()
		}
		for range nodes {
			c.Add(nodes > 1)
		}
		test(t, c)
	})
}

// standsStill is how long a bubble may take, by the clock outside it: many times
// what the longest one does.
const standsStill = 6 * time.Minute

// whyStill names the goroutines that keep the time in a bubble from passing: those
// that wait for what synctest cannot see, such as a mutex.
func whyStill() string {
	stacks := make([]byte, 16<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var why strings.Builder
	fmt.Fprintf(&why, "the bubble stands still, its time does not pass because of:\n")
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if head, _, _ := strings.Cut(stack, "\n"); strings.Contains(head, "synctest bubble") && !strings.Contains(head, "(durable)") {
			fmt.Fprintf(&why, "%s\n\n", stack)
		}
	}
	return why.String()
}

func newCluster(t *testing.T, base string) *Cluster {
	c := &Cluster{T: t, Net: memnet.New(), Log: &Log{}, base: base, seen: newSeen()}
	c.client = &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			DialContext:       c.Net.Host(OperatorIP).DialContext,
			DisableKeepAlives: true, // nothing is left over between requests
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// Add makes another node, which is not started: node-a, node-b and so on. The
// first three of a cluster found it, those after them only join.
func (c *Cluster) Add(joins bool) *Node {
	i := len(c.Nodes)
	n := &Node{Cluster: c, Name: "node-" + string(rune('a'+i)), IP: fmt.Sprintf("10.0.0.%d", i+1), Log: &Log{}}
	n.Config = node.Config{
		NodeID: n.Name, DataDir: filepath.Join(c.base, n.Name), Bind: n.IP, Advertise: n.IP, Profile: "lan",
		Listen: node.ListenConfig{
			SD: []string{n.at(sdPort)}, HTTP: []string{n.at(httpPort)}, HTTPS: n.at(httpsPort),
			AllowPlainHTTP: true, Node: n.at(nodePort), Gossip: n.at(gossipPort),
		},
		Agents:        node.AgentConfig{Addr: n.at(agentPort), Limit: 1000},
		Cluster:       node.ClusterConfig{BootstrapExpect: -1},
		Kafka:         node.KafkaConfig{Topic: topic, RetentionBytes: 1 << 30, Compression: "none"},
		AdminPassword: AdminPassword,
		Small:         true,
	}
	if joins {
		n.Config.Cluster = node.ClusterConfig{BootstrapExpect: founders, Secret: secret}
		for k := range founders {
			n.Config.Cluster.Join = append(n.Config.Cluster.Join, fmt.Sprintf("10.0.0.%d:%d", k+1, gossipPort))
		}
		if i >= founders {
			n.Config.Cluster.BootstrapExpect = -1
		}
		n.Config.Kafka.Brokers = []string{KafkaIP + ":9092"}
	}
	for _, change := range c.change {
		change(&n.Config)
	}
	c.Nodes = append(c.Nodes, n)
	return n
}

// end stops all that still runs.
func (c *Cluster) end() {
	for _, closer := range slices.Backward(c.closers) {
		closer()
	}
	c.Net.Heal()
	c.StopAll()
	for _, closer := range slices.Backward(c.outside) {
		closer()
	}
	c.running.Wait()
	if len(c.Nodes) > 1 {
		<-time.After(gossip.Linger)
	}
	c.seen.check(c.T)
	if c.T.Failed() {
		c.T.Logf("log of the nodes:\n%s", c.Log.Tail(48<<10))
	}
}

// later has a function called at the end of the test, before the nodes stop.
func (c *Cluster) later(f func()) { c.closers = append(c.closers, f) }

// Pass lets so much time pass, and waits until everybody rests.
func (c *Cluster) Pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// Go runs a function that has ended before the test has.
func (c *Cluster) Go(f func()) { c.running.Go(f) }

// Eventually waits until check returns nil, looking each 10 ms of the bubble's
// time, and fails the test with its last error after the deadline.
func (c *Cluster) Eventually(within time.Duration, what string, check func() error) {
	c.T.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); ; <-tick.C {
		synctest.Wait()
		err := check()
		if err == nil {
			return
		}
		if !time.Now().Before(deadline) {
			c.T.Fatalf("%s: not within %s: %v", what, within, err)
		}
	}
}

// Form starts all nodes at once and waits until all are ready, within so long.
func (c *Cluster) Form(within time.Duration) {
	c.T.Helper()
	c.StartAll(within, c.Nodes...)
}

// StartAll starts these nodes at once and waits until all are ready.
func (c *Cluster) StartAll(within time.Duration, nodes ...*Node) {
	c.T.Helper()
	deadline := time.Now().Add(within)
	for _, n := range nodes {
		n.Launch()
	}
	for _, n := range nodes {
		n.WaitReady(time.Until(deadline))
	}
}

// StopAll stops all nodes that run, at once.
func (c *Cluster) StopAll() {
	c.T.Helper()
	var waits []func()
	for _, n := range c.Running() {
		waits = append(waits, n.askToStop())
	}
	for _, wait := range waits {
		wait()
	}
}

// Running returns the nodes that run.
func (c *Cluster) Running() []*Node {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(n *Node) bool { return n.Node == nil })
}

// Others returns the nodes that run, without these.
func (c *Cluster) Others(not ...*Node) []*Node {
	return slices.DeleteFunc(c.Running(), func(n *Node) bool { return slices.Contains(not, n) })
}

// story writes lines with the name of a node in front.
type story struct {
	to   *Log
	name string
}

// Write implements io.Writer.
func (s *story) Write(p []byte) (int, error) {
	line := bytes.Join([][]byte{[]byte(s.name), p}, []byte(" "))
	if _, err := s.to.Write(line); err != nil {
		return 0, err
	}
	return len(p), nil
}
