// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/fleet"
	"muster/peerrpc"
)

// Only live members of this node's cluster are asked, and never itself.
func TestOtherNodes(t *testing.T) {
	member := func(name, cluster string, alive bool) fleet.Member {
		return fleet.Member{NodeID: name, ServerID: name + "~0a1b2c3d", ClusterID: cluster, Alive: alive}
	}
	members := []fleet.Member{
		member("a", "c1", true), member("b", "c1", true), member("c", "c1", false), member("d", "", true),
		member("e", "c2", true), member("f", "c1", true),
	}
	members = append(members, fleet.Member{NodeID: "g", ClusterID: "c1", Alive: true})
	cluster := "c1"
	o := others{
		self: "a~0a1b2c3d", cluster: func() string { return cluster }, members: func() []fleet.Member { return members },
		client: func(string) *peerrpc.Client { return nil },
		servers: func() ([]fleet.Server, error) {
			return []fleet.Server{{ID: "a~0a1b2c3d", Name: "a"}, {ID: "b~0a1b2c3d", Name: "b"}, {ID: "c~0a1b2c3d", Name: "c"}}, nil
		},
	}
	var names []string
	for _, p := range o.Peers() {
		if p.Calls == nil {
			names = append(names, "silent "+p.Name)
			continue
		}
		names = append(names, p.Name)
	}
	if diff := cmp.Diff([]string{"b", "f", "silent c"}, names); diff != "" {
		t.Errorf("peers (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"b~0a1b2c3d", "f~0a1b2c3d"}, o.Nodes()); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	o.servers = func() ([]fleet.Server, error) { return nil, fleet.ErrUnavailable }
	if cluster = ""; len(o.Peers()) != 0 || len(o.Nodes()) != 0 {
		t.Error("a node without a cluster asks others")
	}
}
