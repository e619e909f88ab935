// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"fmt"
	"os"
	"path/filepath"
	"testing/synctest"
	"time"

	"muster/node"
	"muster/recordlog"
)

// startWithin bounds a node's start and stop, in the bubble's time.
const startWithin = time.Minute

// Node is one node of a Cluster, on a host of its own, and the world as it is
// seen from there: what has no other node in its name speaks to this one. Its
// methods are for the test's goroutine, unless they say otherwise.
type Node struct {
	*Cluster
	Name, IP string
	// Config is what the node gets at its next start.
	Config node.Config
	// Node runs between Start and Stop or Kill; else it is nil. Last is its ledger
	// at its last Stop.
	Node *node.Node
	Last recordlog.Ledger
	Log  *Log
	// Trap, if set before a start, holds the node at the first step for which it
	// returns true: see Trapped. Steps are the lines of its log, Info and above, and
	// "dial ADDRESS" for the port of another node, numbered from 1.
	Trap func(step int, what string) bool

	life   *life
	silent bool // it vanished, and nobody hears its host
	dirs   int  // how many data directories it had
}

// Start starts the node and waits until it is ready.
func (n *Node) Start() {
	n.T.Helper()
	n.Launch()
	n.WaitReady(startWithin)
}

// Launch starts the node and does not wait.
func (n *Node) Launch() {
	n.T.Helper()
	if n.Node != nil {
		n.T.Fatalf("%s runs already", n.Name)
	}
	if n.silent {
		n.Net.Heal(n.IP)
		n.silent = false
	}
	l := newLife(n.Net.Host(n.IP))
	l.isTrap = n.Trap
	made, err := node.New(n.Config, l.env(n.T, n.Log, &story{to: n.Cluster.Log, name: n.Name}))
	if err != nil {
		n.T.Fatalf("%s: node.New: %v", n.Name, err)
	}
	n.running.Go(func() {
		l.err = made.Run(l.running)
		close(l.done)
	})
	n.Node, n.life = made, l
}

// WaitReady waits until the node serves.
func (n *Node) WaitReady(within time.Duration) {
	n.T.Helper()
	select {
	case <-n.Node.Ready():
	case <-n.life.done:
		n.T.Fatalf("%s ended before it was ready: %v", n.Name, n.life.err)
	case <-time.After(within):
		n.T.Fatalf("%s was not ready within %s", n.Name, within)
	}
}

// WaitEnd waits until the node has ended by itself, and returns its error.
func (n *Node) WaitEnd(within time.Duration) error {
	n.T.Helper()
	select {
	case <-n.life.done:
	case <-time.After(within):
		n.T.Fatalf("%s did not end within %s", n.Name, within)
	}
	n.Node = nil
	return n.life.err
}

// Stop stops the node as SIGTERM does, and fails the test if it did not end
// well. It returns how long that took.
func (n *Node) Stop() time.Duration {
	n.T.Helper()
	began := time.Now()
	n.askToStop()()
	return time.Since(began)
}

// askToStop begins to stop the node, and returns what waits for it.
func (n *Node) askToStop() (wait func()) {
	stopping, l := n.Node, n.life
	n.Node = nil
	l.stop()
	return func() {
		n.T.Helper()
		<-l.done
		if l.err != nil {
			n.T.Errorf("%s did not stop well: %v", n.Name, l.err)
		}
		if n.Last = stopping.Ledger(); n.Last.Pending != 0 {
			n.T.Errorf("%s: after a clean stop %d records are pending", n.Name, n.Last.Pending)
		}
	}
}

// StopFor has the node stopped for so long: time costs nothing then.
func (n *Node) StopFor(d time.Duration) {
	n.T.Helper()
	n.Stop()
	<-time.After(d)
	n.Start()
}

// Kill ends the node as kill -9 does: its connections are reset. What was being
// written to its disk gets there; the next start finds a copy of it, so that
// whatever the dying goroutines do is of no consequence.
func (n *Node) Kill() {
	n.T.Helper()
	n.life.die()
	n.Net.Kill(n.IP)
	synctest.Wait()
	n.moveTo(func(to string) error { return os.CopyFS(to, os.DirFS(n.Config.DataDir)) })
	n.life.stop()
	n.Node = nil
}

// Vanish ends the node as a loss of power does: the others hear nothing, until
// the next start, which heals every link of the host, answers them with resets.
func (n *Node) Vanish() {
	n.T.Helper()
	n.Net.Cut(n.IP)
	n.silent = true
	n.Kill()
}

// Wipe has the node, which does not run, find an empty disk at its next start.
func (n *Node) Wipe() {
	n.T.Helper()
	if n.Node != nil {
		n.T.Fatalf("%s runs", n.Name)
	}
	n.moveTo(func(to string) error { return os.Mkdir(to, 0o700) })
}

// moveTo gives the node another data directory, which fill makes.
func (n *Node) moveTo(fill func(to string) error) {
	n.T.Helper()
	n.dirs++
	to := filepath.Join(n.base, fmt.Sprintf("%s.%d", n.Name, n.dirs))
	if err := fill(to); err != nil {
		n.T.Fatal(err)
	}
	n.Config.DataDir = to
}

// Trapped tells whether Trap has stopped the node. It stays as it is then until
// it is released or killed.
func (n *Node) Trapped() bool {
	select {
	case <-n.life.trapped:
		return true
	default:
		return false
	}
}

// Release lets the node that was trapped go on, for good. It may be called once
// in each of the node's lives.
func (n *Node) Release() { close(n.life.released) }

// Steps is how many steps the node's process took so far.
func (n *Node) Steps() int { return int(n.life.steps.Load()) }

func (n *Node) at(port int) string { return fmt.Sprintf("%s:%d", n.IP, port) }
