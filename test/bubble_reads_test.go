// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"muster/internal/apiv1"
	"muster/node"
	"muster/raftstore"
	"muster/test/bubble"
)

// setConfig makes a revision the default config through a node, and returns the
// index of the log that this made.
func setConfig(n *bubble.Node, revision int) (index string) {
	n.T.Helper()
	version := bubble.Revision(revision)
	answer, err := n.Try(bubble.Request{
		Method: "PUT", Path: "/v1/config/default", Token: n.Token(), Body: bubble.JSON(n, apiv1.DefaultConfig{
			Type: "agent", Version: version, Config: []apiv1.ConfigItem{
				{Name: "collector", Type: "tar.gz", Version: version, DownloadURL: []string{"http://10.9.9.9/collector"}},
			},
		}),
	})
	if err != nil || answer.Status != http.StatusOK {
		n.T.Fatalf("%s: set the default config: %v %v", n.Name, answer, err)
	}
	return answer.Header.Get("X-Muster-Index")
}

// configVersion reads the default config's version, at once.
func configVersion(n *bubble.Node, header map[string]string) string {
	n.T.Helper()
	answer, err := n.Try(bubble.Request{Method: "GET", Path: "/v1/config/default", Token: n.Token(), Header: header})
	if err != nil || answer.Status != http.StatusOK {
		n.T.Fatalf("%s: read the default config: %v %v", n.Name, answer, err)
	}
	var conf apiv1.DefaultConfig
	if err := json.Unmarshal([]byte(answer.Body), &conf); err != nil {
		n.T.Fatal(err)
	}
	return conf.Version
}

// While any one node is down, each of the others takes writes, shows them to who
// wrote, and to who asks another node for that index or for the newest; and a
// token works everywhere once it was answered.
func TestBubbleAnyNodeTakesWrites(t *testing.T) {
	formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
		revision := 0
		for _, down := range append([]*bubble.Node{nil}, c.Nodes...) {
			if down != nil {
				down.Kill()
				c.Leader()
			}
			for _, n := range c.Running() {
				for range 3 {
					revision++
					index := setConfig(n, revision)
					want := bubble.Revision(revision)
					if got := configVersion(n, nil); got != want {
						t.Errorf("%s does not show its own write: %s, want %s", n.Name, got, want)
					}
					for _, other := range c.Others(n) {
						if got := configVersion(other, map[string]string{"X-Muster-Min-Index": index}); got != want {
							t.Errorf("%s at index %s: %s, want %s", other.Name, index, got, want)
						}
					}
					revision++
					setConfig(n, revision)
					for _, other := range c.Others(n) {
						if got := configVersion(other, map[string]string{"X-Muster-Consistency": "linearizable"}); got != bubble.Revision(revision) {
							t.Errorf("%s, linearizable: %s, want %s", other.Name, got, bubble.Revision(revision))
						}
					}
				}
				if down == nil || n == c.Running()[0] {
					tokensWorkEverywhere(t, c, n)
				}
			}
			if down != nil {
				down.Start()
				c.AllReady(30*time.Second, c.Nodes...)
				if got := configVersion(down, nil); got != bubble.Revision(revision) {
					t.Errorf("%s is ready again with %s, want %s", down.Name, got, bubble.Revision(revision))
				}
			}
		}
	})
}

// tokensWorkEverywhere logs in at a node and uses the token on all at once.
func tokensWorkEverywhere(t *testing.T, c *bubble.Cluster, n *bubble.Node) {
	t.Helper()
	answer, err := n.Try(bubble.Request{
		Method: "POST", Path: "/api/v1/user/login",
		Body: bubble.JSON(n, map[string]string{"username": bubble.Admin, "password": bubble.AdminPassword}),
	})
	var login struct{ Data struct{ Token string } }
	if err != nil || json.Unmarshal([]byte(answer.Body), &login) != nil || login.Data.Token == "" {
		t.Fatalf("log-in at %s: %v %v", n.Name, answer, err)
	}
	for _, other := range c.Running() {
		answer, err := other.Try(bubble.Request{Method: "GET", Path: "/v1/status", Token: login.Data.Token})
		if err != nil || answer.Status != http.StatusOK {
			t.Errorf("a token of %s on %s: %v %v", n.Name, other.Name, answer, err)
		}
	}
	for _, other := range c.Running() {
		answer, err := other.Try(bubble.Request{Method: "GET", Path: "/v1/status", Token: login.Data.Token + "x"})
		if err != nil || answer.Status != http.StatusUnauthorized {
			t.Errorf("a wrong token on %s: %v %v, want 401", other.Name, answer, err)
		}
	}
}

const (
	// absentWrites is what a node misses, and snapshotAfter when the log is cut.
	absentWrites  = 2500
	snapshotAfter = 1000
)

// A node that was away for so long that the log it would need is cut comes back
// by a snapshot, and answers nothing from its state before it has all of it.
func TestBubbleCatchesUpBySnapshot(t *testing.T) {
	formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
		agents := inventory(c, 20)
		setConfig(c.Nodes[0], 1)
		away := c.Others(c.Leader())[0]
		away.Stop()
		writeMany(c, agents, absentWrites)
		setConfig(c.Running()[0], 2)
		c.Pass(2 * time.Minute) // the log is cut
		token := c.Running()[0].Token()

		began := time.Now()
		away.Launch()
		early, ready := 0, false
		for !ready {
			if time.Since(began) > 10*time.Second {
				t.Fatalf("not ready after %s: %v", time.Since(began), readiness(away))
			}
			answer, err := away.Try(bubble.Request{Method: "GET", Path: "/v1/config/default", Token: token})
			switch {
			case err == nil && answer.Status == http.StatusOK:
				if ready = strings.Contains(answer.Body, bubble.Revision(2)); !ready {
					t.Fatalf("a stale answer after %s: %s", time.Since(began), answer.Body)
				}
			case err == nil && answer.Status == http.StatusServiceUnavailable && strings.Contains(answer.Body, "not_ready"):
				early++
			case err == nil:
				t.Errorf("before it is ready: %v", answer)
			}
			<-time.After(5 * time.Millisecond)
		}
		t.Logf("%d writes behind: ready after %s; %d reads were refused before", absentWrites, time.Since(began), early)
		if early == 0 {
			t.Error("no read came before it was ready: the test tests nothing")
		}
		if away.Metric("muster_raftstore_restores_total") != 1 {
			t.Error("no snapshot was installed: the test tests nothing")
		}
		away.WaitReady(time.Second)
		c.AllReady(10*time.Second, c.Nodes...)
	}, func(c *node.Config) {
		c.Small = false // the log is cut by whole segments
		c.State = raftstore.Tuning{SnapshotEntries: snapshotAfter, TrailingLogs: 100, SegmentBytes: 64 << 10, MmapBytes: 1 << 30}
	})
}

// writeMany makes so many entries in the log, many at once.
func writeMany(c *bubble.Cluster, agents []string, writes int) {
	c.T.Helper()
	token := c.Running()[0].Token()
	var wg sync.WaitGroup
	const writers = 64
	for w := range writers {
		n := c.Running()[w%len(c.Running())]
		wg.Go(func() {
			for i := w; i < writes; i += writers {
				answer, err := n.Try(bubble.Request{
					Method: "POST", Path: fmt.Sprintf("/v1/tags/m%05d/agents", i%100), Token: token,
					Body: fmt.Sprintf(`{%q:[%q]}`, []string{"add", "remove"}[i/100%2], agents[i%len(agents)]),
				})
				if err != nil || answer.Status != http.StatusOK {
					c.T.Errorf("write %d: %v %v", i, answer, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
