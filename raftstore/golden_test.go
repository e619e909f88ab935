// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"pgregory.net/rapid"

	"muster/fleet"
	"muster/raftstore"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// goldenLog holds one command of each kind, in an order in which all succeed.
func goldenLog() (logs []*raft.Log) {
	item := fleet.ConfigItem{Name: "driver", Type: "zip", Version: "1.0", DownloadURL: []string{"http://h/d"}}
	task := fleet.NewTask{
		ID: "k1", Name: "scan", Action: "task", Kind: fleet.TaskKindTask, Delivery: fleet.DeliveryOnce, Creator: "admin", Run: true, KeepResults: true,
		Command: fleet.AgentCommand{Task: &fleet.AgentTask{DataType: fleet.DataTypeScanPath, Name: "scanner", Data: `{"exe":"<&>"}`, Token: "own"}},
	}
	config := fleet.NewTask{ID: "k2", Kind: fleet.TaskKindConfig, Delivery: fleet.DeliveryRetry, Seconds: 60, Command: fleet.AgentCommand{Config: []fleet.ConfigItem{item}}}
	part, dropped := task, task
	part.ID, part.Command.Task = "k3", &fleet.AgentTask{Name: "scanner"}
	dropped.ID = "k4"
	tok := token("t1", "admin")
	other := token("t2", "admin")
	key := fleet.AccessKey{AccessKey: "ak", Scope: fleet.KeyScopeSD, Note: "n"}
	for i, cmd := range []raftstore.Command{
		&raftstore.FoundCluster{ClusterID: "c1", CA: []byte("ca")},
		&raftstore.PutMetaCmd{Key: "note", Value: []byte("v")},
		&raftstore.CreateUserCmd{User: fleet.User{Name: "admin", PasswordHash: "h"}},
		&raftstore.CreateUserCmd{User: fleet.User{Name: "bob", Level: 3, PasswordHash: "h"}},
		&raftstore.UpdateUserCmd{Name: "admin", Change: fleet.UserChange{Avatar: new("a")}, KeepToken: "t1"},
		&raftstore.DeleteUsersCmd{Names: []string{"bob"}},
		&raftstore.CreateTokenCmd{Token: tok}, &raftstore.CreateTokenCmd{Token: other},
		&raftstore.TouchTokenCmd{ID: "t1", At: 2000}, &raftstore.RevokeTokenCmd{ID: "t2"},
		&raftstore.AddKeyCmd{Key: key, Sealed: []byte("sealed")},
		&raftstore.AddKeyCmd{Key: fleet.AccessKey{AccessKey: "ak2", Scope: fleet.KeyScopeAgents}, Sealed: []byte("s")}, &raftstore.DeleteKeyCmd{AccessKey: "ak2"},
		&raftstore.DefaultConfigCmd{Config: fleet.DefaultConfig{Type: "t", Version: "v", Items: []fleet.ConfigItem{item}}},
		&raftstore.ReportAgentsCmd{Agents: reports("a1", "a2", "a3")},
		&raftstore.TagAgentsCmd{IDs: []string{"a1", "a2"}, Add: []string{"web", "db"}, Remove: []string{"old"}},
		&raftstore.CreateTaskCmd{Task: task, Targets: []string{"a1"}},
		&raftstore.CreateTaskCmd{Task: config, Targets: []string{"a1", "a2"}},
		&raftstore.RunTaskCmd{ID: "k2", JobID: "j", Percent: 0.5, Millionths: 500_000, Concurrence: 5},
		&raftstore.CreateTaskCmd{Task: part, Part: true}, &raftstore.AddTargetsCmd{ID: "k3", Targets: []string{"a2", "a3"}}, &raftstore.SealTaskCmd{ID: "k3"},
		&raftstore.CreateTaskCmd{Task: dropped, Part: true}, &raftstore.DropTaskCmd{ID: "k4"},
		&raftstore.MarkSentCmd{Node: "n1", Marks: []fleet.TaskMark{{TaskID: "k1", Number: 1}, {TaskID: "k3", Number: 2}}},
		&raftstore.SetResultsCmd{Results: []fleet.TaskResult{{Token: "own", AgentID: "a1", State: fleet.SubTaskSucceeded, DataType: fleet.DataTypeScanFinished, Status: "succeed", Message: "ok", At: 1500}}},
		&raftstore.FailTaskCmd{ID: "k3", Reason: "too late"},
		&raftstore.CancelTaskCmd{ID: "k2"},
		&raftstore.Tick{},
	} {
		request := ""
		if i%2 == 0 {
			request = fmt.Sprintf("request-%02d", i)
		}
		logs = append(logs, raftstore.Entry(uint64(i+1), 1000+int64(i), request, cmd))
	}
	return logs
}

// golden compares with a file, or rewrites it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must(t, os.MkdirAll("testdata", 0o755))
		must(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s changed, which a format that nodes have on their disks never may: %s", name, d)
	}
}

// goldenMembers holds the commands about the cluster's members.
func goldenMembers() (logs []*raft.Log) {
	for i, cmd := range []raftstore.Command{
		&raftstore.FoundCluster{ClusterID: "c1", CA: []byte("ca")},
		&raftstore.RemoveNodeCmd{ServerID: "n1~0000000a"},
		&raftstore.RemoveNodeCmd{ServerID: "n1~0000000a"},
		&raftstore.RemoveNodeCmd{ServerID: "n2~0000000b"},
		&raftstore.RaiseFormatCmd{Format: 1},
	} {
		logs = append(logs, raftstore.Entry(uint64(i+1), 1000+int64(i), "", cmd))
	}
	return logs
}

// The bytes of the log and the content of the state are frozen.
func TestFormatsAreFrozen(t *testing.T) {
	frozen(t, goldenLog(), "log.txt", "state.txt")
	frozen(t, goldenMembers(), "members-log.txt", "members-state.txt")
}

func frozen(t *testing.T, logs []*raft.Log, logFile, stateFile string) {
	t.Helper()
	s := machine(t)
	var entries strings.Builder
	for _, l := range logs {
		end := len(l.Data) - 4
		fmt.Fprintf(&entries, "%02x %s %s\n", l.Data[0], l.Data[1:end], hex.EncodeToString(l.Data[end:]))
	}
	golden(t, logFile, entries.String())

	answers, err := s.ApplyBatch(logs...)
	must(t, err)
	for i, a := range answers {
		if a.Refusal != nil {
			t.Errorf("entry %d was refused: %v", i+1, a.Refusal)
		}
	}
	items, err := s.Dump()
	must(t, err)
	var state strings.Builder
	for _, k := range slices.Sorted(maps.Keys(items)) {
		content := items[k]
		if strings.ContainsRune(content, 0) {
			content = fmt.Sprintf("%q", content)
		}
		fmt.Fprintf(&state, "%s %s\n", k, content)
	}
	fmt.Fprintf(&state, "hash %s\n", s.Status().Hash)
	golden(t, stateFile, state.String())
}

// A log that an earlier build wrote must still give the same state.
func TestGoldenLogReplays(t *testing.T) {
	replays(t, "log.txt", "state.txt")
	replays(t, "members-log.txt", "members-state.txt")
}

func replays(t *testing.T, logFile, stateFile string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", logFile))
	must(t, err)
	s := machine(t)
	for i, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		body, sum := line[3:len(line)-9], line[len(line)-8:]
		crc, err := hex.DecodeString(sum)
		must(t, err)
		entry := append(append([]byte{1}, body...), crc...)
		if _, err := s.ApplyBatch(&raft.Log{Index: uint64(i + 1), Term: 1, Type: raft.LogCommand, Data: entry}); err != nil {
			t.Fatalf("entry %d: %v", i+1, err)
		}
	}
	state, err := os.ReadFile(filepath.Join("testdata", stateFile))
	must(t, err)
	if !strings.Contains(string(state), "hash "+s.Status().Hash+"\n") {
		t.Fatalf("the replayed log gives hash %s", s.Status().Hash)
	}
}

func FuzzDecodeCommand(f *testing.F) {
	for _, l := range append(goldenLog(), goldenMembers()...) {
		f.Add(l.Data)
	}
	f.Add([]byte{})
	f.Add([]byte{2, '{', '}', 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		again, err := raftstore.DecodeEntry(data)
		if err != nil {
			return
		}
		twice, err := raftstore.DecodeEntry(again)
		if err != nil || !bytes.Equal(again, twice) {
			t.Fatalf("%q is decoded, encoded to %q and then %q, %v", data, again, twice, err)
		}
	})
}

// Entries are taken apart where they were put together; whatever they look like,
// that must come to the same as reading them as a whole.
func FuzzDecodeEnvelope(f *testing.F) {
	for _, l := range append(goldenLog(), goldenMembers()...) {
		f.Add(l.Data[1 : len(l.Data)-4])
	}
	for _, s := range []string{
		`{"kind":"tick","at":1,"body":{}}`, `{"body":{},"kind":"tick","at":1}`, `{"kind":"tick","body":{},"at":1}`,
		`{"kind":"tick","at":1,"body":{}} `, `{"kind":"tick","at":1,"body":{}}}`, `{"kind":"tick","at":1,"body":{},"body":{}}`,
		`{"kind":"tick","Body":1,"body":{}}`, `{,"body":{}}`, `{"kind":"tick",,"body":{}}`, `{"kind":"tick"},"body":{}}`,
		`{"kind":"tick","at":1,"request":",\"body\":","body":{}}`, `{"kind":"tick","at":1,"body":}`, `{"kind":"tick","at":1}`,
		`{"kind":"tick","at":1,"body":null}`, `{"kind":"tick","at":1,"body":{}]}`, `{"kind":"tick","at":1,"body":{},"at":2}`, `{"kind":"tick","at":1,"body":{"a":1}}`, `null`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		if differs := raftstore.DecodeBothWays(content); differs != "" {
			t.Fatalf("%q: %s", content, differs)
		}
	})
}

func TestReportsAreNotLongerThanTaken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
		list, texts := rapid.SliceOf(text), rapid.MapOf(text, text)
		r := fleet.AgentReport{
			Identity: fleet.Identity{
				AgentID: text.Draw(t, "id"), Hostname: text.Draw(t, "host"), Version: text.Draw(t, "version"), Product: text.Draw(t, "product"),
				IntranetIPv4: list.Draw(t, "v4"), ExtranetIPv4: list.Draw(t, "v4"), IntranetIPv6: list.Draw(t, "v6"), ExtranetIPv6: list.Draw(t, "v6"),
			},
			Facts: texts.Draw(t, "facts"), Plugins: texts.Draw(t, "plugins"), Node: text.Draw(t, "node"), SeenAt: rapid.Int64().Draw(t, "seen"),
		}
		if exact, taken := raftstore.ReportSizes(r); exact > taken {
			t.Fatalf("%d bytes, taken for %d: %+v", exact, taken, r)
		}
	})
}

// The same request is carried out once, and told the same.
func TestRequestIsDoneOnce(t *testing.T) {
	s := machine(t)
	cmd := &raftstore.CreateUserCmd{User: fleet.User{Name: "u", PasswordHash: "h"}}
	answers, err := s.ApplyBatch(
		raftstore.Entry(1, 10, "r1", cmd), raftstore.Entry(2, 10, "r2", cmd),
		raftstore.Entry(3, 10, "r1", cmd), raftstore.Entry(4, 10, "r2", cmd))
	must(t, err)
	if answers[0].Refusal != nil || answers[1].Refusal == nil || answers[2].Refusal != nil || !cmp.Equal(answers[1], answers[3]) {
		t.Fatalf("answers %+v", answers)
	}
	// After a day of log time the answer is forgotten.
	if due, _ := s.TickDue(10 + 24*3600); !due {
		t.Fatal("nothing is due after a day")
	}
	answers, err = s.ApplyBatch(raftstore.Entry(5, 10+24*3600, "", &raftstore.Tick{}), raftstore.Entry(6, 10, "r1", cmd))
	must(t, err)
	if answers[1].Refusal == nil {
		t.Fatal("a forgotten request was answered from memory")
	}
	// An entry that the state has is skipped.
	before := s.Status()
	_, err = s.ApplyBatch(raftstore.Entry(6, 99, "", &raftstore.DeleteUsersCmd{Names: []string{"u"}}))
	must(t, err)
	if s.Status().Hash != before.Hash {
		t.Fatal("an old entry was applied again")
	}
}
