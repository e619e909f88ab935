// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"muster/internal/apiclient"
	"muster/internal/apiv1"
)

// taskCmd is `muster task`.
type taskCmd struct {
	clientFlags
	List   taskListCmd   `cmd:"" help:"List tasks, the newest first."`
	Show   taskShowCmd   `cmd:"" help:"Show one task."`
	Create taskCreateCmd `cmd:"" help:"Create a task, and run it unless --hold."`
	Run    taskRunCmd    `cmd:"" help:"Release a task's targets, or a part of them."`
	Cancel taskCancelCmd `cmd:"" help:"Send nothing more of a task."`
	Agents taskAgentsCmd `cmd:"" help:"List what became of a task, agent by agent."`
}

type taskListCmd struct {
	Limit int `help:"The most lines to print; 0 prints all." default:"100" placeholder:"N"`
}

// Run lists tasks.
func (c *taskListCmd) Run(a *app) error {
	tasks, err := list[apiv1.Task](a, "/v1/tasks", nil, c.Limit)
	if err != nil {
		return err
	}
	t := &table{head: []string{"ID", "NAME", "STATUS", "WHAT", "AGENTS", "OK", "FAILED", "UNKNOWN", "LEFT", "CREATED", "BY"}}
	for _, k := range tasks {
		n := k.Counts
		t.add(k.ID, dash(k.Name), k.Status, what(k.Command), strconv.Itoa(n.Total), strconv.Itoa(n.Succeeded),
			strconv.Itoa(n.Failed), strconv.Itoa(n.Unknown), strconv.Itoa(n.Waiting+n.Pending+n.Sent), a.age(k.CreatedAt), dash(k.Creator))
	}
	return a.show(tasks, t)
}

// what says in a few letters what a command does.
func what(c apiv1.Command) string {
	switch {
	case c.Task != nil:
		return fmt.Sprintf("%s:%d", c.Task.Name, c.Task.DataType)
	case len(c.Config) > 0:
		return fmt.Sprintf("config(%d)", len(c.Config))
	}
	return "-"
}

type taskShowCmd struct {
	ID string `arg:"" help:"The task's ID."`
}

// Run shows one task.
func (c *taskShowCmd) Run(a *app) error {
	var k apiv1.Task
	if err := a.call(http.MethodGet, apiclient.Path("v1", "tasks", c.ID), nil, &k); err != nil {
		return err
	}
	return a.show(k, a.taskTable(k))
}

func (a *app) taskTable(k apiv1.Task) *table {
	t := &table{}
	t.add("ID", k.ID)
	t.add("Name", dash(k.Name))
	t.add("Status", k.Status)
	t.add("What", what(k.Command))
	if k.Command.Task != nil {
		t.add("Data", dash(k.Command.Task.Data))
	}
	t.add("Delivery", k.Delivery)
	t.add("Created", a.age(k.CreatedAt)+" by "+dash(k.Creator))
	t.add("Deadline", a.until(k.Deadline))
	t.add("Ended", a.age(k.EndedAt))
	if k.Tag != "" {
		t.add("Tag", k.Tag)
	}
	n := k.Counts
	t.add("Agents", strconv.Itoa(n.Total))
	for _, part := range []struct {
		name string
		n    int
	}{
		{"waiting", n.Waiting},
		{"pending", n.Pending},
		{"sent", n.Sent},
		{"succeeded", n.Succeeded},
		{"failed", n.Failed},
		{"unknown", n.Unknown},
		{"expired", n.Expired},
		{"cancelled", n.Cancelled},
	} {
		if part.n > 0 {
			t.add("  "+part.name, strconv.Itoa(part.n))
		}
	}
	return t
}

type taskCreateCmd struct {
	Agent       []string      `help:"An agent's ID; repeatable." placeholder:"ID" xor:"targets"`
	AgentsFile  string        `help:"File with IDs, one a line; - reads standard input." placeholder:"FILE" xor:"targets"`
	Tag         string        `help:"Every agent that carries this tag." xor:"targets"`
	All         bool          `help:"Every agent." xor:"targets"`
	Name        string        `help:"A name for lists."`
	Plugin      string        `help:"Who does the work: a plugin, or elkeid-agent." placeholder:"NAME" xor:"what"`
	DataType    int32         `help:"The work's data type, like 1060 (restart the agent)." placeholder:"N"`
	Data        string        `help:"The work's data." placeholder:"TEXT" xor:"data"`
	DataFile    string        `help:"File with the work's data; - reads standard input." placeholder:"FILE" xor:"data"`
	ConfigFile  string        `help:"Set the agents' own config from this file (JSON or YAML: a list of items, or what default-config prints)." placeholder:"FILE" xor:"what"`
	Delivery    string        `help:"${enum}. once: never sent twice. retry: sent again until answered, so it may run twice." enum:"once,retry" default:"once"`
	Deadline    time.Duration `help:"From the first run to the end." default:"24h" placeholder:"DURATION"`
	Hold        bool          `help:"Do not run it yet."`
	KeepResults bool          `help:"Keep the text of good results too."`
}

// Run creates a task.
func (c *taskCreateCmd) Run(a *app) error {
	in := apiv1.NewTask{
		Name: c.Name, Tag: c.Tag, All: c.All, Delivery: c.Delivery, Hold: c.Hold,
		KeepResults: c.KeepResults, Seconds: int64(c.Deadline / time.Second),
	}
	var err error
	if in.Agents, err = a.agentIDs(c.Agent, c.AgentsFile); err != nil {
		return err
	}
	if len(in.Agents) == 0 && in.Tag == "" && !in.All {
		return usage("no agents: give --agent ID, --agents-file FILE, --tag TAG or --all")
	}
	if in.Command, err = c.command(a); err != nil {
		return err
	}
	var out apiv1.Task
	if err := a.call(http.MethodPost, "/v1/tasks", in, &out); err != nil {
		return err
	}
	if in.Command.Task != nil {
		c.warnUnreported(a, in)
	}
	next := "watch it: muster task show " + out.ID
	if c.Hold {
		next = "run it: muster task run " + out.ID
	}
	return a.done(out, "Task %s for %s; %s", out.ID, plural(out.Counts.Total, "agent"), next)
}

// Who is asked about before a warning: a few, because it is only a warning.
const (
	warnOneByOne  = 10
	warnPageLimit = 200
	agentProduct  = "elkeid-agent" // does work itself, without a plugin
)

// warnUnreported says on the error stream when none of the targets, as far as a
// few questions tell, reports the plugin: it may be misspelt. The task stands.
func (c *taskCreateCmd) warnUnreported(a *app, in apiv1.NewTask) {
	if c.Plugin == agentProduct {
		return
	}
	client, err := a.client()
	if err != nil {
		return
	}
	defer client.Close()
	var agents []apiv1.Agent
	if len(in.Agents) > 0 {
		for _, id := range in.Agents[:min(len(in.Agents), warnOneByOne)] {
			var g apiv1.Agent
			if client.Do(a.ctx, http.MethodGet, apiclient.Path("v1", "agents", id), nil, &g) == nil {
				agents = append(agents, g)
			}
		}
	} else {
		query := url.Values{}
		if in.Tag != "" {
			query.Set("tag", in.Tag)
		}
		agents, _ = apiclient.Collect[apiv1.Agent](a.ctx, client, "/v1/agents", query, warnPageLimit)
	}
	for _, g := range agents {
		if g.Product == c.Plugin || slices.ContainsFunc(g.Plugins, func(p apiv1.Plugin) bool { return p.Name == c.Plugin }) {
			return
		}
	}
	if len(agents) > 0 {
		_, _ = fmt.Fprintf(a.err, "muster: warning: of %s looked at, none reports the plugin %s: is it spelt so?\n", plural(len(agents), "agent"), oneLine(c.Plugin))
	}
}

func (c *taskCreateCmd) command(a *app) (apiv1.Command, error) {
	switch {
	case c.ConfigFile != "":
		config, err := a.readConfig(c.ConfigFile)
		return apiv1.Command{Config: config.Config}, err
	case c.Plugin == "" || c.DataType == 0:
		return apiv1.Command{}, usage("no work: give --plugin NAME and --data-type N, or --config-file FILE")
	}
	data := c.Data
	if c.DataFile != "" {
		text, err := a.readInput(c.DataFile)
		if err != nil {
			return apiv1.Command{}, err
		}
		data = string(text)
	}
	return apiv1.Command{Task: &apiv1.AgentTask{DataType: c.DataType, Name: c.Plugin, Data: data}}, nil
}

type taskRunCmd struct {
	ID          string  `arg:"" help:"The task's ID."`
	Percent     float64 `help:"How many of all targets to release, above 0 and up to 100." default:"100" placeholder:"N"`
	Concurrence int     `help:"The most sends at once, 1 to 999." default:"999" placeholder:"N"`
}

// Run releases targets.
func (c *taskRunCmd) Run(a *app) error {
	if !(c.Percent > 0 && c.Percent <= 100) {
		return usage("--percent %v is not above 0 and up to 100", c.Percent)
	}
	var out apiv1.Task
	in := apiv1.RunTask{Percent: c.Percent / 100, Concurrence: c.Concurrence}
	if err := a.call(http.MethodPost, apiclient.Path("v1", "tasks", c.ID, "run"), in, &out); err != nil {
		return err
	}
	return a.done(out, "Task %s is %s, %d of %s not released yet.", out.ID, out.Status, out.Counts.Waiting, plural(out.Counts.Total, "agent"))
}

type taskCancelCmd struct {
	ID string `arg:"" help:"The task's ID."`
}

// Run cancels a task.
func (c *taskCancelCmd) Run(a *app) error {
	var out apiv1.Task
	if err := a.call(http.MethodPost, apiclient.Path("v1", "tasks", c.ID, "cancel"), nil, &out); err != nil {
		return err
	}
	return a.done(out, "Task %s is %s; %s will not get it, %d had it already.", out.ID, out.Status,
		plural(out.Counts.Cancelled, "agent"), out.Counts.Total-out.Counts.Cancelled)
}

type taskAgentsCmd struct {
	listFlags
	ID string `arg:"" help:"The task's ID."`
}

// Run lists the parts of a task.
func (c *taskAgentsCmd) Run(a *app) error {
	parts, err := list[apiv1.TaskAgent](a, apiclient.Path("v1", "tasks", c.ID, "agents"), nil, c.Limit)
	if err != nil {
		return err
	}
	t := &table{head: []string{"AGENT", "STATE", "AT", "ANSWER"}}
	for _, p := range parts {
		at, answer := "-", "-"
		if p.Result != nil {
			at = a.age(p.Result.At)
			answer = dash(strings.TrimSpace(p.Result.Status + " " + p.Result.Message))
		}
		t.add(p.AgentID, p.State, at, answer)
	}
	return a.show(parts, t)
}
