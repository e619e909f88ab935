// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/internal/agentpb"
	"muster/internal/simagent"
)

// commanded is one agent with an open stream, and its server.
type commanded struct {
	*started
	c  *center
	id string
}

func (w *world) commanded(alter func(*simagent.Options)) *commanded {
	w.t.Helper()
	c := w.center("10.1.0.1", simagent.ServerName, nil)
	w.sd(sdHost, lists("10.1.0.1"))
	opts := w.options()
	opts.Plugins = []simagent.Plugin{{Name: "collector", Version: "1"}, {Name: "scanner", Version: "1"}, {Name: "baseline", Version: "1"}}
	if alter != nil {
		alter(&opts)
	}
	f := w.start(opts)
	time.Sleep(time.Second)
	synctest.Wait()
	return &commanded{started: f, c: c, id: f.IDs()[0]}
}

// tell sends a command and gives the agent time to act and answer.
func (s *commanded) tell(command *agentpb.Command) {
	s.t.Helper()
	s.c.send(s.t, command)
	time.Sleep(200 * time.Millisecond)
	synctest.Wait()
}

func task(dataType int32, name, data string) *agentpb.Command {
	return &agentpb.Command{Task: &agentpb.Task{DataType: dataType, Name: name, Data: data, Token: "token-1"}}
}

func config(pairs ...string) *agentpb.Command {
	c := &agentpb.Command{}
	for i := 0; i < len(pairs); i += 2 {
		c.Config = append(c.Config, &agentpb.ConfigItem{Name: pairs[i], Version: pairs[i+1]})
	}
	return c
}

func TestPluginsAnswerTasks(t *testing.T) {
	tests := []struct {
		name, plugin string
		task, reply  int32 // no reply: 0
	}{
		{"collector", "collector", 5056, 5100},
		{"scan a path", "scanner", 6053, 6000},
		{"scan all", "scanner", 6057, 6000},
		{"baseline", "baseline", 8000, 8010},
		{"missing plugin", "rasp", 6053, 0},
		{"busy plugin", "collector", 1, 0},
		{"failing plugin", "collector", 2, 5100},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newWorld(t).commanded(func(o *simagent.Options) {
					o.Hooks.Answer = func(_ string, task *agentpb.Task) (string, string, bool) {
						if task.GetDataType() == 2 {
							return "failed", "no disk", true
						}
						return "succeed", "", task.GetDataType() != 1
					}
				})
				s.tell(task(tt.task, tt.plugin, "{}"))
				want := map[int32]int{1000: 1}
				if tt.reply != 0 {
					want[tt.reply]++
				}
				got := map[int32]int{}
				for _, m := range s.c.got() {
					for dataType, n := range m.types() {
						got[dataType] += n
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatal(diff)
				}
				summary := s.Summary().Commands
				if tt.reply == 0 {
					if summary.TasksDropped != 1 {
						t.Errorf("commands: %+v", summary)
					}
					return
				}
				answer := map[string]string{"token": "token-1", "status": "succeed", "msg": ""}
				if tt.task == 2 {
					answer["status"], answer["msg"] = "failed", "no disk"
				}
				if diff := cmp.Diff(answer, fields(t, s.c.records(tt.reply)[0])); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// TestSettings: a 1051 task shows in the next heartbeat and outlives a restart.
func TestSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newWorld(t).commanded(nil)
		s.tell(task(1051, simagent.Product, `{"idc":"east","region":"r1"}`))
		s.tell(task(1051, simagent.Product, `{"idc":7}`))
		s.tell(task(1051, simagent.Product, `nothing`))
		time.Sleep(time.Minute)
		synctest.Wait()
		beat := fields(t, s.c.records(1000)[1])
		if beat["idc"] != "east" || beat["region"] != "r1" {
			t.Errorf("heartbeat: idc %q, region %q", beat["idc"], beat["region"])
		}
		if idc, region, _ := s.SettingsOf(s.id); idc != "east" || region != "r1" {
			t.Errorf("SettingsOf: %q, %q", idc, region)
		}
		if len(s.c.records(5100)) != 0 {
			t.Error("a settings task was answered")
		}
	})
}

// TestShutdown: the agent ends, and comes back only with Systemd, after 45 s.
func TestShutdown(t *testing.T) {
	for _, systemd := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newWorld(t).commanded(func(o *simagent.Options) { o.Systemd = systemd })
			s.tell(task(1060, simagent.Product, ""))
			if summary := s.Summary().Agents; summary.Exits != 1 || summary.Connected != 0 {
				t.Errorf("agents: %+v", summary)
			}
			time.Sleep(44 * time.Second)
			synctest.Wait()
			if n := len(s.c.streams()); n != 1 {
				t.Errorf("%d streams before 45 s", n)
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			want := 1
			if systemd {
				want = 2
			}
			if n := len(s.c.streams()); n != want {
				t.Errorf("systemd %v: %d streams, want %d", systemd, n, want)
			}
			if plugins := s.PluginsOf(s.id); len(plugins) != 0 {
				t.Errorf("plugins %v", plugins)
			}
		})
	}
}

// TestConfigIsTheWholeWish: listed plugins are loaded or upgraded, others go.
func TestConfigIsTheWholeWish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		seen := 0
		s := newWorld(t).commanded(func(o *simagent.Options) {
			o.Hooks.OnCommand = func(string, *agentpb.Command) { mu.Lock(); seen++; mu.Unlock() }
		})
		s.tell(config("collector", "2", "driver", "1", simagent.Product, simagent.DefaultVersion))
		want := []simagent.Plugin{{Name: "collector", Version: "2"}, {Name: "driver", Version: "1"}}
		if diff := cmp.Diff(want, s.PluginsOf(s.id)); diff != "" {
			t.Error(diff)
		}
		items, received := s.ConfigOf(s.id)
		if len(items) != 3 || received != 1 {
			t.Errorf("ConfigOf: %d items, %d configs", len(items), received)
		}
		both := config("other", "1")
		both.Task = task(5056, "collector", "").GetTask()
		s.tell(both)
		if diff := cmp.Diff(want, s.PluginsOf(s.id)); diff != "" {
			t.Errorf("the config beside a task was not passed over: %s", diff)
		}
		if _, received := s.ConfigOf(s.id); received != 1 {
			t.Errorf("%d configs", received)
		}
		mu.Lock()
		defer mu.Unlock()
		if seen != 2 {
			t.Errorf("OnCommand saw %d commands", seen)
		}
	})
}

// TestEmptyConfigWipes: and it is counted, because no server should send it.
func TestEmptyConfigWipes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newWorld(t).commanded(nil)
		s.tell(&agentpb.Command{})
		if plugins := s.PluginsOf(s.id); len(plugins) != 0 {
			t.Errorf("plugins %v", plugins)
		}
		if got := s.Summary().Commands; got.PluginsWiped != 1 || got.Configs != 1 {
			t.Errorf("commands: %+v", got)
		}
	})
}

// TestSelfUpdate: another version of the agent ends the process before plugins
// are looked at; the next process has that version.
func TestSelfUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newWorld(t).commanded(func(o *simagent.Options) { o.Systemd = true })
		s.tell(config(simagent.Product, "1.9.2.1", "driver", "1"))
		if got := s.Summary(); got.Commands.Updates != 1 || got.Agents.Exits != 1 {
			t.Errorf("summary:\n%v", got)
		}
		time.Sleep(46 * time.Second)
		synctest.Wait()
		got := s.c.got()
		last := got[len(got)-1]
		if last.stream != 2 || last.raw.GetVersion() != "1.9.2.1" {
			t.Errorf("stream %d, version %s", last.stream, last.raw.GetVersion())
		}
		s.tell(config(simagent.Product, "1.9.2.1", "driver", "1"))
		if diff := cmp.Diff([]simagent.Plugin{{Name: "driver", Version: "1"}}, s.PluginsOf(s.id)); diff != "" {
			t.Error(diff)
		}
		if got := s.Summary().Commands.Updates; got != 1 {
			t.Errorf("%d updates, the version was there already", got)
		}
	})
}
