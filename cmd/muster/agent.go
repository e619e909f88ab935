// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"muster/internal/apiclient"
	"muster/internal/apiv1"
)

// agentCmd is `muster agent`.
type agentCmd struct {
	clientFlags
	List          agentListCmd          `cmd:"" help:"List agents."`
	Show          agentShowCmd          `cmd:"" help:"Show one agent."`
	Reset         agentResetCmd         `cmd:"" help:"Close agents' streams on the node that is asked; they reconnect."`
	DefaultConfig agentDefaultConfigCmd `cmd:"" help:"The config of agents that have none of their own."`
}

type agentListCmd struct {
	listFlags
	State    string `help:"Only agents in this state: ${enum}." enum:"running,abnormal,offline," default:"" placeholder:"STATE"`
	Tag      string `help:"Only agents that carry this tag."`
	Hostname string `help:"Only agents whose host name begins so." placeholder:"PREFIX"`
	Q        string `help:"Only agents whose ID, host name or an address contains this." name:"q" placeholder:"TEXT"`
}

func (c *agentListCmd) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{"state": c.State, "tag": c.Tag, "hostname": c.Hostname, "q": c.Q} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q
}

// Run lists agents.
func (c *agentListCmd) Run(a *app) error {
	agents, err := list[apiv1.Agent](a, "/v1/agents", c.query(), c.Limit)
	if err != nil {
		return err
	}
	t := &table{head: []string{"ID", "HOSTNAME", "STATE", "LAST SEEN", "NODE", "VERSION", "ADDRESS", "TAGS"}}
	for _, g := range agents {
		t.add(g.ID, dash(g.Hostname), g.State, a.age(g.LastSeen), dash(g.Node), dash(g.Version), few(g.IntranetIPv4), few(g.Tags))
	}
	return a.show(agents, t)
}

type agentShowCmd struct {
	ID string `arg:"" help:"The agent's ID."`
}

// Run shows one agent.
func (c *agentShowCmd) Run(a *app) error {
	var g apiv1.Agent
	if err := a.call(http.MethodGet, apiclient.Path("v1", "agents", c.ID), nil, &g); err != nil {
		return err
	}
	t := &table{}
	t.add("ID", g.ID)
	t.add("Hostname", dash(g.Hostname))
	t.add("State", g.State+", last seen "+a.age(g.LastSeen)+", first "+a.age(g.FirstSeen))
	t.add("Node", dash(g.Node))
	stream := "none"
	if s := g.Session; s == nil && g.State != "offline" {
		stream = "not on the node that was asked"
	} else if s != nil {
		stream = fmt.Sprintf("from %s, connected %s, %s records", s.RemoteAddr, a.age(s.ConnectedAt), count(s.Records))
	}
	t.add("Stream", stream)
	t.add("Version", dash(strings.TrimSpace(g.Product+" "+g.Version)))
	t.add("Addresses", dash(strings.Join(slices.Concat(g.IntranetIPv4, g.ExtranetIPv4, g.IntranetIPv6, g.ExtranetIPv6), ", ")))
	t.add("Tags", dash(strings.Join(g.Tags, ", ")))
	t.add("Config", configLine(g))
	for i, p := range g.Plugins {
		t.add(first(i, "Plugins"), strings.TrimSpace(p.Name+" "+p.Version)+", seen "+a.age(p.LastSeen))
	}
	for i, name := range slices.Sorted(maps.Keys(g.Facts)) {
		t.add(first(i, "Facts"), name+": "+g.Facts[name])
	}
	return a.show(g, t)
}

func configLine(g apiv1.Agent) string {
	d := g.DesiredConfig
	if d.Revision == 0 {
		return "none: nothing is sent"
	}
	whose := "default"
	if d.Own {
		whose = "its own"
	}
	line := fmt.Sprintf("%s, %s, revision %d", whose, plural(d.Items, "item"), d.Revision)
	if g.Session != nil && g.ConfigRevision != d.Revision {
		line += fmt.Sprintf(" (its stream has %d)", g.ConfigRevision)
	}
	return line
}

type agentResetCmd struct {
	IDs []string `arg:"" name:"id" help:"The agents' IDs."`
}

// Run closes streams.
func (c *agentResetCmd) Run(a *app) error {
	for _, id := range c.IDs {
		if err := a.call(http.MethodPost, apiclient.Path("v1", "agents", id, "reset"), nil, nil); err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
	}
	return a.done(struct {
		Reset []string `json:"reset"`
	}{c.IDs}, "Closed %s.", plural(len(c.IDs), "stream"))
}

type agentDefaultConfigCmd struct {
	Get agentConfigGetCmd `cmd:"" help:"Print the default config."`
	Set agentConfigSetCmd `cmd:"" help:"Replace the default config; agents get it at once."`
}

type agentConfigGetCmd struct{}

// Run prints the default config.
func (agentConfigGetCmd) Run(a *app) error {
	var d apiv1.DefaultConfig
	if err := a.call(http.MethodGet, "/v1/config/default", nil, &d); err != nil {
		return err
	}
	t := &table{head: []string{"NAME", "TYPE", "VERSION", "URLS", "SHA256"}}
	for _, it := range d.Config {
		t.add(it.Name, dash(it.Type), dash(it.Version), strconv.Itoa(len(it.DownloadURL)), dash(it.SHA256))
	}
	return a.show(d, t)
}

type agentConfigSetCmd struct {
	File string `help:"JSON or YAML: a list of items, or what 'default-config get -o json' prints; - reads standard input." required:"" placeholder:"FILE"`
}

// Help shows what a file holds; kong calls it.
func (agentConfigSetCmd) Help() string {
	return `Agents that have no config of their own get this list of items instead of the one before. A file in YAML:

    config:
      - name: driver
        type: tar.gz
        version: "1.7"
        sha256: 8f43…
        signature: 51ce…
        download_url: [https://mirror.example/driver-1.7.tar.gz]`
}

// Run replaces the default config.
func (c *agentConfigSetCmd) Run(a *app) error {
	in, err := a.readConfig(c.File)
	if err != nil {
		return err
	}
	var out apiv1.DefaultConfig
	if err := a.call(http.MethodPut, "/v1/config/default", in, &out); err != nil {
		return err
	}
	return a.done(out, "The default config has %s now, revision %d.", plural(len(out.Config), "item"), out.Revision)
}
