// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"muster/agentrpc"
	"muster/fleet"
	"muster/internal/agentpb"
)

// known makes every token of a task be known as a sub-task of that agent.
func known(agentID string, state fleet.SubTaskState) func(token string) (fleet.SubTask, error) {
	return func(token string) (fleet.SubTask, error) {
		id, n, ok := fleet.ParseTaskToken(token)
		if !ok {
			return fleet.SubTask{}, fleet.ErrNotFound
		}
		return fleet.SubTask{TaskID: id, Number: n, AgentID: agentID, Token: token, State: state}, nil
	}
}

func TestReplies(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.store.set(func(f *fakeStore) { f.subTask = known("a1", fleet.SubTaskSent) })
		a := w.open("a1", nil)
		var want []fleet.TaskResult
		for i, dataType := range []fleet.DataType{2001, 2003, 5100, 5101, 6000, 8010} {
			for j, said := range []string{"succeed", "failed", "Succeed", ""} {
				r := fleet.TaskResult{
					Token: fleet.TaskToken("t", uint32(10*i+j+1)), AgentID: "a1", DataType: dataType,
					Status: said, Message: "said " + said, At: time.Now().Unix(), State: fleet.SubTaskFailed,
				}
				switch {
				case dataType == fleet.DataTypeVerification:
					r.State = ""
				case said == "succeed":
					r.State = fleet.SubTaskSucceeded
				}
				want = append(want, r)
				a.send(record(dataType, "token", r.Token, "status", said, "msg", r.Message))
			}
		}
		a.send(record(8000, "token", "t.9", "status", "succeed")) // no reply
		w.eventually("results", time.Second, func() bool { return len(w.store.allResults()) >= len(want) })
		if diff := gocmp.Diff(want, w.store.allResults()); diff != "" {
			t.Errorf("(-want +got): %s", diff)
		}
		if n := len(w.log.of("a1")); n != len(want)+1 {
			t.Errorf("%d records forwarded, want %d: replies too", n, len(want)+1)
		}
		a.cancel()
	})
}

func TestNeedlessReplies(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		say := func(token string) { a.send(record(fleet.DataTypeTaskResult, "token", token, "status", "succeed")) }
		say("")
		say("no token of ours")
		say("t.1") // not known to the store
		w.store.set(func(f *fakeStore) { f.subTask = known("a2", fleet.SubTaskSent) })
		say("t.1") // another agent's
		w.store.set(func(f *fakeStore) { f.subTask = known("a1", fleet.SubTaskSucceeded) })
		say("t.1") // has ended
		a.send(&agentpb.Record{DataType: int32(fleet.DataTypeTaskResult), Body: []byte{0xff}})
		time.Sleep(time.Second)
		if got := w.store.allResults(); len(got) != 0 {
			t.Errorf("proposed: %+v", got)
		}
		if unknown, repeated, bad := w.metric("results_total", "outcome", "unknown_token"),
			w.metric("results_total", "outcome", "repeated"), w.metric("undecodable_bodies_total"); unknown != 4 || repeated != 1 || bad != 1 {
			t.Errorf("counted %v, %v, %v", unknown, repeated, bad)
		}
		// A late answer, and one that a node which lags does not know.
		w.store.set(func(f *fakeStore) { f.subTask = known("a1", fleet.SubTaskUnknown) })
		say("t.1")
		w.store.set(func(f *fakeStore) { // a token that a caller chose
			f.subTask = func(token string) (fleet.SubTask, error) {
				return fleet.SubTask{TaskID: "t", AgentID: "a1", Token: token, State: fleet.SubTaskSent}, nil
			}
		})
		say("my own")
		w.store.set(func(f *fakeStore) { f.subTask, f.current = nil, func() bool { return false } })
		say("t.2")
		w.eventually("results", time.Second, func() bool { return len(w.store.allResults()) == 3 })
		if n := len(w.log.of("a1")); n != 9 {
			t.Errorf("%d records forwarded, want 9", n)
		}
		a.cancel()
	})
}

func TestResultsWaitForTheStore(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		biggest := 0
		w.store.set(func(f *fakeStore) {
			f.subTask = known("a1", fleet.SubTaskSent)
			f.result = func([]fleet.TaskResult) error { return fleet.ErrUnavailable }
		})
		a := w.open("a1", nil)
		const count = 2500
		for i := range count / 100 {
			var records []*agentpb.Record
			for j := range 100 {
				records = append(records, record(fleet.DataTypeTaskResult, "token", fleet.TaskToken("t", uint32(100*i+j+1)), "status", "failed", "msg", strings.Repeat("é", 3000)))
			}
			a.send(records...)
		}
		time.Sleep(time.Minute)
		w.store.set(func(f *fakeStore) {
			f.result = func(r []fleet.TaskResult) error {
				size := 0
				for _, one := range r {
					size += len(one.Message)
					if len(one.Message) > fleet.MaxResultBytes || strings.ContainsRune(one.Message, '�') {
						t.Errorf("a message of %d bytes", len(one.Message))
					}
				}
				biggest = max(biggest, size)
				return nil
			}
		})
		w.eventually("results", time.Minute, func() bool { return len(w.store.allResults()) == count })
		for i, r := range w.store.allResults() {
			if want := fleet.TaskToken("t", uint32(i+1)); r.Token != want {
				t.Fatalf("result %d is %s, want %s: in order, none twice", i, r.Token, want)
			}
		}
		if biggest > 256<<10 {
			t.Errorf("a proposal of %d bytes", biggest)
		}
		a.cancel()
	})
}

func TestAFullQueueOfResultsBlocksItsStreamOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.store.set(func(f *fakeStore) {
			f.subTask = known("busy", fleet.SubTaskSent)
			f.result = func([]fleet.TaskResult) error { return fleet.ErrUnavailable }
		})
		busy, other := w.open("busy", nil), w.open("other", nil)
		const each, messages = 1000, 12
		for i := range messages {
			var records []*agentpb.Record
			for j := range each {
				records = append(records, record(fleet.DataTypeTaskResult, "token", fleet.TaskToken("t", uint32(each*i+j+1)), "status", "failed"))
			}
			w.running.Go(func() { _ = busy.stream.Send(&agentpb.RawData{AgentId: "busy", Records: records}) })
			synctest.Wait()
		}
		if n := len(w.log.of("busy")); n >= each*messages {
			t.Errorf("%d records of the blocked stream were taken", n)
		}
		other.send(record(59))
		if n := len(w.log.of("other")); n != 1 {
			t.Error("the other stream is blocked too")
		}
		w.store.set(func(f *fakeStore) { f.result = nil })
		w.eventually("all results", time.Minute, func() bool { return len(w.store.allResults()) == each*messages })
		busy.cancel()
		other.cancel()
	})
}

func TestResultsAreFlushedAtTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.store.set(func(f *fakeStore) { f.subTask = known("a1", fleet.SubTaskSent) })
		a := w.open("a1", nil)
		a.send(record(fleet.DataTypeTaskResult, "token", "t.1", "status", "succeed"))
		w.cancel()
		w.running.Wait()
		if n := len(w.store.allResults()); n != 1 {
			t.Errorf("%d results, want 1", n)
		}
	})
}

func TestFirstSightChangeAndDisconnectAreReported(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		start := time.Now().Unix()
		a := w.open("a1", nil)
		a.send(record(59))
		time.Sleep(time.Minute)
		if n := len(w.store.allReports()); n != 0 {
			t.Fatal("reported before the first heartbeat")
		}
		beat := func(kernel, plugin, cpu string) {
			a.send(heartbeat("kernel_version", kernel, "state", "running", "cpu", cpu),
				record(fleet.DataTypePluginHeartbeat, "name", "driver", "pversion", plugin, "cpu", cpu))
			time.Sleep(time.Minute)
		}
		beat("6.1", "1.0", "0.1")
		beat("6.1", "1.0", "0.9") // nothing new
		beat("6.2", "1.0", "0.9")
		beat("6.2", "1.1", "0.9")
		reports := w.store.allReports()
		want := fleet.AgentReport{
			Identity: fleet.Identity{
				AgentID: "a1", Hostname: "host-a1", Version: "1.9", Product: "elkeid-agent",
				IntranetIPv4: []string{}, ExtranetIPv4: []string{}, IntranetIPv6: []string{}, ExtranetIPv6: []string{},
			},
			Facts:   map[string]string{"kernel_version": "6.1", "state": "running"},
			Plugins: map[string]string{"driver": "1.0"}, Node: "n1", SeenAt: start + 60,
		}
		if len(reports) != 3 {
			t.Fatalf("%d reports, want 3", len(reports))
		}
		if diff := gocmp.Diff(want, reports[0]); diff != "" {
			t.Errorf("first sight (-want +got): %s", diff)
		}
		if reports[1].Facts["kernel_version"] != "6.2" || reports[2].Plugins["driver"] != "1.1" {
			t.Errorf("changes: %+v", reports[1:])
		}
		a.cancel()
		w.eventually("disconnect", time.Second, func() bool { return len(w.store.allReports()) == 4 })
		if last := w.store.allReports()[3]; last.SeenAt != start+240 {
			t.Errorf("last seen at %d, want %d", last.SeenAt, start+240)
		}
	})
}

func TestUnchangedAgentsAreReportedHourly(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		for range 5*60 + 1 {
			a.beat()
			time.Sleep(time.Minute)
		}
		if n := len(w.store.allReports()); n != 6 {
			t.Errorf("%d reports in 5 hours, want 6", n)
		}
		a.cancel()
	})
}

func TestReportsWaitForTheStoreAndAreMerged(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.store.set(func(f *fakeStore) { f.report = func([]fleet.AgentReport) error { return fleet.ErrUnavailable } })
		conn := w.dial(nil)
		var all []*agent
		for i := range 8 {
			a := w.open(fmt.Sprintf("a%d", i), conn)
			a.send(heartbeat("kernel_version", "old"))
			all = append(all, a)
		}
		time.Sleep(time.Minute)
		for _, a := range all {
			a.send(heartbeat("kernel_version", "new"))
			if n := len(w.log.of(a.id)); n != 2 {
				t.Errorf("%s: %d records taken while the store is away, want 2", a.id, n)
			}
		}
		w.store.set(func(f *fakeStore) { f.report = nil })
		w.eventually("reports", 2*time.Second, func() bool { return len(w.store.allReports()) == 8 })
		got := w.store.allReports()
		slices.SortFunc(got, func(a, b fleet.AgentReport) int { return cmp.Compare(a.AgentID, b.AgentID) })
		for i, r := range got {
			if r.AgentID != fmt.Sprintf("a%d", i) || r.Facts["kernel_version"] != "new" {
				t.Errorf("report %d: %+v", i, r)
			}
		}
		for _, a := range all {
			a.cancel()
		}
	})
}

func TestANewerReportWinsOverOneThatFailed(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		free := make(chan struct{})
		w.store.set(func(f *fakeStore) {
			f.report = func([]fleet.AgentReport) error {
				<-free
				return fleet.ErrUnavailable
			}
		})
		a := w.open("a1", nil)
		a.send(heartbeat("kernel_version", "old"))
		time.Sleep(time.Second)
		a.send(heartbeat("kernel_version", "new"))
		w.store.set(func(f *fakeStore) { f.report = nil })
		close(free)
		w.eventually("report", 3*time.Second, func() bool { return len(w.store.allReports()) > 0 })
		for _, r := range w.store.allReports() {
			if r.Facts["kernel_version"] != "new" {
				t.Errorf("reported %v after the newer one", r.Facts)
			}
		}
		a.cancel()
	})
}

func TestReportsAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		pairs := []string{"kernel_version", strings.Repeat("k", 30<<10), "not a fact", "x"}
		records := []*agentpb.Record{heartbeat(pairs...)}
		for i := range 1000 {
			records = append(records, record(fleet.DataTypePluginHeartbeat, "name", fmt.Sprint("plugin", i), "pversion", strings.Repeat("v", 1000)))
		}
		records = append(records, heartbeat("kernel_version", strings.Repeat("k", 100<<10))) // too large to be remembered
		a.send(records...)
		w.eventually("report", time.Second, func() bool { return len(w.store.allReports()) == 1 })
		r := w.store.allReports()[0]
		if len(r.Facts) != 1 || len(r.Facts["kernel_version"]) != 1<<10 || len(r.Plugins) != 128 {
			t.Errorf("%d facts, %d bytes, %d plugins", len(r.Facts), len(r.Facts["kernel_version"]), len(r.Plugins))
		}
		if n := len(w.log.of("a1")); n != 1002 {
			t.Errorf("%d records forwarded, want 1002: all of them", n)
		}
		a.cancel()
	})
}

func TestPluginsThatFellSilentAreForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		a.send(heartbeat("state", "running"), record(fleet.DataTypePluginHeartbeat, "name", "gone", "pversion", "1"))
		for range 11 {
			time.Sleep(time.Minute)
			a.beat()
		}
		if s, _ := w.srv.Session("a1"); len(s.Plugins) != 0 {
			t.Errorf("plugins: %v", s.Plugins)
		}
		a.cancel()
	})
}

// A storm of connects goes to the store in large batches, at most ten a second.
func TestStormOfConnects(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const agents = 200
		conn := w.dial(nil)
		for i := range agents {
			if i%16 == 0 {
				conn = w.dial(nil)
			}
			a := w.open(fmt.Sprintf("a%d", i), conn)
			if err := a.stream.Send(&agentpb.RawData{AgentId: a.id, Records: []*agentpb.Record{heartbeat("state", "running")}}); err != nil {
				t.Fatal(err)
			}
		}
		w.eventually("all", 3*time.Second, func() bool { return len(w.store.allReports()) == agents })
		w.store.set(func(f *fakeStore) {
			if n := len(f.reports); n > 10 {
				t.Errorf("%d proposals for %d agents", n, agents)
			}
		})
	}, func(o *agentrpc.Options) { o.Limit = 300 })
}
