// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"muster/fleet"
	"muster/test/bubble"
)

const otherService = `{"name":"rule_engine","ip":"192.0.2.7","port":9000,"weight":3,"extra":{"zone":"a"}}`

// tell sends a signed request of a service to its node.
func tell(n *bubble.Node, key *bubble.Key, path string) {
	n.T.Helper()
	a := n.Do(bubble.Request{Method: "POST", Path: path, Body: otherService, Sign: key})
	if a.Status != http.StatusOK {
		n.T.Fatalf("%s on %s: %d %s", path, n.Name, a.Status, a.Body)
	}
}

// services asks a node for the other service.
func services(n *bubble.Node) (list []fleet.Service) {
	n.T.Helper()
	a := n.Do(bubble.Request{Method: "GET", Path: "/registry/detail?name=rule_engine"})
	var answer struct {
		Msg  string
		Data []fleet.Service
	}
	if err := json.Unmarshal([]byte(a.Body), &answer); err != nil || a.Status != http.StatusOK || answer.Msg != "ok" {
		n.T.Fatalf("services of %s: %d %v %s", n.Name, a.Status, err, a.Body)
	}
	return answer.Data
}

// allList waits until each of these nodes lists the service with a colour.
func allList(c *bubble.Cluster, within time.Duration, colour fleet.ServiceStatus, nodes ...*bubble.Node) {
	c.T.Helper()
	c.Eventually(within, fmt.Sprintf("the service has colour %d", colour), func() error {
		for _, n := range nodes {
			if list := services(n); len(list) != 1 || list[0].Status != colour || list[0].Weight != 3 || list[0].Extra["zone"] != "a" {
				return fmt.Errorf("%s lists %+v", n.Name, list)
			}
		}
		return nil
	})
}

// A service that registers with one node is seen with the same colour by all,
// also by those that were restarted since, until it is evicted.
func TestBubbleOtherServices(t *testing.T) {
	bubble.RunCluster(t, 3, func(t *testing.T, c *bubble.Cluster) {
		c.Form(15 * time.Second)
		one := c.Nodes[0]
		key := one.NewKey(string(fleet.KeyScopeSD))
		if a := one.Do(bubble.Request{Method: "POST", Path: "/registry/register", Body: otherService}); a.Status != http.StatusForbidden {
			t.Errorf("without a signature: %d %s", a.Status, a.Body)
		}
		tell(one, key, "/registry/register")
		registered := time.Now()
		allList(c, 2*time.Second, fleet.ServiceGreen, c.Nodes...)

		for age, colour := range []fleet.ServiceStatus{fleet.ServiceBlue, fleet.ServiceYellow, fleet.ServiceOrange, fleet.ServiceRed} {
			c.Pass(time.Until(registered.Add(time.Duration(47+15*age) * time.Second)))
			allList(c, 0, colour, c.Nodes...)
		}
		tell(c.Nodes[2], key, "/registry/register")
		allList(c, 2*time.Second, fleet.ServiceGreen, c.Nodes...)

		for i, n := range c.Nodes { // while the service renews through the next one
			n.Stop()
			c.Pass(20 * time.Second)
			tell(c.Nodes[(i+1)%3], key, "/registry/register")
			c.Pass(10 * time.Second)
			c.StartAll(15*time.Second, n)
			allList(c, 0, fleet.ServiceGreen, c.Nodes...)
		}

		tell(c.Nodes[1], key, "/registry/evict")
		c.Eventually(2*time.Second, "the service is forgotten", func() error {
			for _, n := range c.Nodes {
				if list := services(n); len(list) != 0 {
					return fmt.Errorf("%s lists %+v", n.Name, list)
				}
			}
			return nil
		})
		c.Pass(time.Minute)
		for _, n := range c.Nodes {
			if list := services(n); len(list) != 0 {
				t.Errorf("a minute later %s lists %+v", n.Name, list)
			}
		}
	})
}
