// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"strings"
	"testing"

	"muster/test/process"
)

// TestProcessClusterRemove removes a node that lives: it ends by itself, is
// refused at its next start, and comes back as a new member with an empty
// directory.
func TestProcessClusterRemove(t *testing.T) {
	t.Parallel()
	c := process.NewCluster(t, 4, process.ClusterOptions{})
	c.Form()
	gone := c.Nodes[3]
	asked := c.Nodes[0]
	token := c.Token()
	if status, answer, err := asked.Try("DELETE", "/v1/nodes/"+gone.Name, token, ""); err != nil || status != 409 {
		t.Fatalf("removing a live node without force: %d %s, %v", status, answer, err)
	}
	if status, answer, err := asked.Try("DELETE", "/v1/nodes/"+gone.Name+"?force=true", token, ""); err != nil || status != 200 {
		t.Fatalf("removing a live node: %d %s, %v", status, answer, err)
	}
	endsAsRemoved(t, gone)
	c.Writes(2*againWorst, c.Others(gone)...)

	gone.StartOnly()
	endsAsRemoved(t, gone)

	gone.Wipe()
	gone.Start()
	c.Whole()
	c.Same()
}

// endsAsRemoved waits until a node has ended, and says that it was removed.
func endsAsRemoved(t *testing.T, n *process.Node) {
	t.Helper()
	if code := n.WaitExit(); code != 1 || !strings.Contains(n.Log.String(), "was removed from the cluster for good") {
		t.Errorf("%s ended with %d:\n%s", n.Name, code, n.Log.Tail(20))
	}
}

// TestProcessClusterOldDirectories starts the directories of nodes that were
// dropped by a recovery: by their own word they are the majority, and end all the
// same as soon as they meet the cluster.
func TestProcessClusterOldDirectories(t *testing.T) {
	t.Parallel()
	c := process.NewCluster(t, 3, process.ClusterOptions{})
	c.Form()
	left := c.Nodes[2]
	old := c.Others(left)
	for _, n := range old {
		n.Kill()
	}
	left.Kill()
	left.Start("--recover", "--yes")
	for _, n := range old {
		n.StartOnly()
	}
	for _, n := range old {
		endsAsRemoved(t, n)
		n.Wipe()
		n.StartOnly()
	}
	for _, n := range old {
		n.WaitReady()
	}
	c.Whole()
	c.Same()
}

// TestProcessClusterRecoverByMistake starts a node with --recover while the
// majority lives: it would be a second cluster.
func TestProcessClusterRecoverByMistake(t *testing.T) {
	t.Parallel()
	c := process.NewCluster(t, 3, process.ClusterOptions{})
	c.Form()
	n := c.Follower()
	n.Kill()
	c.Writes(2*againWorst, c.Running()...)
	n.StartOnly("--recover", "--yes")
	if code := n.WaitExit(); code != 1 || !strings.Contains(n.Log.String(), "the majority lives") {
		t.Errorf("--recover beside a majority ended with %d:\n%s", code, n.Log.Tail(20))
	}
	n.Start()
	c.Whole()
	c.Same()
}

// TestProcessClusterRecoverWithMajority: two of three that are up need no
// recovery, and one of them has what the other lacks.
func TestProcessClusterRecoverWithMajority(t *testing.T) {
	t.Parallel()
	c := process.NewCluster(t, 3, process.ClusterOptions{})
	c.Form()
	behind, others := c.Nodes[2], c.Nodes[:2]
	behind.Kill()
	c.Writes(2*againWorst, others...)
	others[1].Kill()
	behind.StartOnly("--recover", "--yes")
	if code := behind.WaitExit(); code != 1 || !strings.Contains(behind.Log.String(), "start this node without --recover") {
		t.Errorf("--recover with a majority up ended with %d:\n%s", code, behind.Log.Tail(20))
	}
	behind.StartOnly()
	others[1].StartOnly()
	c.Whole()
	c.Same()
}
