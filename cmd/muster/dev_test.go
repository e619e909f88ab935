// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"muster/node"
)

// wantInOrder checks that a text holds all parts, one after the other.
func wantInOrder(t *testing.T, text string, parts ...string) {
	t.Helper()
	rest := text
	for _, part := range parts {
		_, after, found := strings.Cut(rest, part)
		if !found {
			t.Fatalf("%q is missing, or not in its place:\n%s", part, text)
		}
		rest = after
	}
	if strings.Contains(text, "...") || strings.Contains(text, "%!") {
		t.Errorf("something is left to fill in:\n%s", text)
	}
}

// Whoever tries Muster pastes these lines: the token must exist before it is
// used, and nothing may be left to fill in.
func TestWelcome(t *testing.T) {
	lone := devView{
		agents: 20, names: []string{"dev-1"}, urls: []string{"http://127.0.0.1:6701"}, leader: "dev-1",
		password: "/tmp/d/admin-password", program: "bin/muster", token: "/tmp/d/token",
	}
	wantInOrder(t, lone.text(),
		"one node, an embedded Kafka, 20 simulated agents", "URL        http://127.0.0.1:6701\n", "user       admin\n", "password   in /tmp/d/admin-password\n",
		"  curl --location --request POST http://127.0.0.1:6701/api/v1/user/login ",
		"  bin/muster token new --user admin --password-file /tmp/d/admin-password --out /tmp/d/token\n",
		`  curl --location --request GET 'http://127.0.0.1:6701/api/v1/agent/getStatus?page_size=3' -H "token: $(cat /tmp/d/token)"`+"\n",
		"  bin/muster agent list --token-file /tmp/d/token\n\nCtrl-C ends it.\n",
	)
	three := devView{
		agents: 30, names: []string{"dev-1", "dev-2", "dev-3"},
		urls: []string{"http://127.0.0.1:6701", "http://127.0.0.1:6711", "http://127.0.0.1:6721"}, leader: "dev-2",
		password: "/tmp/d/dev-2/admin-password", program: "bin/muster", token: "/tmp/d/token",
	}
	wantInOrder(t, three.text(),
		"a cluster of 3 nodes, an embedded Kafka in dev-1, 30 simulated agents",
		"  dev-1      http://127.0.0.1:6701\n  dev-2      http://127.0.0.1:6711   leads now\n  dev-3      http://127.0.0.1:6721\n",
		"password   in /tmp/d/dev-2/admin-password\n",
		"  bin/muster token new --user admin --password-file /tmp/d/dev-2/admin-password --out /tmp/d/token\n",
		"  bin/muster agent list --token-file /tmp/d/token\n",
		"  bin/muster node list --token-file /tmp/d/token\n",
		"  bin/muster agent list --addr http://127.0.0.1:6721 --token-file /tmp/d/token\n\nCtrl-C ends it.\n",
	)
}

func TestDevLine(t *testing.T) {
	for want, s := range map[string]devTotals{
		"agents 20  records in 1,200 (+200/s)  delivered to Kafka 1,100  pending 100\n": {
			sessions: []int{20}, received: 1200, delivered: 1100, pending: 100, leader: "dev-1",
		},
		"agents 30 (12+8+10)  records in 1,300 (+300/s)  delivered to Kafka 1,300  pending 0  leader dev-2\n": {
			sessions: []int{12, 8, 10}, received: 1300, delivered: 1300, leader: "dev-2",
		},
		"agents 0 (0+0)  records in 1,000 (+0/s)  delivered to Kafka 0  pending 0  no leader\n": {sessions: []int{0, 0}, received: 1000},
	} {
		if got := s.line(1000); got != want {
			t.Errorf("got  %swant %s", got, want)
		}
	}
}

func TestDevNeedsPorts(t *testing.T) {
	taken := errors.New("--http-addr 127.0.0.1:6701: address already in use")
	for nodes, ports := range map[int]string{
		1: "6701 6751 6752 6760 7946 8088",
		2: "6701 6711 6751 6752 6760 6761 6762 6770 7946 7956 8088 8098",
	} {
		c := devCmd{Nodes: nodes}
		if err := c.needs(taken); !errors.Is(err, taken) || !strings.Contains(err.Error(), "muster dev needs ports "+ports+" free") {
			t.Errorf("%d nodes: %v", nodes, err)
		}
	}
	c := devCmd{Nodes: 1}
	other := errors.New("disk full")
	if err := c.needs(other); !errors.Is(err, other) || err.Error() != "disk full" {
		t.Errorf("%v", err)
	}
	if err := c.needs(nil); err != nil {
		t.Errorf("%v", err)
	}
}

// Nodes of a trial do not get in each other's way, agree on everything that the
// nodes of a cluster must agree on, and show nothing to other machines.
func TestDevConfigs(t *testing.T) {
	configs := devConfigs("/tmp/d", devMaxNodes)
	taken := map[string]string{}
	for i, c := range configs {
		name := fmt.Sprintf("dev-%d", i+1)
		if c.NodeID != name || c.DataDir != "/tmp/d/"+name || c.Bind != "127.0.0.1" || c.Advertise != "127.0.0.1" {
			t.Errorf("node %d: %q in %q on %q, advertised as %q", i, c.NodeID, c.DataDir, c.Bind, c.Advertise)
		}
		for _, addr := range slices.Concat(c.Listen.SD, c.Listen.HTTP, []string{c.Listen.HTTPS, c.Listen.Node, c.Listen.Gossip, c.Agents.Addr}) {
			if other := taken[addr]; other != "" || !strings.HasPrefix(addr, ":") {
				t.Errorf("%s listens on %s, as %q does", name, addr, other)
			}
			taken[addr] = name
		}
		if !slices.Contains(c.Cluster.Join, "127.0.0.1"+c.Listen.Gossip) || c.Cluster.BootstrapExpect != devMaxNodes {
			t.Errorf("%s: %+v", name, c.Cluster)
		}
		if !slices.Equal(c.Kafka.Brokers, []string{"embedded@dev-1"}) || c.Cluster.SecretFile != "/tmp/d/cluster-secret" {
			t.Errorf("%s: brokers %q, secret in %q", name, c.Kafka.Brokers, c.Cluster.SecretFile)
		}
	}
	lone := devConfigs("/tmp/d", 1)[0]
	if lone.DataDir != "/tmp/d" || len(lone.Cluster.Join) != 0 || lone.Cluster.BootstrapExpect != -1 || len(lone.Kafka.Brokers) != 0 {
		t.Errorf("alone: %+v", lone)
	}
	if want := (node.ListenConfig{SD: []string{":8088"}, HTTP: []string{":6701"}, HTTPS: ":6752", Node: ":6760", Gossip: ":7946"}); !slices.Equal(lone.Listen.SD, want.SD) ||
		!slices.Equal(lone.Listen.HTTP, want.HTTP) || lone.Listen.HTTPS != want.HTTPS || lone.Agents.Addr != ":6751" {
		t.Errorf("the README's ports: %+v", lone.Listen)
	}
}

// A trial does not start beside the data of an earlier one of another size.
func TestDevDataDir(t *testing.T) {
	lone, three, empty := t.TempDir(), t.TempDir(), t.TempDir()
	for _, dir := range []string{filepath.Join(lone, "state"), filepath.Join(three, "dev-1"), filepath.Join(three, "dev-2"), filepath.Join(three, "dev-3")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		dir     string
		nodes   int
		refused string
	}{
		{empty, 1, ""},
		{empty, 3, ""},
		{filepath.Join(empty, "new"), 3, ""},
		{lone, 1, ""},
		{lone, 3, "holds the data of one node"},
		{three, 3, ""},
		{three, 5, ""},
		{three, 2, "holds the data of a cluster: give --nodes 3"},
		{three, 1, "holds the data of a cluster: give --nodes 3"},
	} {
		c := devCmd{Nodes: tt.nodes, DataDir: tt.dir}
		dir, _, err := c.directory()
		if _, wrong := errors.AsType[usageError](err); wrong != (tt.refused != "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
			t.Errorf("%d nodes: %v, want %q", tt.nodes, err, tt.refused)
		}
		if err == nil && dir != tt.dir {
			t.Errorf("%d nodes: in %s", tt.nodes, dir)
		}
	}
	for _, nodes := range []int{0, -1, devMaxNodes + 1} {
		if _, wrong := errors.AsType[usageError]((&devCmd{Nodes: nodes}).Run(&app{})); !wrong {
			t.Errorf("%d nodes: not refused", nodes)
		}
	}
}
