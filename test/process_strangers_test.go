// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"muster/test/process"
)

// says waits until the log of a node, from that mark on, has a line with all of
// these words, and returns it.
func says(t *testing.T, n *process.Node, from int, words ...string) string {
	t.Helper()
	var found string
	process.Eventually(t, 40*time.Second, fmt.Sprintf("%s says %q", n.Name, words), func() error {
		for line := range strings.Lines(n.Log.Since(from)) {
			if hasAll(line, words) {
				found = strings.TrimSpace(line)
				return nil
			}
		}
		return errors.New("it does not")
	})
	t.Logf("%s: %s", n.Name, found)
	return found
}

func hasAll(line string, words []string) bool {
	for _, w := range words {
		if !regexp.MustCompile("(?i)" + w).MatchString(line) {
			return false
		}
	}
	return true
}

// logSizes marks the ends of the logs of all nodes.
func logSizes(c *process.Cluster) map[*process.Node]int {
	sizes := make(map[*process.Node]int)
	for _, n := range c.Nodes {
		sizes[n] = n.Log.Len()
	}
	return sizes
}

// anySays is says of whichever node has such a line.
func anySays(t *testing.T, c *process.Cluster, from map[*process.Node]int, words ...string) {
	t.Helper()
	process.Eventually(t, 40*time.Second, fmt.Sprintf("a node of the cluster says %q", words), func() error {
		for n, at := range from {
			for line := range strings.Lines(n.Log.Since(at)) {
				if hasAll(line, words) {
					t.Logf("%s: %s", n.Name, strings.TrimSpace(line))
					return nil
				}
			}
		}
		return errors.New("none does")
	})
}

// unharmed wants the cluster to be what it was.
func unharmed(t *testing.T, c *process.Cluster) {
	t.Helper()
	for _, n := range c.Nodes {
		if err := n.Ended(); err != nil {
			t.Fatal(err)
		}
	}
	c.Writes(10*time.Second, c.Nodes...)
	for _, n := range c.Nodes {
		if err := c.Members(n); err != nil {
			t.Error(err)
		}
	}
}

// TestProcessClusterStrangers has nodes come that do not belong: they are kept
// out, and both sides say in a line why.
func TestProcessClusterStrangers(t *testing.T) {
	t.Parallel()
	const secret = "the secret of both clusters"
	c := process.NewCluster(t, 3, process.ClusterOptions{Secret: secret})
	c.Form()
	seeds := c.Nodes[0].Gossip

	// A wrong secret.
	marks := logSizes(c)
	n := c.Stranger("n9", "another secret than theirs", "--join", seeds)
	n.StartOnly()
	says(t, n, 0, "secret")
	anySays(t, c, marks, "another cluster secret")
	n.Kill()
	unharmed(t, c)

	// A node of another cluster, whose secret is another one, too.
	third := process.NewCluster(t, 1, process.ClusterOptions{Prefix: "third"})
	says(t, lost(t, third, seeds), 0, "secret")
	unharmed(t, c)

	// A node of another cluster that has the same secret.
	marks = logSizes(c)
	other := process.NewCluster(t, 1, process.ClusterOptions{Secret: secret, Prefix: "other"})
	says(t, lost(t, other, seeds), 0, "another cluster", "same secret")
	anySays(t, c, marks, "another cluster", "same secret")
	unharmed(t, c)
	sameName(t, c, secret, seeds)
}

// lost restarts the only node of another cluster so that it goes to these seeds.
func lost(t *testing.T, other *process.Cluster, seeds string) *process.Node {
	t.Helper()
	other.Form()
	n := other.Nodes[0]
	n.Kill()
	n.StartOnly("--join", seeds)
	return n
}

// sameName has a second node with the name of one that lives: on a directory of
// its own, and on a copy of that one's.
func sameName(t *testing.T, c *process.Cluster, secret, seeds string) {
	t.Helper()
	victim := c.Nodes[1]
	marks := logSizes(c)
	n := c.Stranger(victim.Name, secret, "--join", seeds)
	n.StartOnly()
	anySays(t, c, marks, victim.Name, "same name")
	// For a minute it waits for the other to be seen dead.
	says(t, n, 0, victim.Name, "same name|name .* in use|has this one's name")
	process.Eventually(t, 15*time.Second, "the second "+victim.Name+" says what it waits for", func() error {
		ready, reasons, err := n.Ready()
		if err == nil && (ready || !strings.Contains(strings.Join(reasons, " "), victim.Name)) {
			err = fmt.Errorf("ready %v, %q", ready, reasons)
		}
		return err
	})
	n.Kill()
	unharmed(t, c)

	victim.Kill()
	twin := c.Stranger(victim.Name, secret, "--join", seeds)
	if err := os.CopyFS(twin.Dir, os.DirFS(victim.Dir)); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(twin.Dir, "state", "lock"))
	victim.Start()
	twin.StartOnly()
	// It ends so soon that the others may not have heard of it.
	says(t, twin, 0, victim.Name, "copies of one data directory")
	if code := twin.WaitExit(); code != 1 {
		t.Errorf("the copy of %s ended with code %d:\n%s", victim.Name, code, twin.Log.Tail(20))
	}
	unharmed(t, c)
}
