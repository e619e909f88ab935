// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"muster/test/process"
)

// TestProcessClusterRecover loses the disks of two nodes of three: there is no
// majority any more, and never will be by itself. Every node says so, nobody
// founds another cluster, and the node that is left becomes the new beginning.
func TestProcessClusterRecover(t *testing.T) {
	t.Parallel()
	c := process.NewCluster(t, 3, process.ClusterOptions{})
	c.Form()
	id := c.OneCluster()
	writers := c.Write(c.Nodes...)
	process.Eventually(t, 10*time.Second, "some writes", func() error {
		if writers.Acked() < 50 {
			return fmt.Errorf("%d", writers.Acked())
		}
		return nil
	})
	writers.Stop()
	c.Same()

	left, lost := c.Follower(), c.Others(c.Follower())
	marks := logSizes(c)
	for _, n := range lost {
		n.Kill()
		n.Wipe()
	}
	for _, n := range lost {
		n.StartOnly()
	}
	for _, n := range c.Nodes {
		saysHowToRecover(t, n)
		if err := n.Ended(); err != nil {
			t.Fatal(err)
		}
	}

	for _, n := range c.Nodes {
		says(t, n, marks[n], "--recover --yes")
	}

	left.Kill()
	left.StartOnly("--recover")
	if code := left.WaitExit(); code == 0 {
		t.Error("--recover without --yes was accepted")
	}
	left.Start("--recover", "--yes")
	c.Whole()
	if now := c.OneCluster(); now != id {
		t.Errorf("cluster %s was %s", now, id)
	}
	c.Same()
	writers.Check(t, c.Nodes...)

	// From here on it is a cluster like any other, also for the node that recovered.
	left.Kill()
	c.Writes(2*againWorst, lost...)
	left.Start()
	c.Whole()
	c.Same()
}

// saysHowToRecover waits until a node's /readyz says that the majority is lost
// and what to do.
func saysHowToRecover(t *testing.T, n *process.Node) {
	t.Helper()
	var last []string
	process.Eventually(t, 60*time.Second, n.Name+" says how to recover", func() error {
		ready, reasons, err := n.Ready()
		if err != nil {
			return err
		}
		last = reasons
		if ready || !strings.Contains(strings.Join(reasons, " "), "--recover") {
			return fmt.Errorf("ready %v, %q", ready, reasons)
		}
		return nil
	})
	t.Logf("%s: %q", n.Name, last)
}
