// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"muster/internal/apiv1"
	"muster/internal/simagent"
	"muster/test/bubble"
)

// nodeOn is how one node shows another.
func nodeOn(at, of *bubble.Node) (n apiv1.Node) {
	at.T.Helper()
	at.V1("GET", "/v1/nodes/"+of.Name, nil, &n)
	return n
}

// drained waits until every node that runs calls one safe to stop.
func drained(c *bubble.Cluster, of *bubble.Node, agents int) {
	c.T.Helper()
	c.Eventually(time.Minute, of.Name+" is drained", func() error {
		others := 0
		for _, at := range c.Running() {
			if n := nodeOn(at, of); !n.SafeToStop || !n.Draining || n.State != "draining" {
				return fmt.Errorf("%s says of it: %s, %d agents, %q", at.Name, n.State, n.Load.Sessions, n.WhyNot)
			}
			if at != of {
				others += at.Node.Sessions()
			}
		}
		if others != agents {
			return fmt.Errorf("the others have %d of %d agents", others, agents)
		}
		return nil
	})
}

// A node that is drained through another one gives its agents away and stays
// empty, over its own restart and that of the node that was told; what would leave
// the agents nowhere to go is refused.
func TestBubbleDrain(t *testing.T) {
	formed(t, 3, func(t *testing.T, c *bubble.Cluster) {
		const agents = 60
		f := c.StartFleet(agents, func(o *simagent.Options) { o.Load.Rate = 0.2 }) // who says nothing counts only later
		c.Eventually(time.Minute, "all agents are connected", func() error { return fleetConnected(c, f, agents) })
		one, two, three := c.Nodes[0], c.Nodes[1], c.Nodes[2]

		var n apiv1.Node
		one.V1("POST", "/v1/nodes/"+two.Name+"/drain", nil, &n)
		if !n.Draining || n.SafeToStop {
			t.Errorf("right after the mark: draining %t, safe to stop %t", n.Draining, n.SafeToStop)
		}
		drained(c, two, agents)

		for _, again := range []*bubble.Node{two, one} {
			again.Stop()
			again.Start()
			c.AllReady(30*time.Second, c.Others(two)...)
			c.Pass(20 * time.Second)
			drained(c, two, agents)
		}

		one.V1("POST", "/v1/nodes/"+three.Name+"/drain", nil, nil)
		drained(c, three, agents)
		a := two.Do(bubble.Request{Method: "POST", Path: "/v1/nodes/" + one.Name + "/drain", Token: two.Token()})
		if a.Status != http.StatusConflict || !strings.Contains(a.Body, two.Name+" is draining, "+three.Name+" is draining") {
			t.Errorf("drain the last one: %d %s", a.Status, a.Body)
		}
		three.Kill()
		c.Eventually(time.Minute, "a voter is dead", func() error {
			if n := nodeOn(one, two); n.SafeToStop || !strings.Contains(fmt.Sprint(n.WhyNot), "without it 1 of 3 voters are alive") {
				return fmt.Errorf("%s is safe to stop: %t, %q", two.Name, n.SafeToStop, n.WhyNot)
			}
			return nil
		})

		one.V1("POST", "/v1/nodes/"+three.Name+"/undrain", nil, nil) // while it is dead
		two.V1("POST", "/v1/nodes/"+two.Name+"/undrain", nil, nil)
		three.Start()
		c.AllReady(30*time.Second, c.Nodes...)
		c.Pass(5 * time.Second)
		c.Eventually(time.Minute, "all see all", func() error {
			for _, at := range c.Nodes {
				for _, of := range c.Nodes {
					if n := nodeOn(at, of); n.State != "ready" {
						return fmt.Errorf("%s says that %s is %s", at.Name, of.Name, n.State)
					}
				}
			}
			return nil
		})
		c.Eventually(5*time.Minute, "the agents are even again", func() error {
			if err := fleetConnected(c, f, agents); err != nil {
				return err
			}
			for _, n := range c.Nodes {
				if held := n.Node.Sessions(); held < agents/6 {
					return fmt.Errorf("%s has %d agents", n.Name, held)
				}
			}
			return nil
		})
	})
}
