// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"muster/agentrpc"
	"muster/fleet"
	"muster/internal/agentpb"
	"muster/internal/grpccodec"
)

func mqData(t *testing.T, raw []byte) *agentpb.MQData {
	t.Helper()
	out := new(agentpb.MQData)
	if err := proto.Unmarshal(raw, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestBusyAgentDescribesItselfAnew wants each record to carry what its own message
// says, and snapshots what the last one said, however much is known already.
func TestBusyAgentDescribesItselfAnew(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		long := strings.Repeat("h", 600) // is not remembered
		var want []string
		for i, host := range []string{"one", "one", "one", "two", "one", "two", "two", long, "two", "two", "", "", "one"} {
			body := fmt.Appendf(nil, "record %d", i)
			if err := a.stream.Send(&agentpb.RawData{AgentId: a.id, Hostname: host, Records: []*agentpb.Record{{DataType: 59, Body: body}}}); err != nil {
				t.Fatal(err)
			}
			want = append(want, string(body)+" of "+host)
			synctest.Wait()
			if got, _ := w.srv.Session("a1"); got.Identity.Hostname != host || got.Records != uint64(i+1) {
				t.Errorf("after message %d: host %.10q and %d records, want %.10q", i, got.Identity.Hostname, got.Records, host)
			}
		}
		var got []string
		for _, raw := range w.log.of("a1") {
			r := mqData(t, raw)
			got = append(got, string(r.GetBody())+" of "+r.GetHostname())
			if r.GetAgentId() != "a1" {
				t.Errorf("a record of %q", r.GetAgentId())
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got): %s", diff)
		}
		a.id = "a2"
		a.send(record(59))
		if c := a.code(); c != codes.InvalidArgument {
			t.Errorf("another ID: %v", c)
		}
	})
}

func TestSnapshots(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		a.send(heartbeat("state", "running", "cpu", "0.5"), record(fleet.DataTypePluginHeartbeat, "name", "driver", "pversion", "2.0"), record(59))
		start := time.Now().Unix()
		time.Sleep(5 * time.Second)
		a.send(record(59))
		got, ok := w.srv.Session("a1")
		if !ok {
			t.Fatal("no session")
		}
		got.Epoch, got.RemoteAddr = 0, ""
		want := fleet.Session{
			Identity: fleet.Identity{
				AgentID: "a1", Hostname: "host-a1", Version: "1.9", Product: "elkeid-agent",
				IntranetIPv4: []string{}, ExtranetIPv4: []string{}, IntranetIPv6: []string{}, ExtranetIPv6: []string{},
			},
			Node: "n1", ConnectedAt: start, SeenAt: start + 5, HeartbeatAt: start, Records: 4,
			Heartbeat: map[string]string{"state": "running", "cpu": "0.5"},
			Plugins:   map[string]fleet.PluginHeartbeat{"driver": {At: start, Fields: map[string]string{"name": "driver", "pversion": "2.0"}}},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got): %s", diff)
		}
		if n := w.metric("sessions"); n != 1 || w.srv.SessionCount() != 1 || len(w.srv.Sessions()) != 1 {
			t.Errorf("%v sessions in the metric", n)
		}
		if diff := cmp.Diff([]string{"a1"}, w.srv.SessionIDs()); diff != "" {
			t.Error(diff)
		}
		a.cancel()
		w.eventually("gone", time.Second, func() bool { return w.srv.SessionCount() == 0 })
		if _, ok := w.srv.Session("a1"); ok {
			t.Error("the session outlived its stream")
		}
	})
}

// Clients keep what they send until they see headers.
func TestAnAcceptedStreamGetsItsHeadersAtOnce(t *testing.T) {
	for name, desired := range map[string]uint64{"no config": 0, "a config": 7} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				if desired != 0 {
					configured(w.store, desired)
				}
				a := w.openUnread("a1", grpc.UseCompressor(grpccodec.Snappy))
				var seen atomic.Bool
				w.running.Go(func() {
					if md, err := a.stream.Header(); err != nil || md == nil {
						t.Errorf("headers %v, %v", md, err)
					}
					seen.Store(true)
				})
				time.Sleep(time.Second)
				if seen.Load() {
					t.Error("headers before the agent said who it is")
				}
				a.send(record(59)) // no heartbeat: no command is due
				if !seen.Load() {
					t.Error("no headers after the first message")
				}
				a.beat()
				if desired != 0 {
					if c, err := a.stream.Recv(); err != nil || len(c.GetConfig()) != 1 {
						t.Errorf("config after the headers: %v, %v", c, err)
					}
				}
				a.cancel()
			})
		})
	}
}

func TestARefusedStreamGetsNoHeaders(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.openUnread("no agent ID")
		a.send(record(59))
		if md, err := a.stream.Header(); err != nil || md != nil {
			t.Errorf("headers %v, %v, want only the end of the stream", md, err)
		}
		a.cancel()
	})
}

func TestNewestStreamWins(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		old := w.open("a1", nil)
		old.beat()
		first, _ := w.srv.Session("a1")
		newer := w.open("a1", nil)
		newer.send(heartbeat("state", "running"), record(59))
		if got := old.code(); got != codes.Aborted {
			t.Errorf("the old stream ended with %v, want Aborted", got)
		}
		second, ok := w.srv.Session("a1")
		if !ok || second.Epoch <= first.Epoch || second.Records != 2 {
			t.Errorf("session after the replacement: %+v, the one before had epoch %d", second, first.Epoch)
		}
		time.Sleep(time.Minute) // whatever is left of the old session is gone by now
		if _, ok := w.srv.Session("a1"); !ok {
			t.Error("the end of the old stream took the new session with it")
		}
		newer.send(record(59))
		if n := len(w.log.of("a1")); n != 4 {
			t.Errorf("%d records, want 4", n)
		}
		if n := w.metric("closed_sessions_total", "cause", "replaced"); n != 1 {
			t.Errorf("replaced: %v, want 1", n)
		}
		newer.cancel()
	})
}

func TestReset(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		a.beat()
		got := w.srv.Reset([]string{"a1", "nobody"})
		if len(got) != 2 || got["a1"] != nil || !errors.Is(got["nobody"], fleet.ErrOffline) {
			t.Errorf("Reset = %v", got)
		}
		if code := a.code(); code != codes.Aborted {
			t.Errorf("the stream ended with %v", code)
		}
		w.eventually("gone", time.Second, func() bool { return w.srv.SessionCount() == 0 })
	})
}

func TestOneFullLogDoesNotStopOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		free := make(chan struct{})
		w.log.block(func(_ context.Context, key string) error {
			if key == "slow" {
				<-free
			}
			return nil
		})
		slow, quick := w.open("slow", nil), w.open("quick", nil)
		sent := 0
		blocked := make(chan struct{})
		w.running.Go(func() {
			defer close(blocked)
			for range 1000 {
				if slow.stream.Send(&agentpb.RawData{AgentId: "slow", Records: []*agentpb.Record{{Body: make([]byte, 4096)}}}) != nil {
					return
				}
				sent++
			}
		})
		synctest.Wait()
		if sent > 100 {
			t.Errorf("an agent whose records are not taken could send %d messages of 4 KiB", sent)
		}
		for i := range 50 {
			quick.send(record(59))
			if n := len(w.log.of("quick")); n != i+1 {
				t.Fatalf("%d records of the other agent, want %d", n, i+1)
			}
		}
		close(free)
		<-blocked
		w.eventually("all of the slow one", time.Minute, func() bool { return len(w.log.of("slow")) == 1000 })
		slow.cancel()
		quick.cancel()
	})
}

func TestStopLosesNothingThatWasReceived(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const agents = 10
		free := make(chan struct{})
		w.log.block(func(ctx context.Context, _ string) error {
			select {
			case <-free:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		var all []*agent
		for i := range agents {
			a := w.open(fmt.Sprintf("a%d", i), nil)
			a.beat()
			all = append(all, a)
		}
		start := time.Now()
		w.cancel()
		synctest.Wait()
		for _, a := range all {
			if code := a.code(); code != codes.Unavailable {
				t.Errorf("%s: the stream ended with %v, want Unavailable", a.id, code)
			}
		}
		time.Sleep(3 * time.Second) // the log is busy for a while
		close(free)
		w.running.Wait()
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("stopped after %v", took)
		}
		for _, a := range all {
			if n := len(w.log.of(a.id)); n != 1 {
				t.Errorf("%s: %d records of 1 received", a.id, n)
			}
		}
		// First sight and the disconnect are merged or follow each other.
		seen := make(map[string]bool)
		for _, r := range w.store.allReports() {
			seen[r.AgentID] = true
		}
		if len(seen) != agents {
			t.Errorf("%d agents were reported, want %d", len(seen), agents)
		}
	})
}

// A proposal that the stop cuts short is made again: it is no trouble to warn of.
func TestStopReportsLastSeenWithoutWarnings(t *testing.T) {
	var logs bytes.Buffer // written by the server only, read after its end
	inBubble(t, func(t *testing.T, w *world) {
		w.store.set(func(f *fakeStore) { f.subTask = known("a1", fleet.SubTaskSent) })
		agents := make(map[string]*agent)
		for _, id := range []string{"a1", "a2", "a3"} {
			agents[id] = w.open(id, nil)
			agents[id].beat()
		}
		time.Sleep(time.Minute)
		seen := time.Now().Unix()
		for _, a := range agents {
			a.send(record(59))
		}
		w.store.set(func(f *fakeStore) { // a store that takes its time
			f.report = func([]fleet.AgentReport) error { time.Sleep(200 * time.Millisecond); return nil }
			f.result = func([]fleet.TaskResult) error { time.Sleep(50 * time.Millisecond); return nil }
		})
		agents["a1"].send(heartbeat("kernel_version", "new"), record(fleet.DataTypeTaskResult, "token", "t.1", "status", "succeed"))
		time.Sleep(110 * time.Millisecond) // now both proposals are on their way
		start := time.Now()
		w.cancel()
		w.running.Wait()
		if took := time.Since(start); took > time.Second {
			t.Errorf("stopped after %v", took)
		}
		last := make(map[string]int64)
		for _, r := range w.store.allReports() {
			last[r.AgentID] = max(last[r.AgentID], r.SeenAt)
		}
		if diff := cmp.Diff(map[string]int64{"a1": seen, "a2": seen, "a3": seen}, last); diff != "" {
			t.Errorf("last seen (-want +got): %s", diff)
		}
		if n := len(w.store.allResults()); n != 1 {
			t.Errorf("%d results, want 1", n)
		}
		if logs.Len() > 0 {
			t.Errorf("logged at a clean stop:\n%s", logs.String())
		}
	}, func(o *agentrpc.Options) { o.Logger = slog.New(slog.NewTextHandler(&logs, nil)) })
}

func TestStopWhileATaskIsMarkedIsQuiet(t *testing.T) {
	var logs bytes.Buffer
	inBubble(t, func(t *testing.T, w *world) {
		w.store.set(func(f *fakeStore) {
			f.pending = func(string) []fleet.Dispatch {
				return []fleet.Dispatch{{TaskID: "t", AgentID: "a1", Number: 1, Kind: fleet.TaskKindTask, Command: scan("t.1")}}
			}
			f.mark = func([]fleet.TaskMark) ([]bool, error) { time.Sleep(time.Second); return []bool{true}, nil }
		})
		a := w.open("a1", nil)
		a.beat()
		time.Sleep(100 * time.Millisecond)
		if len(w.store.allMarks()) != 1 {
			t.Fatal("no mark is on its way")
		}
		w.cancel()
		w.running.Wait()
		if len(a.got()) != 0 || logs.Len() > 0 {
			t.Errorf("sent %v, logged:\n%s", a.got(), logs.String())
		}
	}, func(o *agentrpc.Options) { o.Logger = slog.New(slog.NewTextHandler(&logs, nil)) })
}

// What cannot be told is said once, at the end.
func TestReportsLostAtTheEndAreLogged(t *testing.T) {
	var logs bytes.Buffer
	inBubble(t, func(t *testing.T, w *world) {
		w.open("a1", nil).beat()
		time.Sleep(time.Second)
		w.store.set(func(f *fakeStore) { f.report = func([]fleet.AgentReport) error { return errAway } })
		w.cancel()
		w.running.Wait()
		if got := logs.String(); !strings.Contains(got, `level=ERROR msg="reports of agents lost at the end`) || !strings.Contains(got, "count=1") {
			t.Errorf("logged:\n%s", got)
		}
		if n := w.metric("reports_total", "outcome", "dropped"); n != 1 {
			t.Errorf("dropped: %v, want 1", n)
		}
	}, func(o *agentrpc.Options) { o.Logger = slog.New(slog.NewTextHandler(&logs, nil)) })
}

func TestStopIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.log.block(func(ctx context.Context, _ string) error {
			<-ctx.Done()
			return ctx.Err()
		})
		a := w.open("a1", nil)
		a.beat()
		w.store.set(func(f *fakeStore) { f.report = func([]fleet.AgentReport) error { return errAway } })
		start := time.Now()
		w.cancel()
		w.running.Wait()
		if took := time.Since(start); took > 9*time.Second {
			t.Errorf("stopped after %v, want 3 s for the log and 5 s for the store", took)
		}
		if n := w.metric("lost_records_total"); n != 1 {
			t.Errorf("lost: %v, want 1", n)
		}
	}, func(o *agentrpc.Options) { o.Tuning.DrainTimeout = 3 * time.Second })
}

func TestStopDoesNotWaitForHandshakes(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		conn, err := w.net.Host(agentIP).DialContext(context.Background(), "tcp", serverIP+":"+agentPort)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		start := time.Now()
		w.cancel()
		w.running.Wait()
		if took := time.Since(start); took > time.Second {
			t.Errorf("stopped after %v, because of a connection that says nothing", took)
		}
		_ = conn.Close()
	})
}

func TestADeadPeerIsNoticed(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		a.beat()
		w.net.Cut(agentIP)
		w.eventually("gone", 35*time.Second, func() bool { return w.srv.SessionCount() == 0 })
		w.net.Heal()
		a.cancel()
	})
}

func TestMissingOptions(t *testing.T) {
	_, err := agentrpc.New(agentrpc.Options{})
	if err == nil || err.Error() != "agentrpc: Options.Logger is missing" {
		t.Errorf("New = %v", err)
	}
}

// A stream counts from its begin: who comes from another node may have nothing to
// say for a minute.
func TestSilentStreamCounts(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		said, silent := w.open("a1", nil), w.open("a2", nil)
		said.beat()
		synctest.Wait()
		if sessions, streams := w.srv.SessionCount(), w.srv.StreamCount(); sessions != 1 || streams != 2 {
			t.Fatalf("%d sessions, %d streams; want 1, 2", sessions, streams)
		}
		<-time.After(61 * time.Second)
		silent.beat()
		synctest.Wait()
		if sessions, streams := w.srv.SessionCount(), w.srv.StreamCount(); sessions != 2 || streams != 2 {
			t.Fatalf("%d sessions, %d streams after the first heartbeat; want 2, 2", sessions, streams)
		}
		never := w.open("a3", nil)
		<-time.After(91 * time.Second)
		<-never.ended
		synctest.Wait()
		if streams := w.srv.StreamCount(); streams != 2 {
			t.Fatalf("%d streams after one without a word has ended; want 2", streams)
		}
	})
}
