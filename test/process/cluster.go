// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Cluster is several nodes with one secret and one list of seeds, each with an
// address of its own, and a Kafka beside them.
type Cluster struct {
	Nodes  []*Node // those that found it, then those that Grow added
	Kafka  *Kafka
	t      testing.TB
	opts   ClusterOptions
	host   func(i int) string
	secret string // the file
	join   []string
	token  string

	strangers int
}

// ClusterOptions describe a cluster; the zero value is one on loopback.
type ClusterOptions struct {
	// Network connects the nodes; nil is the loopback interface.
	Network *Network
	// Secret that all nodes share; empty is one of this test.
	Secret string
	// Args are more arguments for each node.
	Args []string
	// Prefix of the nodes' names; empty is "n".
	Prefix string
}

// password is the first user's, whichever node makes it.
const password = "a password of these tests"

// NewCluster describes a cluster of so many nodes; nothing runs yet but Kafka.
func NewCluster(t testing.TB, size int, opts ClusterOptions) *Cluster {
	t.Helper()
	Binary(t) // it may have to be built, which is no part of a formation
	c := &Cluster{t: t, opts: opts}
	if opts.Network != nil {
		c.host, c.Kafka = opts.Network.host, startKafka(t, hostPort(opts.Network.kafka, portKafka))
	} else {
		c.host, c.Kafka = loopback(t)
	}
	if opts.Secret == "" {
		opts.Secret = "secret of " + t.Name() + " " + c.Kafka.Addr
	}
	c.secret = filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(c.secret, []byte(opts.Secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var seeds []string
	for i := range size {
		seeds = append(seeds, hostPort(c.host(1+i), portGossip))
	}
	if size == 1 {
		c.add() // a lone node has nobody to join
		c.join = []string{"--join", seeds[0]}
		return c
	}
	c.join = []string{"--join", strings.Join(seeds, ",")}
	for range size {
		c.add("--bootstrap-expect", fmt.Sprint(size))
	}
	return c
}

// Grow describes one more node, which only joins.
func (c *Cluster) Grow() *Node {
	c.t.Helper()
	return c.add()
}

// Stranger describes a node that is not one of ours, with that name and secret,
// and with an address of its own.
func (c *Cluster) Stranger(name, secret string, more ...string) *Node {
	c.t.Helper()
	c.strangers++
	n := c.describe(maxHosts-c.strangers, name, more)
	file := filepath.Join(c.t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		c.t.Fatal(err)
	}
	n.Set("--cluster-secret-file", file)
	return n
}

func (c *Cluster) add(more ...string) *Node {
	c.t.Helper()
	i, prefix := len(c.Nodes)+1, c.opts.Prefix
	if prefix == "" {
		prefix = "n"
	}
	n := c.describe(i, fmt.Sprint(prefix, i), append(slices.Clone(c.join), more...))
	c.Nodes = append(c.Nodes, n)
	return n
}

// describe puts a node on host i.
func (c *Cluster) describe(i int, name string, more []string) *Node {
	c.t.Helper()
	host := c.host(i)
	n := &Node{
		t: c.t, Name: name, Dir: filepath.Join(c.t.TempDir(), "data"), Log: &Output{},
		SD: "http://" + hostPort(host, portSD), HTTP: "http://" + hostPort(host, portHTTP), HTTPS: "https://" + hostPort(host, portHTTPS),
		Agent: hostPort(host, portAgent), Gossip: hostPort(host, portGossip),
		env: []string{"MUSTER_ADMIN_PASSWORD=" + password}, password: password,
	}
	if c.opts.Network != nil {
		n.netns = c.opts.Network.attach(i)
	}
	n.args = slices.Concat([]string{
		"server", "--data-dir", n.Dir, "--node-id", n.Name, "--bind", host, "--advertise", host,
		"--http-addr", hostPort(host, portHTTP), "--allow-plain-http",
		"--cluster-secret-file", c.secret, "--kafka", c.Kafka.Addr,
	}, more, c.opts.Args)
	n.endWithTest()
	return n
}

// Form starts all nodes and waits until each is ready, which took so long, and
// votes, too.
func (c *Cluster) Form() (ready time.Duration) {
	c.t.Helper()
	began := time.Now()
	for _, n := range c.Nodes {
		n.StartOnly()
	}
	c.WaitReady()
	ready = time.Since(began)
	c.Whole()
	return ready
}

// WaitReady waits until every node that runs is ready.
func (c *Cluster) WaitReady() {
	c.t.Helper()
	for _, n := range c.Running() {
		n.WaitReady()
	}
}

// Running are the nodes that have a process.
func (c *Cluster) Running() []*Node {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(n *Node) bool { return !n.Running() })
}

// Others are the running nodes but for those named.
func (c *Cluster) Others(but ...*Node) []*Node {
	return slices.DeleteFunc(c.Running(), func(n *Node) bool { return slices.Contains(but, n) })
}

// Named returns the node of that name, or that server ID.
func (c *Cluster) Named(name string) *Node {
	name, _, _ = strings.Cut(name, "~")
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Token is an API token of the first user, made when it is first asked for.
func (c *Cluster) Token() string {
	c.t.Helper()
	if c.token == "" {
		c.token = c.Running()[0].Login()
	}
	return c.token
}
