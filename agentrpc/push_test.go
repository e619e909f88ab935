// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"muster/agentrpc"
	"muster/fleet"
)

// configured makes the store desire one component, at a revision.
func configured(f *fakeStore, revision uint64, tags ...string) {
	f.set(func(f *fakeStore) {
		f.desired = func(string) (fleet.Desired, error) {
			return fleet.Desired{
				Config:   []fleet.ConfigItem{{Name: "driver", Version: fmt.Sprint(revision), DownloadURL: []string{"http://x/y"}}},
				Revision: revision, Tags: tags,
			}, nil
		}
	})
}

func versions(a *agent) []string {
	var out []string
	for _, c := range a.got() {
		if len(c.GetConfig()) == 0 {
			out = append(out, "none")
			continue
		}
		out = append(out, c.GetConfig()[0].GetVersion())
	}
	return out
}

func TestConfigFollowsTheFirstMessage(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		configured(w.store, 7)
		a := w.open("a1", nil)
		w.store.notify(fleet.TableDesired) // wakes the sender
		time.Sleep(10 * time.Second)
		if got := versions(a); len(got) != 0 {
			t.Fatalf("sent before anything was heard: %v", got)
		}
		a.send(record(59))
		w.eventually("config", time.Second, func() bool { return len(a.got()) == 1 })
		time.Sleep(time.Hour)
		a.beat()
		if got := fmt.Sprint(versions(a)); got != "[7]" {
			t.Errorf("sent %v, want 7 once", got)
		}
		if s, _ := w.srv.Session("a1"); s.ConfigRevision != 7 {
			t.Errorf("revision in the snapshot: %d", s.ConfigRevision)
		}
		a.cancel()
	})
}

func TestNoConfigSendsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.store.set(func(f *fakeStore) { // a revision, and an empty list
			f.desired = func(string) (fleet.Desired, error) { return fleet.Desired{Revision: 9}, nil }
		})
		a := w.open("a1", nil)
		a.beat()
		w.store.notify(fleet.TableDesired)
		time.Sleep(time.Hour)
		if got := a.got(); len(got) != 0 {
			t.Errorf("sent %v", got)
		}
		a.cancel()
	})
}

func TestChangeReachesWithoutReconnect(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		configured(w.store, 1, "old")
		a := w.open("a1", nil)
		a.beat()
		w.eventually("first config", time.Second, func() bool { return len(a.got()) == 1 })
		configured(w.store, 2, "new", "tags")
		w.store.notify(fleet.TableDesired)
		w.eventually("second config", time.Second, func() bool { return fmt.Sprint(versions(a)) == "[1 2]" })
		a.send(record(59))
		values := w.log.of("a1")
		if first, last := mqData(t, values[0]).GetTag(), mqData(t, values[1]).GetTag(); first != "old" || last != "new,tags" {
			t.Errorf("tags %q, then %q", first, last)
		}
		a.cancel()
	})
}

func TestRevisionNeverGoesDown(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		configured(w.store, 5)
		a := w.open("a1", nil)
		a.beat()
		w.eventually("config", time.Second, func() bool { return len(a.got()) == 1 })
		w.store.set(func(f *fakeStore) { // a task that is not due wakes the sender each time
			f.pending = func(string) []fleet.Dispatch { return []fleet.Dispatch{{TaskID: "t", Deadline: 1}} }
		})
		for _, revision := range []uint64{3, 5, 4, 6, 2} {
			configured(w.store, revision)
			w.store.notify(fleet.TableDesired)
			w.store.notify(fleet.TableTasks)
			time.Sleep(time.Second)
		}
		if got := fmt.Sprint(versions(a)); got != "[5 6]" {
			t.Errorf("sent %v, want 5 and 6", got)
		}
		a.cancel()
	})
}

func TestNothingIsPushedWhileNotCurrent(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var current atomic.Bool
		book := &taskBook{}
		book.install(w.store)
		book.put(fleet.Dispatch{TaskID: "t1", AgentID: "a1", Number: 1, Kind: fleet.TaskKindTask, Delivery: fleet.DeliveryOnce, Command: scan("t1.1")})
		configured(w.store, 1)
		w.store.set(func(f *fakeStore) { f.current = current.Load })
		a := w.open("a1", nil)
		a.beat()
		time.Sleep(time.Minute)
		if got := a.got(); len(got) != 0 {
			t.Fatalf("sent %v while not current", got)
		}
		if n := len(w.log.of("a1")); n != 1 {
			t.Errorf("%d records taken, want 1", n)
		}
		current.Store(true)
		w.eventually("config and task", 2*time.Second, func() bool { return len(a.got()) == 2 })
		a.cancel()
	})
}

// An agent that comes from a node that knows more gets nothing before this one
// knows it, too; one that was here already gets what changes.
func TestComersWaitForTheLeadersWord(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		configured(w.store, 1)
		old := w.open("old", nil)
		old.beat()
		w.eventually("config of the old one", time.Second, func() bool { return len(old.got()) == 1 })
		var vouched atomic.Pointer[time.Time]
		now := time.Now()
		vouched.Store(&now)
		w.store.set(func(f *fakeStore) { f.vouched = func() time.Time { return *vouched.Load() } })
		comer := w.open("comer", nil)
		comer.beat()
		configured(w.store, 2)
		w.store.notify(fleet.TableDesired)
		w.eventually("another config of the old one", time.Second, func() bool { return len(old.got()) == 2 })
		time.Sleep(2 * time.Second)
		if got := comer.got(); len(got) != 0 {
			t.Fatalf("sent %v before the leader was asked", got)
		}
		later := time.Now()
		vouched.Store(&later)
		w.eventually("config of the comer", 100*time.Millisecond, func() bool { return len(comer.got()) == 1 })
		if got := fmt.Sprint(versions(comer)); got != "[2]" {
			t.Errorf("sent %v, want 2", got)
		}
		old.cancel()
		comer.cancel()
	})
}

// While the leader does not answer, those that wait for its word cost next to
// nothing, whatever else wakes them.
func TestComersWaitOnce(t *testing.T) {
	const agents = 40
	inBubble(t, func(t *testing.T, w *world) {
		configured(w.store, 1)
		var asked atomic.Int64
		var vouched atomic.Pointer[time.Time]
		begin := time.Now()
		vouched.Store(&begin)
		w.store.set(func(f *fakeStore) {
			f.vouched = func() time.Time { asked.Add(1); return *vouched.Load() }
		})
		comers := make([]*agent, agents)
		for i := range comers {
			comers[i] = w.open(fmt.Sprint("a", i), nil)
			comers[i].beat()
		}
		for revision := range uint64(5) {
			configured(w.store, revision+2)
			w.store.notify(fleet.TableDesired)
			time.Sleep(400 * time.Millisecond)
		}
		// Each asks when it comes and when it is woken, and one of them at each tick of 50 ms.
		if n := asked.Load(); n > 2*agents+5*agents+2*20 {
			t.Errorf("asked %d times for %d agents", n, agents)
		}
		now := time.Now()
		vouched.Store(&now)
		w.eventually("all have their config", 100*time.Millisecond, func() bool {
			for _, a := range comers {
				if fmt.Sprint(versions(a)) != "[6]" {
					return false
				}
			}
			return true
		})
		for _, a := range comers {
			a.cancel()
		}
	})
}

func TestChangeReachesEveryoneSpread(t *testing.T) {
	const agents = 60
	inBubble(t, func(t *testing.T, w *world) {
		var all []*agent
		conn := w.dial(nil)
		for i := range agents {
			if i%8 == 0 {
				conn = w.dial(nil)
			}
			a := w.open(fmt.Sprintf("a%d", i), conn)
			a.beat()
			all = append(all, a)
		}
		configured(w.store, 1)
		w.store.notify(fleet.TableDesired)
		start := time.Now()
		w.eventually("everyone", 5*time.Second, func() bool { return w.metric("pushes_total") == agents })
		if took := time.Since(start); took < 2*time.Second || took > 4*time.Second {
			t.Errorf("%d agents at 20 a second took %v, want about 3 s", agents, took)
		}
		synctest.Wait()
		for _, a := range all {
			if got := fmt.Sprint(versions(a)); got != "[1]" {
				t.Errorf("%s got %v", a.id, got)
			}
			a.cancel()
		}
	}, func(o *agentrpc.Options) { o.Tuning.PushesPerSecond = 20 })
}

func TestAnAgentThatDoesNotReadIsClosed(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var revision atomic.Uint64
		items := make([]fleet.ConfigItem, 100)
		for i := range items {
			items[i] = fleet.ConfigItem{Name: fmt.Sprint("plugin", i), Detail: string(make([]byte, 4096))}
		}
		w.store.set(func(f *fakeStore) {
			f.desired = func(id string) (fleet.Desired, error) {
				if id != "stuck" {
					return fleet.Desired{}, nil
				}
				return fleet.Desired{Config: items, Revision: revision.Load()}, nil
			}
		})
		// Not opened with open: nobody reads this stream.
		stuck := w.openUnread("stuck")
		stuck.beat()
		other := w.open("other", nil)
		other.beat()
		start := time.Now()
		for w.srv.SessionCount() == 2 && time.Since(start) < time.Minute {
			revision.Add(1)
			w.store.notify(fleet.TableDesired)
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(start); took < 10*time.Second || took > 15*time.Second {
			t.Errorf("closed after %v, want 10 s", took)
		}
		if _, ok := w.srv.Session("other"); !ok {
			t.Error("the other agent is gone too")
		}
		stuck.cancel()
		other.cancel()
	})
}

func TestTagsUnderManyChanges(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var revision atomic.Uint64
		w.store.set(func(f *fakeStore) {
			f.desired = func(string) (fleet.Desired, error) {
				return fleet.Desired{Tags: []string{fmt.Sprint(revision.Load())}}, nil
			}
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 100 {
				revision.Add(1)
				w.store.notify(fleet.TableDesired)
				time.Sleep(7 * time.Millisecond)
			}
		})
		a := w.open("a1", nil)
		for range 10 {
			a.send(record(59))
			time.Sleep(70 * time.Millisecond)
		}
		wg.Wait()
		time.Sleep(time.Second)
		a.send(record(59))
		values := w.log.of("a1")
		if got := mqData(t, values[len(values)-1]).GetTag(); got != "100" {
			t.Errorf("tag after the last change: %q, want 100", got)
		}
		a.cancel()
	})
}
