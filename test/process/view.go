// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"muster/internal/apiv1"
)

// sameWithin is how long nodes may take to come to the same state when nobody
// writes.
const sameWithin = 20 * time.Second

// Ready asks /readyz; the reasons say what is missing or degraded.
func (n *Node) Ready() (ready bool, reasons []string, err error) {
	var answer struct {
		Ready             bool
		Reasons, Degraded []string
	}
	status, body, err := n.try(lookWithin, "GET", "/readyz", "", "")
	if err != nil {
		return false, nil, err
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return false, nil, fmt.Errorf("readyz: status %d: %w: %s", status, err, body)
	}
	if answer.Ready != (status == http.StatusOK) {
		return false, nil, fmt.Errorf("readyz: status %d with %s", status, body)
	}
	return answer.Ready, append(answer.Reasons, answer.Degraded...), nil
}

// get decodes the answer to a GET that has to succeed.
func (n *Node) get(path, token string, out any) error {
	status, body, err := n.try(lookWithin, "GET", path, token, "")
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s of %s: status %d: %.300s", path, n.Name, status, body)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s of %s: %w: %.300s", path, n.Name, err, body)
	}
	return nil
}

// Status is a node's account of itself.
func (n *Node) Status(token string) (s apiv1.Status, err error) {
	return s, n.get("/v1/status", token, &s)
}

// Metric sums up the series of that name in the node's /metrics.
func (n *Node) Metric(name string) (sum float64, err error) {
	status, body, err := n.try(lookWithin, "GET", "/metrics", "", "")
	if err != nil {
		return 0, err
	}
	found := false
	for line := range strings.Lines(string(body)) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if bare, _, _ := strings.Cut(series, "{"); bare != name {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("%s of %s: %w", name, n.Name, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("%s has no %s: status %d", n.Name, name, status)
	}
	return sum, nil
}

// Nodes asks the node for the list of nodes.
func (n *Node) Nodes(token string) (page apiv1.Page[apiv1.Node], err error) {
	return page, n.get("/v1/nodes?limit=1000", token, &page)
}

// Connections asks how many agents have a stream to the node, as /conn/count
// says it.
func (n *Node) Connections(token string) (int, error) {
	var answer struct {
		Code int
		Data int
	}
	err := n.get("/conn/count", token, &answer)
	if err == nil && answer.Code != 0 {
		err = fmt.Errorf("/conn/count of %s: code %d", n.Name, answer.Code)
	}
	return answer.Data, err
}

// Drain begins or ends to empty the named node, through this one.
func (n *Node) Drain(named *Node, drain bool, token string) error {
	verb := "undrain"
	if drain {
		verb = "drain"
	}
	status, body, err := n.try(callWithin, "POST", "/v1/nodes/"+named.Name+"/"+verb, token, "")
	if err == nil && status >= http.StatusMultipleChoices {
		err = fmt.Errorf("%s %s: status %d: %.300s", verb, named.Name, status, body)
	}
	return err
}

// StateOf asks the node how far the node of that name is.
func (n *Node) StateOf(name, token string) (s apiv1.NodeState, err error) {
	return s, n.get("/v1/nodes/"+name+"/state", token, &s)
}

// Discover asks service discovery where agents should go, as an agent does.
func (n *Node) Discover() (addrs []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.SD+"/registry/detail?name=hids_svr_grpc&count=10", nil)
	if err != nil {
		return nil, err
	}
	res, err := caller.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var answer struct {
		Data []struct {
			IP   string
			Port int
		}
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("service discovery of %s: %w", n.Name, err)
	}
	for _, d := range answer.Data {
		addrs = append(addrs, net.JoinHostPort(d.IP, strconv.Itoa(d.Port)))
	}
	return addrs, nil
}

// Listed wants each of the askers to name this node, or not to, in service
// discovery.
func (n *Node) Listed(want bool, askers ...*Node) error {
	for _, a := range askers {
		addrs, err := a.Discover()
		if err != nil {
			return err
		}
		if slices.Contains(addrs, n.Agent) != want {
			return fmt.Errorf("%s answers %v; %s has %s", a.Name, addrs, n.Name, n.Agent)
		}
	}
	return nil
}

// LeaderNow asks the nodes who leads: all those asked must agree with the leader.
func (c *Cluster) LeaderNow(asked ...*Node) (*Node, error) {
	if len(asked) == 0 {
		asked = c.Running()
	}
	id, term := "", uint64(0)
	for _, n := range asked {
		s, err := n.Status(c.Token())
		if err != nil {
			return nil, err
		}
		if s.Store.Leader == "" || (id != "" && (id != s.Store.Leader || term != s.Store.Term)) {
			return nil, fmt.Errorf("%s follows %q in term %d, another %q in term %d", n.Name, s.Store.Leader, s.Store.Term, id, term)
		}
		id, term = s.Store.Leader, s.Store.Term
	}
	if n := c.Named(id); n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("the leader %q is none of ours", id)
}

// Members wants every running node to be a voter or the leader, of nodes that
// this one knows, and nobody else to be a member.
func (c *Cluster) Members(asked *Node) error {
	page, err := asked.Nodes(c.Token())
	if err != nil {
		return err
	}
	members := 0
	for _, n := range page.Items {
		switch own := c.Named(n.Name); {
		case own == nil || !own.Running():
			return fmt.Errorf("%s lists %s, which does not run", asked.Name, n.Name)
		case n.Role != "leader" && n.Role != "voter":
			return fmt.Errorf("%s is a %s, says %s", n.Name, n.Role, asked.Name)
		}
		members++
	}
	if want := len(c.Running()); members != want {
		return fmt.Errorf("%s lists %d members of %d", asked.Name, members, want)
	}
	return nil
}

// Whole waits until every node that runs is ready, votes, follows one leader and
// takes writes.
func (c *Cluster) Whole() {
	c.t.Helper()
	c.WaitReady()
	c.Leader()
	for _, n := range c.Running() {
		Eventually(c.t, sameWithin, "all nodes vote", func() error { return c.Members(n) })
	}
	c.Writes(sameWithin, c.Running()...)
}

// Leader waits until the nodes agree on who leads.
func (c *Cluster) Leader(asked ...*Node) *Node {
	c.t.Helper()
	var leader *Node
	Eventually(c.t, sameWithin, "there is a leader", func() (err error) {
		leader, err = c.LeaderNow(asked...)
		return err
	})
	return leader
}

// Follower returns a node that does not lead.
func (c *Cluster) Follower() *Node {
	c.t.Helper()
	return c.Others(c.Leader())[0]
}

// errApart says that states differ at the same index.
var errApart = errors.New("hashes differ at the same index")

// Same waits until all running nodes have applied the same, and fails the test
// when their states are not equal then. Each is asked for itself, and the first
// one for all of them.
func (c *Cluster) Same() {
	c.t.Helper()
	Eventually(c.t, sameWithin, "all nodes have the same state", func() error {
		err := c.same()
		if errors.Is(err, errApart) {
			c.t.Fatal(err)
		}
		return err
	})
}

func (c *Cluster) same() error {
	var states []apiv1.NodeState
	running := c.Running()
	for _, n := range running {
		for _, asked := range []*Node{n, running[0]} {
			s, err := asked.StateOf(n.Name, c.Token())
			if err != nil {
				return err
			}
			if s.Hash == "" {
				return fmt.Errorf("%s tells no hash of %s", asked.Name, n.Name)
			}
			states = append(states, s)
		}
	}
	for _, s := range states {
		switch first := states[0]; {
		case s.Applied != first.Applied:
			return fmt.Errorf("%s is at %d, %s at %d", first.Node, first.Applied, s.Node, s.Applied)
		case s.Hash != first.Hash:
			return fmt.Errorf("%w: %+v", errApart, states)
		}
	}
	return nil
}

// OneCluster wants all running nodes to be of one cluster, and returns its ID.
func (c *Cluster) OneCluster() string {
	c.t.Helper()
	id := ""
	for _, n := range c.Running() {
		s, err := n.Status(c.Token())
		if err != nil {
			c.t.Fatal(err)
		}
		if s.Store.ClusterID == "" || (id != "" && id != s.Store.ClusterID) {
			c.t.Fatalf("%s is of cluster %q, others of %q", n.Name, s.Store.ClusterID, id)
		}
		id = s.Store.ClusterID
	}
	return id
}
