// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"muster/fleet"
	"muster/internal/apiv1"
)

// isLeader is 1 in the metrics of the leader.
const isLeader = "muster_raftstore_is_leader"

// Leads tells whether the node believes that it leads.
func (n *Node) Leads() bool { return n.Node != nil && n.Metrics()[isLeader] == 1 }

// Leader waits until exactly one of the nodes that run leads, and returns it.
func (c *Cluster) Leader() *Node {
	c.T.Helper()
	var leader *Node
	c.Eventually(startWithin, "one leader", func() error {
		leading := slices.DeleteFunc(c.Running(), func(n *Node) bool { return !n.Leads() })
		if len(leading) != 1 {
			return fmt.Errorf("%d nodes lead", len(leading))
		}
		leader = leading[0]
		return nil
	})
	return leader
}

// Isolate silences everything between a node and the other nodes. Agents,
// operators and Kafka still reach it.
func (c *Cluster) Isolate(n *Node) { c.Divide([]*Node{n}) }

// Divide silences everything between nodes of one side and all others.
func (c *Cluster) Divide(side []*Node) {
	for _, a := range side {
		for _, b := range c.Nodes {
			if !slices.Contains(side, b) {
				c.Net.Partition(a.IP, b.IP)
			}
		}
	}
}

// Deafen silences what a node is told by the other nodes; they still hear it.
func (c *Cluster) Deafen(n *Node) {
	for _, other := range c.Nodes {
		if other != n {
			c.Net.Block(other.IP, n.IP)
		}
	}
}

// Heal undoes what was silenced.
func (c *Cluster) Heal() { c.Net.Heal() }

// Ready returns the status and the body of /readyz.
func (n *Node) Ready() (status int, body string, err error) {
	a, err := n.Try(Request{Method: "GET", Path: "/readyz"})
	return a.Status, a.Body, err
}

// AllReady waits until /readyz of all these nodes says that they are, and none
// is degraded.
func (c *Cluster) AllReady(within time.Duration, nodes ...*Node) {
	c.T.Helper()
	c.Eventually(within, "all nodes are ready", func() error {
		for _, n := range nodes {
			status, body, err := n.Ready()
			if err != nil {
				return err
			}
			if status != http.StatusOK || !strings.Contains(body, `"degraded":[]`) {
				return fmt.Errorf("%s: %d %s", n.Name, status, body)
			}
		}
		return nil
	})
}

// Discovered returns the names of the nodes that service discovery on this one
// lists, sorted.
func (n *Node) Discovered() ([]string, error) {
	a, err := n.Try(Request{Method: "GET", Path: "/registry/detail?name=" + fleet.ServiceAgents})
	if err != nil {
		return nil, err
	}
	var list struct{ Data []struct{ IP string } }
	if err := json.Unmarshal([]byte(a.Body), &list); err != nil {
		return nil, fmt.Errorf("%w: %s", err, a.Body)
	}
	var names []string
	for _, d := range list.Data {
		names = append(names, n.nameOf(d.IP))
	}
	slices.Sort(names)
	return names, nil
}

func (c *Cluster) nameOf(ip string) string {
	for _, n := range c.Nodes {
		if n.IP == ip {
			return n.Name
		}
	}
	return ip
}

// Names are those of nodes.
func Names(nodes []*Node) (names []string) {
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return names
}

// AllDiscovered waits until service discovery on each of the asked nodes lists
// exactly these nodes.
func (c *Cluster) AllDiscovered(within time.Duration, asked, want []*Node) {
	c.T.Helper()
	c.Eventually(within, "service discovery", func() error {
		for _, n := range asked {
			got, err := n.Discovered()
			if err != nil {
				return err
			}
			if !slices.Equal(got, Names(want)) {
				return fmt.Errorf("%s lists %q, want %q", n.Name, got, Names(want))
			}
		}
		return nil
	})
}

// errNoState is what StateOf returns for an answer without a state.
var errNoState = errors.New("no state")

// StateOf asks this node how far another one is.
func (n *Node) StateOf(other *Node) (apiv1.NodeState, error) {
	var state apiv1.NodeState
	a, err := n.Try(Request{Method: "GET", Path: "/v1/nodes/" + other.Name + "/state", Token: n.Token()})
	if err != nil {
		return state, err
	}
	if a.Status != http.StatusOK {
		return state, fmt.Errorf("%w: %d %s", errNoState, a.Status, a.Body)
	}
	if err := json.Unmarshal([]byte(a.Body), &state); err != nil {
		return state, err
	}
	if state.Hash == "" {
		return state, fmt.Errorf("%w: no hash: %s", errNoState, a.Body)
	}
	n.seen.state(other.Name, state.Applied, state.Hash)
	return state, nil
}

// SameState waits until every node that runs answers for every one of them, and
// all have applied the same: equal hashes at an equal index.
func (c *Cluster) SameState(within time.Duration) {
	c.T.Helper()
	c.Eventually(within, "all nodes have the same state", func() error {
		states := map[string]bool{}
		for _, n := range c.Running() {
			for _, other := range c.Running() {
				state, err := n.StateOf(other)
				if err != nil {
					return fmt.Errorf("%s asked for %s: %w", n.Name, other.Name, err)
				}
				states[fmt.Sprint(state.Applied, " ", state.Hash)] = true
			}
		}
		if len(states) != 1 {
			return fmt.Errorf("%d states: %q", len(states), slices.Sorted(maps.Keys(states)))
		}
		return nil
	})
}

// Recovered says that the log goes on from one node's state: what others had at
// the same index before means nothing from now on.
func (c *Cluster) Recovered() { c.seen.forgetStates() }

// ClusterIDs returns the clusters to which the nodes belong by what is on their
// disks, whether they run or not.
func (c *Cluster) ClusterIDs() []string {
	c.T.Helper()
	ids := map[string]bool{}
	for _, n := range c.Nodes {
		if id := n.identity().ClusterID; id != "" {
			ids[id] = true
		}
	}
	return slices.Sorted(maps.Keys(ids))
}

// ServerID is the node's by what is on its disk, or "".
func (n *Node) ServerID() string { return n.identity().ServerID }

type identity struct {
	ServerID  string `json:"server_id"`
	ClusterID string `json:"cluster_id"`
}

func (n *Node) identity() (id identity) {
	n.T.Helper()
	data, err := os.ReadFile(filepath.Join(n.Config.DataDir, "state", "node.json"))
	if err == nil {
		err = json.Unmarshal(data, &id)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.T.Errorf("%s: %v", n.Name, err)
	}
	return id
}
