// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"muster/test/process"
)

// formWithin is how long three cold nodes may take.
const formWithin = 15 * time.Second

// times is how often a test that takes figures repeats what it measures: few
// times, unless the environment asks for more.
func times(t *testing.T, variable string, few int) int {
	t.Helper()
	v := os.Getenv(variable)
	if v == "" {
		return few
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// TestProcessClusterForms starts three cold nodes with the same flags, in any
// order, and then uses each of them.
func TestProcessClusterForms(t *testing.T) {
	t.Parallel()
	var took []time.Duration
	for run := range times(t, "MUSTER_TEST_FORMATIONS", 1) {
		c := process.NewCluster(t, 3, process.ClusterOptions{})
		slices.Reverse(c.Nodes)
		took = append(took, c.Form())
		if last := took[run]; last > formWithin {
			t.Errorf("three cold nodes were ready after %s", last)
		}
		onePassword(t, c)
		c.Same()
		if run == 0 {
			eachNodeServes(t, c)
			restarts(t, c)
			growsByJoining(t, c)
		}
		for _, n := range c.Nodes {
			n.Kill()
		}
	}
	slices.Sort(took)
	t.Logf("formed in: median %s, worst %s of %d", took[len(took)/2], took[len(took)-1], len(took))
}

// onePassword wants one cluster, whose first user's password stands on one node.
func onePassword(t *testing.T, c *process.Cluster) {
	t.Helper()
	c.OneCluster()
	var files []string
	for _, n := range c.Nodes {
		if file := filepath.Join(n.Dir, "admin-password"); exists(file) {
			files = append(files, file)
		}
	}
	if len(files) != 1 {
		t.Errorf("the first user's password stands in %v", files)
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// eachNodeServes logs in on each node, uses that token on all of them at once,
// and writes through each.
func eachNodeServes(t *testing.T, c *process.Cluster) {
	t.Helper()
	for _, n := range c.Nodes {
		token := n.Login()
		for _, other := range c.Nodes {
			if _, err := other.Status(token); err != nil {
				t.Errorf("a token of %s: %v", n.Name, err)
			}
		}
	}
	writers := c.Write(c.Nodes...)
	process.Eventually(t, 10*time.Second, "writes through each node", func() error {
		if n := writers.Acked(); n < 30 {
			return fmt.Errorf("%d writes", n)
		}
		return nil
	})
	readsElsewhere(t, c)
	writers.Stop()
	c.Same()
	writers.Check(t, c.Nodes...)
}

// readsElsewhere writes through each node and reads that on each other one, at
// once, by the index that came with the answer.
func readsElsewhere(t *testing.T, c *process.Cluster) {
	t.Helper()
	token := c.Token()
	for _, writer := range c.Nodes {
		for _, reader := range c.Nodes {
			tag := fmt.Sprintf("of-%s-for-%s", writer.Name, reader.Name)
			wrote, err := writer.Exchange(callWithin, "POST", "/v1/keys", `{"scope":"sd","note":"`+tag+`"}`, map[string]string{"token": token})
			if err != nil || wrote.Status != 201 {
				t.Fatalf("write %s: %v: %s", tag, err, wrote.Body)
			}
			index := wrote.Header.Get("X-Muster-Index")
			read, err := reader.Exchange(callWithin, "GET", "/v1/keys?limit=1000", "", map[string]string{"token": token, "X-Muster-Min-Index": index})
			if err != nil || index == "" || !strings.Contains(string(read.Body), tag) {
				t.Errorf("%s does not show %s, at index %q: %v", reader.Name, tag, index, err)
			}
		}
	}
}

// restarts kills all nodes at once and starts them again, with the same flags as
// when they were cold.
func restarts(t *testing.T, c *process.Cluster) {
	t.Helper()
	id, writers := c.OneCluster(), c.Write(c.Nodes...)
	process.Eventually(t, 10*time.Second, "some writes", func() error {
		if writers.Acked() < 10 {
			return fmt.Errorf("%d", writers.Acked())
		}
		return nil
	})
	for _, n := range c.Nodes {
		n.Kill()
	}
	took := c.Form()
	if now := c.OneCluster(); now != id {
		t.Errorf("cluster %s was %s before all nodes were killed", now, id)
	}
	writers.Check(t, c.Nodes...)
	c.Same()
	t.Logf("all killed at once, ready again after %s", took)
	if took > formWithin {
		t.Errorf("all killed at once, ready again after %s", took)
	}
}

// growsByJoining adds a fourth node that has nothing but the list, wipes it, and
// lets it come back.
func growsByJoining(t *testing.T, c *process.Cluster) {
	t.Helper()
	n := c.Grow()
	n.Start()
	c.Writes(10*time.Second, n)
	c.Same()
	n.Kill()
	n.Wipe()
	n.Start()
	c.Writes(10*time.Second, n)
	c.Same()
	c.OneCluster()
}
