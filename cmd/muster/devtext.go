// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// devView is what the welcome of a trial speaks of.
type devView struct {
	agents                   int
	names, urls              []string // of the nodes
	leader                   string
	password, program, token string
}

// welcome says where everything is and what to type.
func (t *trial) welcome(agents int) string {
	v := devView{
		agents: agents, leader: t.nodes[0].Leader(), password: t.nodes[0].PasswordFile(),
		program: os.Args[0], token: filepath.Join(t.dir, "token"),
	}
	for i, n := range t.nodes {
		v.names = append(v.names, t.configs[i].NodeID)
		v.urls = append(v.urls, "http://"+n.Addrs().HTTP[0])
		if _, err := os.Stat(n.PasswordFile()); err == nil { // of the one that founded the cluster
			v.password = n.PasswordFile()
		}
	}
	return v.text()
}

// text holds nothing that must be filled in: each line works as it is typed, in
// this order.
func (v *devView) text() string {
	last := len(v.urls) - 1
	var b strings.Builder
	if last == 0 {
		fmt.Fprintf(&b, "\nMuster runs on this machine: one node, an embedded Kafka, %d simulated agents.\n\n  URL        %s\n", v.agents, v.urls[0])
	} else {
		fmt.Fprintf(&b, "\nMuster runs on this machine: a cluster of %d nodes, an embedded Kafka in %s, %d simulated agents.\n\n",
			len(v.urls), v.names[0], v.agents)
		for i, url := range v.urls {
			role := ""
			if v.names[i] == v.leader {
				role = "   leads now"
			}
			fmt.Fprintf(&b, "  %-10s %s%s\n", v.names[i], url, role)
		}
	}
	fmt.Fprintf(&b, `  user       admin
  password   in %[2]s

Log in:
  curl --location --request POST %[1]s/api/v1/user/login --data-raw '{"username":"admin","password":"'"$(cat %[2]s)"'"}'
or with this program, which keeps the token in a file:
  %[3]s token new --user admin --password-file %[2]s --out %[4]s
then ask with that token:
  curl --location --request GET '%[1]s/api/v1/agent/getStatus?page_size=3' -H "token: $(cat %[4]s)"
  %[3]s agent list --token-file %[4]s
`, v.urls[0], v.password, v.program, v.token)
	if last > 0 {
		fmt.Fprintf(&b, `Any node answers for all, and takes any change:
  %[1]s node list --token-file %[3]s
  %[1]s agent list --addr %[2]s --token-file %[3]s
`, v.program, v.urls[last], v.token)
	}
	b.WriteString("\nCtrl-C ends it.\n\n")
	return b.String()
}

// devTotals are those of all nodes of a trial.
type devTotals struct {
	sessions                     []int // by node
	received, delivered, pending uint64
	leader                       string
}

func (t *trial) totals() devTotals {
	s := devTotals{leader: t.nodes[0].Leader()}
	for _, n := range t.nodes {
		ledger := n.Ledger()
		s.sessions = append(s.sessions, n.Sessions())
		s.received += ledger.Received
		s.delivered += ledger.Delivered
		s.pending += ledger.Pending
	}
	return s
}

// line is one second's; before is what had been received a second ago.
func (s *devTotals) line(before uint64) string {
	agents, each := 0, make([]string, len(s.sessions))
	for i, n := range s.sessions {
		agents += n
		each[i] = strconv.Itoa(n)
	}
	line := fmt.Sprintf("agents %d", agents)
	if len(each) > 1 {
		line += " (" + strings.Join(each, "+") + ")"
	}
	line += fmt.Sprintf("  records in %s (+%s/s)  delivered to Kafka %s  pending %s",
		count(s.received), count(s.received-before), count(s.delivered), count(s.pending))
	switch {
	case len(each) == 1:
	case s.leader == "":
		line += "  no leader"
	default:
		line += "  leader " + s.leader
	}
	return line + "\n"
}

// live prints one line a second until a signal comes or a part fails.
func (a *app) live(t *trial) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var last uint64
	for {
		select {
		case <-a.ctx.Done():
			return nil
		case err := <-t.parts.Failed():
			return err
		case <-tick.C:
		}
		now := t.totals()
		a.printf("%s", now.line(last))
		last = now.received
	}
}
