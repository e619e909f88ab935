// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/fleet"
)

func TestAgentsAndTags(t *testing.T) {
	n, ctx := lone(t, t.TempDir()), t.Context()
	ids := agents(t, n.Store, 1200) // more than fit into one entry
	if n.AgentCount() != 1200 {
		t.Fatalf("AgentCount = %d", n.AgentCount())
	}
	var paged []string
	for after := ""; ; {
		page, err := n.Agents(after, 700)
		must(t, err)
		for _, a := range page {
			paged = append(paged, a.AgentID)
		}
		if len(page) < 700 {
			break
		}
		after = page[len(page)-1].AgentID
	}
	if d := cmp.Diff(ids, paged); d != "" {
		t.Fatalf("paging: %s", d)
	}

	changed, err := n.TagAgents(ctx, append([]string{"stranger"}, ids...), []string{"web", "db"}, nil)
	if err != nil || changed != 1200 {
		t.Fatalf("TagAgents = %d, %v", changed, err)
	}
	changed, err = n.TagAgents(ctx, ids[:3], []string{"web"}, []string{"db"})
	if err != nil || changed != 3 {
		t.Fatalf("TagAgents = %d, %v", changed, err)
	}
	tags, _ := n.Tags()
	if d := cmp.Diff([]fleet.TagCount{{Tag: "db", Agents: 1197}, {Tag: "web", Agents: 1200}}, tags); d != "" {
		t.Fatal(d)
	}
	if web, err := n.AgentsByTag("web"); err != nil || !cmp.Equal(web, ids) {
		t.Fatalf("AgentsByTag = %d agents, %v", len(web), err)
	}
	if db, _ := n.AgentsByTag("d"); len(db) != 0 {
		t.Fatalf("a tag's beginning matches: %v", db)
	}
	_, err = n.TagAgents(ctx, ids, []string{"a,b"}, nil)
	wantError(t, err, fleet.ErrInvalid)
	_, err = n.Agent("stranger")
	wantError(t, err, fleet.ErrNotFound)

	// A report keeps number, first sight and tags; an older one is no news.
	was, err := n.Agent(ids[0])
	must(t, err)
	must(t, n.ReportAgents(ctx, []fleet.AgentReport{{Identity: fleet.Identity{AgentID: ids[0], Hostname: "new"}, Node: "n2", SeenAt: 200}}))
	must(t, n.ReportAgents(ctx, []fleet.AgentReport{{Identity: fleet.Identity{AgentID: ids[0], Hostname: "old"}, Node: "n1", SeenAt: 150}}))
	is, err := n.Agent(ids[0])
	must(t, err)
	if is.Hostname != "new" || is.Number != was.Number || is.FirstSeen != was.FirstSeen || !cmp.Equal(is.Tags, []string{"web"}) {
		t.Fatalf("was %+v, is %+v", was, is)
	}
}

func TestDesiredConfig(t *testing.T) {
	n, ctx := lone(t, t.TempDir()), t.Context()
	ids := agents(t, n.Store, 5)
	if d, err := n.Desired(ids[0]); err != nil || len(d.Config) != 0 || d.Revision != 0 {
		t.Fatalf("Desired = %+v, %v", d, err)
	}
	_, err := n.SetDefaultConfig(ctx, fleet.DefaultConfig{})
	wantError(t, err, fleet.ErrInvalid)
	conf, err := n.SetDefaultConfig(ctx, fleet.DefaultConfig{Type: "t", Items: []fleet.ConfigItem{{Name: "driver"}}})
	must(t, err)
	if got, _ := n.DefaultConfig(); conf.Revision == 0 || !cmp.Equal(got, conf) {
		t.Fatalf("DefaultConfig = %+v, set %+v", got, conf)
	}
	if d, _ := n.Desired("stranger"); d.Revision != conf.Revision || d.Own {
		t.Fatalf("an unknown agent's Desired = %+v", d)
	}

	task, err := n.CreateTask(ctx, fleet.NewTask{
		ID: "c1", Kind: fleet.TaskKindConfig, Delivery: fleet.DeliveryOnce, Run: true,
		Command: fleet.AgentCommand{Config: []fleet.ConfigItem{{Name: "scanner", Version: "2"}}},
	}, ids[:2])
	must(t, err)
	if task.Counts.Pending != 2 || task.Status != fleet.TaskRunning {
		t.Fatalf("task %+v", task)
	}
	d, _ := n.Desired(ids[1])
	if !d.Own || d.Revision <= conf.Revision || d.Config[0].Name != "scanner" {
		t.Fatalf("Desired = %+v", d)
	}
	todo := n.PendingDispatch(ids[1])
	if len(todo) != 1 || todo[0].Revision != d.Revision || todo[0].Kind != fleet.TaskKindConfig {
		t.Fatalf("PendingDispatch = %+v", todo)
	}
	must(t, n.SetResults(ctx, []fleet.TaskResult{{Token: fleet.TaskToken("c1", todo[0].Number), AgentID: ids[1], State: fleet.SubTaskSucceeded}}))
	if got, _ := n.Task("c1"); got.Counts.Succeeded != 1 || got.Counts.Pending != 1 {
		t.Fatalf("task %+v", got)
	}
	// The default config has nothing to say to an agent with its own.
	_, err = n.SetDefaultConfig(ctx, fleet.DefaultConfig{Items: []fleet.ConfigItem{{Name: "other"}}})
	must(t, err)
	if again, _ := n.Desired(ids[1]); !cmp.Equal(again, d) {
		t.Fatalf("Desired = %+v, was %+v", again, d)
	}
}

func TestLargeConfigTask(t *testing.T) {
	n, ctx := lone(t, t.TempDir()), t.Context()
	ids := agents(t, n.Store, 2300)
	task, err := n.CreateTask(ctx, fleet.NewTask{
		ID: "c1", Kind: fleet.TaskKindConfig, Delivery: fleet.DeliveryOnce, Run: true,
		Command: fleet.AgentCommand{Config: []fleet.ConfigItem{{Name: "scanner"}}},
	}, ids)
	must(t, err)
	if task.Counts != (fleet.TaskCounts{Total: 2300, Pending: 2300}) {
		t.Fatalf("counts %+v", task.Counts)
	}
	for _, id := range ids {
		if d, err := n.Desired(id); err != nil || !d.Own || d.Config[0].Name != "scanner" {
			t.Fatalf("Desired(%s) = %+v, %v", id, d, err)
		}
	}
	all, err := n.SubTasks("c1", 0, 5000)
	must(t, err)
	some, err := n.SubTasks("c1", 2000, 7)
	must(t, err)
	if len(all) != 2300 || len(some) != 7 || some[0].Number != 2001 || all[2000].AgentID != fmt.Sprintf("a%04d", 2001) {
		t.Fatalf("%d sub-tasks, then %+v", len(all), some)
	}
}
