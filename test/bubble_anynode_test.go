// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"muster/internal/apiv1"
	"muster/test/bubble"
)

// crew opens streams of agents on each node, and returns them by the name of
// their node.
func crew(c *bubble.Cluster, each int) map[string][]*bubble.Agent {
	c.T.Helper()
	agents := map[string][]*bubble.Agent{}
	for _, n := range c.Nodes {
		for i := range each {
			a := n.Open(fmt.Sprintf("agent-%s-%d", n.Name, i))
			a.Beat("cpu", "0.25")
			agents[n.Name] = append(agents[n.Name], a)
		}
	}
	c.Eventually(5*time.Second, "all nodes know all agents", func() error {
		for _, n := range c.Nodes {
			if list, _ := listAgents(n); len(list) != each*len(c.Nodes) {
				return fmt.Errorf("%s knows %d", n.Name, len(list))
			}
		}
		return nil
	})
	return agents
}

// listAgents asks a node for all agents, and the nodes that did not answer.
func listAgents(n *bubble.Node) (list []apiv1.Agent, missing string) {
	n.T.Helper()
	answer := n.Do(bubble.Request{Method: "GET", Path: "/v1/agents?limit=1000", Token: n.Token()})
	var page apiv1.Page[apiv1.Agent]
	if err := json.Unmarshal([]byte(answer.Body), &page); err != nil || answer.Status != http.StatusOK {
		n.T.Fatalf("agents on %s: %v %v", n.Name, answer, err)
	}
	missing = answer.Header.Get("X-Muster-Missing")
	if inBody := page.PageInfo; inBody != nil && len(inBody.Missing) > 0 != (missing != "") {
		n.T.Errorf("agents on %s: the header says that %q is missing, the body %q", n.Name, missing, inBody.Missing)
	}
	return page.Items, missing
}

// wantRevision waits until the last config of each of these agents is a revision.
func wantRevision(c *bubble.Cluster, within time.Duration, revision int, agents ...*bubble.Agent) {
	c.T.Helper()
	c.Eventually(within, bubble.Revision(revision)+" reaches the agents", func() error {
		for _, a := range agents {
			configs := a.Configs()
			if len(configs) == 0 {
				return errors.New(a.Says.GetAgentId() + " has no config")
			}
			if got := configs[len(configs)-1].GetConfig()[0].GetVersion(); got != bubble.Revision(revision) {
				return fmt.Errorf("%s has %s", a.Says.GetAgentId(), got)
			}
		}
		return nil
	})
}

func all(agents map[string][]*bubble.Agent) (list []*bubble.Agent) {
	for _, some := range agents {
		list = append(list, some...)
	}
	return list
}

// Config, tags, tasks and commands given to any node reach the agents of every
// other, and every node shows all of them.
func TestBubbleAnyNodeReachesAllAgents(t *testing.T) {
	formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
		agents := crew(c, 2)
		key := c.Nodes[0].NewKey("agents")
		for i, n := range c.Nodes {
			setConfig(n, i+1)
			wantRevision(c, 2*time.Second, i+1, all(agents)...)
			for _, other := range c.Nodes {
				a := agents[other.Name][0]
				id := a.Says.GetAgentId()
				before := len(a.Tasks())
				code, data, took := command(n, key, fmt.Sprintf(`{"agent_id":%q,"command":{"task":{"data_type":6053,"name":"scanner","data":"{}"}}}`, id))
				if code != 0 || took > time.Second || len(a.Tasks()) != before+1 {
					t.Errorf("command through %s to %s: code %d %s after %s, %d tasks", n.Name, id, code, data, took, len(a.Tasks())-before)
				}
				task := quickTask(n, id, 600, pluginTask)
				sent := nextTask(n, a, before+2, 2*time.Second)
				a.Reply(6000, sent.GetToken(), "succeed", "clean on "+other.Name)
				for _, reader := range c.Nodes {
					c.Eventually(2*time.Second, "the result is everywhere", func() error {
						if s := subTasks(reader, task)[id]; s.Status != "result_succeed" || s.Result != "clean on "+other.Name {
							return fmt.Errorf("on %s: %+v", reader.Name, s)
						}
						return nil
					})
				}
			}
			tag := "given-to-" + n.Name
			for _, a := range all(agents) {
				n.V1("POST", "/v1/agents/"+a.Says.GetAgentId()+"/tags", apiv1.TagChange{Add: []string{tag}}, nil)
			}
			c.SameState(2 * time.Second)
			for _, reader := range c.Nodes {
				listsAreWhole(t, reader, agents, tag)
			}
		}
	})
}

// listsAreWhole wants a node to show every agent with its stream, its heartbeat
// and a tag.
func listsAreWhole(t *testing.T, n *bubble.Node, agents map[string][]*bubble.Agent, tag string) {
	t.Helper()
	list, missing := listAgents(n)
	if missing != "" || len(list) != len(all(agents)) {
		t.Errorf("%s lists %d agents, missing nodes %q", n.Name, len(list), missing)
	}
	for _, a := range list {
		if a.Session == nil || a.Session.Heartbeat["cpu"] != 0.25 || a.State != "running" {
			t.Errorf("%s shows %s as %s, with the session %+v", n.Name, a.ID, a.State, a.Session)
		}
		if !slices.Contains(a.Tags, tag) {
			t.Errorf("%s shows %s with the tags %q, without %q", n.Name, a.ID, a.Tags, tag)
		}
		if got := statusOf(n, a.ID); got != "running" {
			t.Errorf("%s: getStatus says that %s is %s", n.Name, a.ID, got)
		}
	}
}

// A node that is cut off is named as missing, pushes nothing, and what was meant
// for its agents reaches them when it is back, unless that was refused.
func TestBubbleCutOffNodePushesNothing(t *testing.T) {
	formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
		agents := crew(c, 2)
		key := c.Nodes[0].NewKey("agents")
		setConfig(c.Nodes[0], 1)
		wantRevision(c, 2*time.Second, 1, all(agents)...)
		for _, way := range []string{"alone", "deaf"} {
			cut := c.Leader()
			if way == "alone" {
				c.Isolate(cut)
			} else {
				c.Deafen(cut)
			}
			near := c.Others(cut)[0]
			if _, missing := listAgents(near); missing != cut.Name {
				t.Errorf("%s is %s: %s says that %q is missing", cut.Name, way, near.Name, missing)
			}
			c.Leader()
			revision := int(near.Status().Store.Applied) // it only has to grow
			setConfig(near, revision)
			lost := agents[cut.Name][0]
			had := len(lost.Commands())
			code, data, took := command(near, key, fmt.Sprintf(`{"agent_id":%q,"command":{"task":{"data_type":6053,"name":"scanner","data":"{}"}}}`, lost.Says.GetAgentId()))
			if code == 0 || took > 6*time.Second {
				t.Errorf("a command for an agent of %s: code %d %s after %s", cut.Name, code, data, took)
			}
			moved := cut.Open(agents[near.Name][1].Says.GetAgentId())
			moved.Beat()
			c.Pass(20 * time.Second)
			if _, missing := listAgents(near); missing != cut.Name {
				t.Errorf("%s is %s for long: %s says that %q is missing", cut.Name, way, near.Name, missing)
			}
			if got := len(lost.Commands()); got != had || len(moved.Commands()) != 0 {
				t.Errorf("%s is %s and pushed %d commands to its agent, %d to one that came", cut.Name, way, got-had, len(moved.Commands()))
			}
			lost.Send(bubble.NewRecord(bubble.Execve, "exe", "/bin/"+way))
			wantReadiness(cut, 20*time.Second, "503", "leader")
			c.Heal()
			c.AllReady(time.Minute, c.Nodes...)
			c.AllDiscovered(time.Minute, c.Nodes, c.Nodes)
			moved.Beat()
			wantRevision(c, 5*time.Second, revision, append(slices.Clone(agents[cut.Name]), moved)...)
			if got := len(lost.Tasks()); got != 0 {
				t.Errorf("a command that was refused was sent later")
			}
			if got := len(bubble.Of(near.ReadKafka(bubble.KafkaIP+":9092"), lost.Says.GetAgentId(), bubble.Execve)); got == 0 {
				t.Error("what an agent of the node sent while it was cut off is not in Kafka")
			}
			agents[near.Name][1] = moved
		}
	})
}

// A node that hears the leader again after a while has an old state for a moment,
// whatever raft's heartbeats say. Agents that come to it just then must wait.
func TestBubbleHealedNodePushesNothingOld(t *testing.T) {
	formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
		const comers = 30
		revision := 0
		for range 3 {
			cut := c.Others(c.Leader())[0]
			c.Isolate(cut)
			c.Pass(time.Duration(10_000+rand.IntN(20_000)) * time.Millisecond)
			near := c.Others(cut)[0]
			revision++
			setConfig(near, revision)
			var agents []*bubble.Agent
			for i := range comers {
				a := near.Open(fmt.Sprintf("comer-%d", i))
				a.Beat()
				agents = append(agents, a)
			}
			wantRevision(c, 5*time.Second, revision, agents...)
			for i, a := range agents {
				a.Cut()
				agents[i] = cut.Open(a.Says.GetAgentId())
				agents[i].Send() // it is connected
			}
			c.Heal()
			for i, a := range agents {
				if err := a.TrySend(bubble.NewRecord(bubble.Heartbeat, "state", "running")); err != nil {
					t.Fatal(err)
				}
				if i > comers/2 {
					<-time.After(20 * time.Millisecond)
				}
			}
			wantRevision(c, 15*time.Second, revision, agents...)
			for _, a := range agents {
				a.Cut()
			}
			c.AllReady(time.Minute, c.Nodes...)
			c.AllDiscovered(time.Minute, c.Nodes, c.Nodes)
		}
	})
}

// Agents move between nodes that die, stop and are cut off, while the config
// changes. The harness fails the test if any of them ever gets an older one.
func TestBubbleRevisionsNeverGoDown(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
		const agents = 6
		last := make([]*bubble.Agent, agents)
		revision, configs := 0, 0
		for range 40 {
			switch n := c.Nodes[random.IntN(3)]; {
			case n.Node == nil:
				n.Launch()
			case random.IntN(4) > 0 || len(c.Running()) < 3:
			case random.IntN(3) == 0:
				n.Kill()
			case random.IntN(2) == 0:
				n.Stop()
			default:
				c.Isolate(n)
			}
			if random.IntN(4) == 0 {
				c.Heal()
			}
			for i := range last {
				if n := c.Nodes[random.IntN(3)]; n.Node != nil && isReady(n) && random.IntN(2) == 0 {
					if last[i] != nil {
						configs += len(last[i].Configs())
						last[i].Cut()
					}
					last[i] = n.Open(fmt.Sprintf("rover-%d", i))
					_ = last[i].TrySend(bubble.NewRecord(bubble.Heartbeat, "state", "running"))
				}
			}
			revision++
			writer := c.Running()[random.IntN(len(c.Running()))]
			trySetConfig(c, writer, revision)
			c.Pass(time.Duration(random.IntN(4000)) * time.Millisecond)
		}
		c.Heal()
		for _, n := range c.Nodes {
			if n.Node == nil {
				n.Launch()
			}
		}
		for _, n := range c.Nodes {
			n.WaitReady(time.Minute)
		}
		c.AllReady(time.Minute, c.Nodes...)
		t.Logf("%d configs were pushed", configs)
		if configs < 20 {
			t.Error("that is too few")
		}
	})
}

func isReady(n *bubble.Node) bool {
	select {
	case <-n.Node.Ready():
		return true
	default:
		return false
	}
}

// trySetConfig is setConfig for when it may be refused.
func trySetConfig(c *bubble.Cluster, n *bubble.Node, revision int) {
	c.T.Helper()
	version := bubble.Revision(revision)
	answer, err := n.Try(bubble.Request{
		Method: "PUT", Path: "/v1/config/default", Token: c.LastToken(), Body: bubble.JSON(n, apiv1.DefaultConfig{
			Type: "agent", Version: version, Config: []apiv1.ConfigItem{{Name: "collector", Version: version}},
		}),
	})
	if err != nil || answer.Status != http.StatusOK {
		c.Doubtful(revision)
	}
}

// The newest stream of an agent wins, on whichever node it is.
func TestBubbleOneAgentOneSession(t *testing.T) {
	formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
		old := c.Nodes[0].Open("a1")
		old.Beat()
		for i := range 9 {
			c.Pass(25 * time.Second) // three moves in a minute would be a cloned identity
			n := c.Nodes[(i+1)%3]
			next := n.Open("a1")
			next.Beat("i", fmt.Sprint(i))
			if code, text := old.End(2 * time.Second); code != codes.Aborted {
				t.Errorf("the old stream ended with %s %q", code, text)
			}
			c.Pass(2 * time.Second)
			sessions := 0
			for _, n := range c.Nodes {
				sessions += n.Node.Sessions()
			}
			if sessions != 1 || next.Ended() {
				t.Errorf("%d sessions; the newest has ended: %v", sessions, next.Ended())
			}
			for _, reader := range c.Nodes {
				var a apiv1.Agent
				reader.V1("GET", "/v1/agents/a1", nil, &a)
				if a.Session == nil || a.Node != n.Name {
					t.Errorf("%s shows the agent on %q with the session %+v, want %s", reader.Name, a.Node, a.Session, n.Name)
				}
			}
			old = next
		}
	})
}
