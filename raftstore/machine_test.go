// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"muster/fleet"
	"muster/raftstore"
)

// machine is a store whose log the test writes itself.
func machine(t *testing.T) *raftstore.Store {
	t.Helper()
	s, err := raftstore.New(options(t.TempDir()))
	must(t, err)
	t.Cleanup(func() {
		checkState(t, s)
		must(t, s.Close())
	})
	return s
}

// step is one entry of a random history.
type step struct {
	at      int64
	request string
	cmd     raftstore.Command
}

func pick[T any](rt *rapid.T, label string, from ...T) T {
	return rapid.SampledFrom(from).Draw(rt, label)
}

func name(rt *rapid.T, prefix string, n int) string {
	return fmt.Sprintf("%s%d", prefix, rapid.IntRange(1, n).Draw(rt, prefix))
}

func names(rt *rapid.T, prefix string, n, most int) []string {
	return rapid.SliceOfNDistinct(rapid.Custom(func(rt *rapid.T) string { return name(rt, prefix, n) }), 0, most, rapid.ID[string]).Draw(rt, prefix+"s")
}

func history(rt *rapid.T) []step {
	n := rapid.IntRange(2, 50).Draw(rt, "steps")
	at := int64(1_000_000)
	steps := make([]step, n)
	for i := range steps {
		if i < 2 { // without agents and users there is little to do
			steps[i] = step{at: at, cmd: []raftstore.Command{
				&raftstore.ReportAgentsCmd{Agents: reports("a3", "a1", "a2", "a5", "a4")},
				&raftstore.CreateUserCmd{User: fleet.User{Name: "u1", PasswordHash: "h"}},
			}[i]}
			continue
		}
		at += pick(rt, "later", 0, 0, 1, 5, 60, -10, 3600, int64(30*24*3600))
		steps[i] = step{at: at, cmd: anyCommand(rt)}
		if rapid.Bool().Draw(rt, "with request") {
			steps[i].request = name(rt, "request", 1000)
		}
	}
	return steps
}

func reports(ids ...string) (found []fleet.AgentReport) {
	for _, id := range ids {
		found = append(found, fleet.AgentReport{Identity: fleet.Identity{AgentID: id}, SeenAt: 1})
	}
	return found
}

func anyCommand(rt *rapid.T) raftstore.Command {
	switch rapid.IntRange(0, 15).Draw(rt, "kind") {
	case 0:
		return &raftstore.CreateUserCmd{User: fleet.User{Name: name(rt, "u", 4), Level: pick(rt, "level", 0, 3), PasswordHash: "h"}}
	case 1:
		c := &raftstore.UpdateUserCmd{Name: name(rt, "u", 4), KeepToken: name(rt, "t", 5)}
		if rapid.Bool().Draw(rt, "level") {
			c.Change.Level = new(pick(rt, "to", 0, 3))
		} else {
			c.Change.PasswordHash = new("other")
		}
		return c
	case 2:
		if rapid.Bool().Draw(rt, "users") {
			return &raftstore.DeleteUsersCmd{Names: append(names(rt, "u", 4, 1), "u1")}
		}
		if rapid.Bool().Draw(rt, "keys") {
			return &raftstore.DeleteKeyCmd{AccessKey: name(rt, "k", 3)}
		}
		return &raftstore.AddKeyCmd{Key: fleet.AccessKey{AccessKey: name(rt, "k", 3), Scope: fleet.KeyScopeSD}, Sealed: []byte("s")}
	case 3:
		if rapid.IntRange(0, 3).Draw(rt, "revoke") == 0 {
			return &raftstore.RevokeTokenCmd{ID: name(rt, "t", 5)}
		}
		return &raftstore.CreateTokenCmd{Token: fleet.Token{
			ID: name(rt, "t", 5), Hash: name(rt, "hash", 5), User: name(rt, "u", 4), ExpiresAt: 1_000_000 + pick(rt, "life", 0, 100, int64(1e9)),
		}}
	case 4:
		return &raftstore.TagAgentsCmd{IDs: names(rt, "a", 8, 4), Add: names(rt, "tag", 3, 2), Remove: names(rt, "tag", 3, 1)}
	case 5:
		return &raftstore.DefaultConfigCmd{Config: fleet.DefaultConfig{Items: []fleet.ConfigItem{{Name: "driver"}}}}
	case 6:
		return &raftstore.Tick{}
	case 7:
		found := reports(names(rt, "a", 7, 4)...)
		for i := range found {
			found[i].SeenAt = rapid.Int64Range(1, 9).Draw(rt, "seen")
		}
		return &raftstore.ReportAgentsCmd{Agents: found}
	default:
		return anyTaskCommand(rt)
	}
}

func anyTaskCommand(rt *rapid.T) raftstore.Command {
	id := name(rt, "k", 2)
	switch rapid.IntRange(0, 6).Draw(rt, "task kind") {
	case 0, 1:
		c := &raftstore.CreateTaskCmd{Targets: names(rt, "a", 6, 5), Task: fleet.NewTask{
			ID: id, Kind: pick(rt, "kind", fleet.TaskKindTask, fleet.TaskKindConfig), Delivery: pick(rt, "delivery", fleet.DeliveryOnce, fleet.DeliveryRetry),
			Seconds: pick(rt, "seconds", 0, 1, 100, int64(3600)), Run: rapid.Bool().Draw(rt, "run"), KeepResults: rapid.Bool().Draw(rt, "keep"),
		}}
		if c.Task.Kind == fleet.TaskKindConfig {
			c.Task.Command.Config = []fleet.ConfigItem{{Name: id}}
		} else {
			c.Task.Command.Task = &fleet.AgentTask{Name: "scanner", Token: pick(rt, "token", "", "", "own1", "own2")}
		}
		return c
	case 2:
		return &raftstore.RunTaskCmd{ID: id, Millionths: pick(rt, "part", 1, 300_000, 500_000, 1_000_000), Percent: 0.5, Concurrence: 5}
	case 3:
		return pick[raftstore.Command](rt, "end", &raftstore.CancelTaskCmd{ID: id}, &raftstore.FailTaskCmd{ID: id, Reason: "too late"})
	case 4:
		var marks []fleet.TaskMark
		for range rapid.IntRange(1, 4).Draw(rt, "marks") {
			marks = append(marks, fleet.TaskMark{TaskID: name(rt, "k", 2), Number: rapid.Uint32Range(0, 6).Draw(rt, "number")})
		}
		return &raftstore.MarkSentCmd{Node: "n1", Marks: marks}
	default:
		var results []fleet.TaskResult
		for range rapid.IntRange(1, 4).Draw(rt, "results") {
			n := rapid.Uint32Range(1, 6).Draw(rt, "number")
			id := pick(rt, "agent", fmt.Sprint("a", []int{3, 1, 2, 5, 4, 6}[n-1]), name(rt, "a", 6))
			results = append(results, fleet.TaskResult{
				Token:   pick(rt, "token", fleet.TaskToken(name(rt, "k", 2), n), fleet.TaskToken(name(rt, "k", 2), n), "own1", "own2", "none"),
				AgentID: id, Message: name(rt, "text", 9),
				State: pick(rt, "state", fleet.SubTaskSucceeded, fleet.SubTaskFailed, ""),
			})
		}
		return &raftstore.SetResultsCmd{Results: results}
	}
}

func entries(steps []step) (logs []*raft.Log) {
	for i, st := range steps {
		logs = append(logs, raftstore.Entry(uint64(i+1), st.at, st.request, st.cmd))
	}
	return logs
}

// applyCut applies the entries in batches that rt chooses.
func applyCut(rt *rapid.T, s *raftstore.Store, logs []*raft.Log) (answers []raftstore.Answer) {
	for len(logs) > 0 {
		n := rapid.IntRange(1, len(logs)).Draw(rt, "batch")
		got, err := s.ApplyBatch(logs[:n]...)
		if err != nil {
			rt.Fatal(err)
		}
		answers = append(answers, got...)
		logs = logs[n:]
	}
	return answers
}

// However the log is cut into batches, answers and state are the same.
func TestBatchesDoNotMatter(t *testing.T) {
	s := machine(t)
	rapid.Check(t, func(rt *rapid.T) {
		logs := entries(history(rt))
		var answers [2][]raftstore.Answer
		var hashes [2]string
		var dumps [2]map[string]string
		for i := range 2 {
			must(t, s.Reset())
			answers[i] = applyCut(rt, s, logs)
			hashes[i] = s.Status().Hash
			var err error
			if dumps[i], err = s.Dump(); err != nil {
				rt.Fatal(err)
			}
		}
		if hashes[0] != hashes[1] {
			rt.Fatalf("hashes differ: %s", cmp.Diff(dumps[0], dumps[1]))
		}
		if d := cmp.Diff(answers[0], answers[1]); d != "" {
			rt.Fatalf("answers differ: %s", d)
		}
		if again, _ := s.RecountHash(); again != hashes[0] {
			rt.Fatalf("kept hash %s, counted %s", hashes[0], again)
		}
	})
}

// The state machine does what the model does, and a refusal changes nothing.
func TestAgainstModel(t *testing.T) {
	s := machine(t)
	rapid.Check(t, func(rt *rapid.T) {
		must(t, s.Reset())
		m := newModel()
		before, _ := s.Dump()
		for i, st := range history(rt) {
			got, err := s.ApplyBatch(raftstore.Entry(uint64(i+1), st.at, "", st.cmd))
			if err != nil {
				rt.Fatal(err)
			}
			code := fine
			if got[0].Refusal != nil {
				code = got[0].Refusal.Code
			}
			if want := m.apply(uint64(i+1), st.at, st.cmd); code != want {
				rt.Fatalf("%T %+v answered %q, want %q", st.cmd, st.cmd, code, want)
			}
			after, _ := s.Dump()
			if code != fine && !cmp.Equal(before, after) {
				rt.Fatalf("a refusal changed the state: %s", cmp.Diff(before, after))
			}
			before = after
		}
		m.compare(rt, s)
		if err := s.Rebuild(); err != nil {
			rt.Fatal(err)
		}
		m.comparePending(rt, s)
	})
}

// A state that begins anew gives the agents other numbers, and nothing is known of
// those that they had: one history of a test must not depend on the one before.
func TestResetForgetsNumbers(t *testing.T) {
	s := machine(t)
	for i, ids := range [][]string{{"a1", "a2"}, {"a2", "a1"}, {"a1", "a2"}} {
		must(t, s.Reset())
		_, err := s.ApplyBatch(
			raftstore.Entry(1, 1, "", &raftstore.ReportAgentsCmd{Agents: reports(ids...)}),
			raftstore.Entry(2, 1, "", &raftstore.CreateTaskCmd{Targets: []string{"a2"}, Task: newTask("k1")}))
		must(t, err)
		if d := cmp.Diff([]string{"a2"}, s.Due([]string{"a1", "a2"})); d != "" {
			t.Errorf("history %d: due (-want +got): %s", i, d)
		}
		want := uint32(slices.Index(ids, "a2") + 1)
		if todo := s.PendingDispatch("a2"); len(todo) != 1 || todo[0].Number != want {
			t.Errorf("history %d: PendingDispatch = %+v, want number %d", i, todo, want)
		}
	}
}

func (m *model) compare(rt *rapid.T, s *raftstore.Store) {
	users, _ := s.Users()
	same(rt, "users", users, sortedValues(m.users))
	tokens, _ := s.Tokens("")
	same(rt, "tokens", tokens, sortedValues(m.tokens))
	keys, _ := s.Keys()
	if len(keys) != len(m.keys) || s.AgentCount() != len(m.agents) {
		rt.Fatalf("%d keys, %d agents; want %d, %d", len(keys), s.AgentCount(), len(m.keys), len(m.agents))
	}
	tags, _ := s.Tags()
	same(rt, "tags", tags, m.tagCounts())
	for id, a := range m.agents {
		got, err := s.Agent(id)
		d, _ := s.Desired(id)
		rev, own := m.desired(id)
		same(rt, "agent "+id, []any{got.Number, got.SeenAt, got.Tags, d.Revision, d.Own, err},
			[]any{a.number, a.seenAt, slices.Sorted(maps.Keys(a.tags)), rev, own, nil})
	}
	tasks, _ := s.Tasks("", 0)
	if len(tasks) != len(m.tasks) {
		rt.Fatalf("%d tasks, want %d", len(tasks), len(m.tasks))
	}
	for _, got := range tasks {
		t := m.tasks[got.ID]
		same(rt, "task "+got.ID, []any{got.Status, got.Deadline, got.EndedAt, got.CreatedAt, got.Counts},
			[]any{t.Status, t.Deadline, t.EndedAt, t.CreatedAt, t.counts()})
		subs, _ := s.SubTasks(got.ID, 0, 0)
		if len(subs) != len(t.states) {
			rt.Fatalf("%d sub-tasks, want %d", len(subs), len(t.states))
		}
		for _, sub := range subs {
			text := ""
			if sub.Result != nil {
				text = sub.Result.Message
			}
			same(rt, "sub-task", []any{sub.State, text}, []any{t.states[sub.AgentID], t.texts[sub.AgentID]})
		}
	}
	m.compareConfigs(rt, s)
	m.comparePending(rt, s)
}

// compareConfigs wants every agent's own config to be there, counted, and no other.
func (m *model) compareConfigs(rt *rapid.T, s *raftstore.Store) {
	got, want := map[string]string{}, map[string]string{}
	users := map[string]int{}
	for _, a := range m.agents {
		if a.config != "" {
			users[a.config]++
			key := fmt.Sprintf("configs/%q", a.config)
			want[key] = fmt.Sprintf(`"agents":%d}`, users[a.config])
		}
	}
	dump, _ := s.Dump()
	for k, v := range dump {
		if strings.HasPrefix(k, "configs/") && k != `configs/"."` {
			got[k] = v[strings.LastIndex(v, `"agents"`):]
		}
	}
	same(rt, "own configs", got, want)
}

func (m *model) comparePending(rt *rapid.T, s *raftstore.Store) {
	for id := range m.agents {
		var got, want []string
		for _, d := range s.PendingDispatch(id) {
			got = append(got, fmt.Sprint(d.TaskID, d.Sent))
		}
		for _, t := range m.tasks {
			again := t.Delivery == fleet.DeliveryRetry || t.Kind == fleet.TaskKindConfig
			switch state := t.states[id]; {
			case t.Status != fleet.TaskRunning:
			case state == fleet.SubTaskPending, state == fleet.SubTaskSent && again:
				want = append(want, fmt.Sprint(t.ID, state == fleet.SubTaskSent))
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		same(rt, "dispatches of "+id, got, want)
		same(rt, "whether something is due for "+id, s.Due([]string{"nobody", id}), []string{id}[:min(len(want), 1)])
	}
}

func same(rt *rapid.T, what string, got, want any) {
	rt.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		rt.Fatalf("%s (-want +got): %s", what, d)
	}
}

func sortedValues[T any](m map[string]T) (values []T) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		values = append(values, m[k])
	}
	return values
}
