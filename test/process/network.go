// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// nowhere is a link-layer address that nobody has: what is sent to it is lost
// without a word, as on a cable that was pulled.
const nowhere = "02:00:00:00:de:ad"

// Network is a bridge of this machine on which each node has a network
// namespace of its own. The test itself, and so Kafka and agents, sits on the
// bridge and reaches every node whatever is cut. Kafka has an address of its own
// there: CutKafka loses what goes to or comes from that.
type Network struct {
	t       testing.TB
	name    string // of the bridge; interfaces and namespaces begin with it
	subnet  string // its first three bytes
	gateway string // the test's own address
	kafka   string
	cuts    [][2]*Node
	mends   []func() // of CutKafka and Lose
}

// firstOther is the host from which on there are no nodes.
const firstOther = 200

// NewNetwork makes a network that ends with the test. It skips the test where
// that needs a right or a tool that is missing.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	if why := noNetwork(); why != "" {
		t.Skip("no network namespaces: " + why)
	}
	w := &Network{t: t}
	w.claim()
	t.Cleanup(func() { _ = ip("link", "del", w.name) })
	w.gateway, w.kafka = w.subnet+".254", w.subnet+".253"
	w.must("addr", "add", w.gateway+"/24", "dev", w.name)
	w.must("addr", "add", w.kafka+"/24", "dev", w.name)
	w.must("link", "set", w.name, "up")
	return w
}

// claim makes a bridge that nobody on this machine has; its name stands for the
// subnet.
func (w *Network) claim() {
	w.t.Helper()
	var err error
	for range 10 {
		a, b := 200+rand.IntN(50), rand.IntN(250)
		w.name, w.subnet = fmt.Sprintf("mu-%d-%d", a, b), fmt.Sprintf("10.%d.%d", a, b)
		if err = ip("link", "add", w.name, "type", "bridge"); err == nil {
			return
		}
	}
	w.t.Fatal(err)
}

// HasNetworks says whether NewNetwork would work here.
func HasNetworks() bool { return noNetwork() == "" }

// noNetwork tries it out, once, and says what is missing.
var noNetwork = sync.OnceValue(func() string {
	if os.Geteuid() != 0 {
		return "they need root"
	}
	name := fmt.Sprintf("mu%x-try", os.Getpid()&0xfffff)
	for _, step := range [][]string{
		{"netns", "add", name},
		{"link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name},
		{"link", "del", name},
		{"link", "add", name, "type", "bridge"},
		{"link", "del", name},
		{"netns", "del", name},
	} {
		if err := ip(step...); err != nil {
			_ = ip("link", "del", name)
			_ = ip("netns", "del", name)
			return err.Error()
		}
	}
	return ""
})

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (w *Network) must(args ...string) {
	w.t.Helper()
	if err := ip(args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *Network) host(i int) string { return fmt.Sprintf("%s.%d", w.subnet, i) }

// attach makes the namespace of host i and returns its name.
func (w *Network) attach(i int) string {
	w.t.Helper()
	ns := fmt.Sprintf("%s-%d", w.name, i)
	w.t.Cleanup(func() { _ = ip("netns", "del", ns) })
	w.must("netns", "add", ns)
	w.must("link", "add", ns, "type", "veth", "peer", "name", "eth0", "netns", ns)
	w.must("link", "set", ns, "master", w.name, "up")
	w.must("-n", ns, "link", "set", "lo", "up")
	w.must("-n", ns, "addr", "add", w.host(i)+"/24", "dev", "eth0")
	w.must("-n", ns, "link", "set", "eth0", "up")
	w.must("-n", ns, "route", "add", "default", "via", w.gateway)
	return ns
}

// Cut loses from now on what from sends to each of to; the other direction
// stays, though without it no connection lasts.
func (w *Network) Cut(from *Node, to ...*Node) {
	w.t.Helper()
	for _, n := range to {
		if n == from || slices.Contains(w.cuts, [2]*Node{from, n}) {
			continue
		}
		w.must("-n", from.netns, "neigh", "replace", n.Host(), "lladdr", nowhere, "dev", "eth0", "nud", "permanent")
		w.cuts = append(w.cuts, [2]*Node{from, n})
	}
}

// Divide loses what these nodes and those others send each other.
func (w *Network) Divide(these, others []*Node) {
	w.t.Helper()
	for _, n := range these {
		w.Cut(n, others...)
	}
	for _, n := range others {
		w.Cut(n, these...)
	}
}

// CutKafka loses from now on what the node sends to Kafka, or what comes from
// there, or both. Agents and the test still reach the node.
func (w *Network) CutKafka(n *Node, requests, answers bool) {
	w.t.Helper()
	if requests {
		w.must("-n", n.netns, "neigh", "replace", w.kafka, "lladdr", nowhere, "dev", "eth0", "nud", "permanent")
		w.mends = append(w.mends, func() { w.must("-n", n.netns, "neigh", "del", w.kafka, "dev", "eth0") })
	}
	if answers {
		rule := []string{"from", w.kafka, "to", n.Host(), "blackhole"}
		w.must(append([]string{"rule", "add"}, rule...)...)
		mend := sync.OnceValue(func() error { return ip(append([]string{"rule", "del"}, rule...)...) })
		w.t.Cleanup(func() { _ = mend() })
		w.mends = append(w.mends, func() {
			if err := mend(); err != nil {
				w.t.Fatal(err)
			}
		})
	}
}

// Lose loses from now on such a part, less than half, of the packets that nodes
// send each other, UDP and TCP alike. What they exchange with the test, with
// agents and Kafka is not touched. Without the right to, it skips the test.
func (w *Network) Lose(part float64, nodes ...*Node) {
	w.t.Helper()
	for _, n := range nodes {
		mend, err := loseOn(n.netns, part)
		if err != nil {
			w.t.Skip("no packets can be lost here: ", err)
		}
		mend = sync.OnceFunc(mend)
		w.t.Cleanup(mend)
		w.mends = append(w.mends, mend)
	}
}

// Heal undoes every cut and loss.
func (w *Network) Heal() {
	w.t.Helper()
	for _, mend := range w.mends {
		mend()
	}
	w.mends = nil
	for _, c := range w.cuts {
		w.must("-n", c[0].netns, "neigh", "del", c[1].Host(), "dev", "eth0")
	}
	w.cuts = nil
}
