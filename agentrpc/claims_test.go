// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"muster/agentrpc"
	"muster/fleet"
	"muster/internal/agentpb"
)

func mustMarshal(id string, records ...*agentpb.Record) []byte {
	raw, err := proto.Marshal(&agentpb.RawData{AgentId: id, Hostname: "host-" + id, Version: "1.9", Product: "elkeid-agent", Records: records})
	if err != nil {
		panic(err)
	}
	return raw
}

// mostTwice is how long an agent may be counted twice.
const mostTwice = 2 * time.Second

// skews are the clocks of three nodes.
func skews() map[string][]time.Duration {
	return map[string][]time.Duration{
		"equal clocks":     {0, 0, 0},
		"the old is ahead": {10 * time.Second, 0, 0},
		"the new is ahead": {0, 10 * time.Second, 0},
		"1970":             {0, -50 * 365 * 24 * time.Hour, 0},
	}
}

func TestAMovedAgentIsCountedOnce(t *testing.T) {
	for name, offsets := range skews() {
		t.Run(name, func(t *testing.T) {
			someNodes(t, offsets, func(t *testing.T, n *nodes) {
				a, b := n.worlds["n1"], n.worlds["n2"]
				a.open("a1", a.dialFrom("10.0.1.9", nil)).beat()
				time.Sleep(5 * time.Second)
				first, _ := a.srv.Session("a1")
				a.die("10.0.1.9")
				b.open("a1", nil).beat()
				if twice := n.watch("a1", 3*time.Second); twice >= mostTwice || twice > 100*time.Millisecond {
					t.Errorf("counted twice for %v", twice)
				}
				n.only("a1", "n2")
				if second, _ := b.srv.Session("a1"); second.Epoch <= first.Epoch {
					t.Errorf("epoch %d follows %d", second.Epoch, first.Epoch)
				}
				if got := a.metric("closed_sessions_total", "cause", "moved"); got != 1 {
					t.Errorf("moved: %v, want 1", got)
				}
				if got := b.metric("claims_total", "outcome", "refused"); got != 0 {
					t.Errorf("refused: %v, want none", got)
				}
				reports := len(a.store.allReports())
				time.Sleep(time.Minute) // keepalive has found the dead stream
				n.only("a1", "n2")
				if got := len(a.store.allReports()); got != reports {
					t.Errorf("the node that lost the agent made %d more reports", got-reports)
				}
			})
		})
	}
}

// The old stream gets a status, as from a newer stream to the same node.
func TestALiveStreamThatLosesIsAborted(t *testing.T) {
	someNodes(t, make([]time.Duration, 2), func(t *testing.T, n *nodes) {
		old := n.worlds["n1"].open("a1", nil)
		old.beat()
		time.Sleep(time.Second)
		n.worlds["n2"].open("a1", nil).beat()
		if got := old.code(); got != codes.Aborted {
			t.Errorf("the old stream ended with %v, want Aborted", got)
		}
		n.only("a1", "n2")
	})
}

// A node that did not hear of the old session gives the new one a lower epoch.
func TestARefusedStreamThatDeliversTakesTheNextEpoch(t *testing.T) {
	someNodes(t, []time.Duration{10 * time.Second, 0, 0}, func(t *testing.T, n *nodes) {
		a, b := n.worlds["n1"], n.worlds["n2"]
		n.part("n1", "n2", true)
		n.part("n2", "n3", true) // which would pass it on
		time.Sleep(time.Second)
		a.open("a1", a.dialFrom("10.0.1.9", nil)).beat()
		held, _ := a.srv.Session("a1")
		a.die("10.0.1.9")
		live := b.open("a1", nil)
		live.beat()
		defer b.chatter(live)()
		time.Sleep(time.Second)
		if got, _ := b.srv.Session("a1"); got.Epoch >= held.Epoch {
			t.Fatalf("epoch %d is not below %d: nothing to test", got.Epoch, held.Epoch)
		}
		n.setFault(func(from, to string, _ int) fault { return fault{loseCall: from == "n1"} }) // b speaks first
		n.heal()
		if twice := n.watch("a1", 5*time.Second); twice >= mostTwice {
			t.Errorf("counted twice for %v after the nodes met", twice)
		}
		n.only("a1", "n2")
		if got, _ := b.srv.Session("a1"); got.Epoch != held.Epoch+1 {
			t.Errorf("epoch %d, want the next after %d", got.Epoch, held.Epoch)
		}
		if got := b.metric("claims_total", "outcome", "refused"); got != 1 {
			t.Errorf("refused: %v, want 1", got)
		}
	})
}

func TestARefusedStreamThatIsSilentEndsAndItsAgentReturns(t *testing.T) {
	someNodes(t, []time.Duration{10 * time.Second, 0}, func(t *testing.T, n *nodes) {
		a, b := n.worlds["n1"], n.worlds["n2"]
		n.part("n1", "n2", true)
		time.Sleep(time.Second)
		a.open("a1", a.dialFrom("10.0.1.9", nil)).beat()
		a.die("10.0.1.9")
		live := b.open("a1", nil)
		live.beat()
		time.Sleep(time.Second)
		n.setFault(func(from, to string, _ int) fault { return fault{loseCall: from == "n1"} })
		n.heal()
		if twice := n.watch("a1", 3*time.Second); twice >= mostTwice {
			t.Errorf("counted twice for %v", twice)
		}
		if got := live.code(); got != codes.Aborted {
			t.Errorf("ended with %v, want Aborted", got)
		}
		if got := b.metric("closed_sessions_total", "cause", "outclaimed"); got != 1 {
			t.Errorf("outclaimed: %v, want 1", got)
		}
		n.only("a1", "n1")
		b.open("a1", nil).beat() // as an agent does after 5 s
		if twice := n.watch("a1", 3*time.Second); twice >= mostTwice {
			t.Errorf("counted twice for %v after the return", twice)
		}
		n.only("a1", "n2")
	})
}

// Two clocks that never met can make the same epoch.
func TestEqualEpochs(t *testing.T) {
	for _, live := range []string{"n1", "n2"} {
		t.Run("lives on "+live, func(t *testing.T) {
			someNodes(t, make([]time.Duration, 2), func(t *testing.T, n *nodes) {
				n.part("n1", "n2", true)
				time.Sleep(time.Second)
				for id, w := range n.worlds {
					ag := w.open("a1", w.dialFrom("10.0.1.9", nil))
					ag.t = t
					if err := ag.stream.SendMsg(mustMarshal("a1", heartbeat("state", "running"))); err != nil {
						t.Fatal(err)
					}
					if id == live {
						defer w.chatter(ag)()
					}
				}
				synctest.Wait()
				one, _ := n.worlds["n1"].srv.Session("a1")
				two, _ := n.worlds["n2"].srv.Session("a1")
				if one.Epoch != two.Epoch {
					t.Fatalf("epochs %d and %d differ: nothing to test", one.Epoch, two.Epoch)
				}
				n.heal()
				if twice := n.watch("a1", 5*time.Second); twice >= mostTwice {
					t.Errorf("counted twice for %v", twice)
				}
				n.only("a1", live)
			})
		})
	}
}

func TestCallsThatGoWrong(t *testing.T) {
	for name, f := range map[string]func(from, to string, nth int) fault{
		"the first calls are lost":   func(_, _ string, nth int) fault { return fault{loseCall: nth == 1} },
		"the first answers are lost": func(_, _ string, nth int) fault { return fault{loseReply: nth == 1} },
		"calls are slow":             func(_, _ string, _ int) fault { return fault{before: 900 * time.Millisecond} },
		"answers are slow":           func(_, _ string, _ int) fault { return fault{after: 900 * time.Millisecond} },
		"calls are heard twice":      func(_, _ string, _ int) fault { return fault{twice: true} },
		"every second one is lost":   func(_, _ string, nth int) fault { return fault{loseReply: nth%2 == 0} },
		"too slow for the first try": func(_, _ string, _ int) fault { return fault{after: 1500 * time.Millisecond} },
	} {
		t.Run(name, func(t *testing.T) {
			someNodes(t, []time.Duration{10 * time.Second, 0, -10 * time.Second}, func(t *testing.T, n *nodes) {
				n.setFault(f)
				order := []string{"n1", "n2", "n3", "n1", "n3", "n2"}
				for i, id := range order {
					w, ip := n.worlds[id], fmt.Sprint("10.0.2.", i+1)
					ag := w.open("a1", w.dialFrom(ip, nil))
					ag.beat()
					stop := w.chatter(ag)
					if twice := n.watch("a1", 3*time.Second); twice >= mostTwice {
						t.Errorf("move %d: counted twice for %v", i, twice)
					}
					time.Sleep(9 * time.Second)
					n.only("a1", id)
					stop()
					w.die(ip)
				}
				time.Sleep(10 * time.Second)
				for _, id := range n.ids() {
					if got := n.worlds[id].metric("claims_pending"); got != 0 {
						t.Errorf("%s: %v claims wait at the end", id, got)
					}
				}
			})
		})
	}
}

func TestAPartitionThatHeals(t *testing.T) {
	for name, known := range map[string]bool{"the nodes do not notice": false, "the nodes notice": true} {
		for clocks, offsets := range skews() {
			t.Run(name+", "+clocks, func(t *testing.T) {
				someNodes(t, offsets, func(t *testing.T, n *nodes) {
					a, b := n.worlds["n1"], n.worlds["n2"]
					for i := range 5 {
						a.open(fmt.Sprint("old", i), a.dialFrom("10.0.1.9", nil)).beat()
					}
					time.Sleep(time.Second)
					n.part("n1", "n2", known)
					n.part("n1", "n3", known)
					a.die("10.0.1.9")
					for i := range 5 {
						ag := b.open(fmt.Sprint("old", i), nil)
						ag.beat()
						defer b.chatter(ag)()
					}
					time.Sleep(15 * time.Second)
					if got := len(n.holders("old0")); got != 2 {
						t.Fatalf("%d nodes hold an agent while they cannot speak, want 2", got)
					}
					n.heal()
					n.watch("old0", mostTwice-10*time.Millisecond)
					if !known { // a call that hangs has up to 8 s
						time.Sleep(8 * time.Second)
					}
					for i := range 5 {
						n.only(fmt.Sprint("old", i), "n2")
					}
				})
			})
		}
	}
}

// What is pending is bounded by the sessions that are there.
func TestClaimsOfSessionsThatEndedAreDropped(t *testing.T) {
	someNodes(t, make([]time.Duration, 2), func(t *testing.T, n *nodes) {
		n.part("n1", "n2", false)
		w := n.worlds["n1"]
		conn := w.dial(nil)
		for round := range 5 {
			var all []*agent
			for i := range 5 {
				a := w.open(fmt.Sprint("a", i), conn)
				a.beat()
				all = append(all, a)
			}
			time.Sleep(3 * time.Second)
			if got := w.metric("claims_pending"); got < 5 || got > 10 {
				t.Errorf("round %d: %v claims wait, want those of 5 sessions, and those of the call that hangs", round, got)
			}
			for _, a := range all {
				a.cancel()
			}
			time.Sleep(time.Second)
		}
		time.Sleep(10 * time.Second)
		if got := w.metric("claims_pending"); got != 0 {
			t.Errorf("%v claims wait, want none", got)
		}
		w.open("first", conn).beat() // a call that hangs
		time.Sleep(time.Second)
		for i := range 20 { // while it does
			a := w.open(fmt.Sprint("b", i), conn)
			a.beat()
			a.cancel()
		}
		time.Sleep(10 * time.Millisecond)
		if got := w.metric("claims_pending"); got != 1 {
			t.Errorf("%v claims wait, want that of the session that is left", got)
		}
		n.heal()
	})
}

func TestClaimsShareCalls(t *testing.T) {
	someNodes(t, make([]time.Duration, 3), func(t *testing.T, n *nodes) {
		time.Sleep(time.Second)
		w := n.worlds["n1"]
		conns := []int{0, 1, 2, 3, 4, 5}
		for range conns {
			conn := w.dial(nil)
			for i := range 15 {
				a := w.open(fmt.Sprint("a", len(w.clients), "-", i), conn)
				if err := a.stream.SendMsg(mustMarshal(a.id, heartbeat())); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(2 * time.Second)
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, to := range []string{"n2", "n3"} {
			if diff := cmp.Diff([]int{90}, n.sizes[[2]string{"n1", to}]); diff != "" {
				t.Errorf("calls to %s (-want +got): %s", to, diff)
			}
		}
	})
}

func TestHandleClaims(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		a.beat()
		held, _ := w.srv.Session("a1")
		for _, lower := range []uint64{0, held.Epoch - 1, held.Epoch} {
			got := w.srv.HandleClaims([]fleet.Claim{{AgentID: "a1", Epoch: lower}, {AgentID: "a2", Epoch: lower}, {AgentID: "a1", Epoch: lower}})
			want := []fleet.Claim{{AgentID: "a1", Epoch: held.Epoch}, {AgentID: "a1", Epoch: held.Epoch}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("claim with %d (-want +got): %s", lower, diff)
			}
		}
		later := []fleet.Claim{{AgentID: "a1", Epoch: held.Epoch + 1}}
		for range 2 {
			if got := w.srv.HandleClaims(later); got != nil {
				t.Errorf("refused: %v", got)
			}
			if w.srv.SessionCount() != 0 {
				t.Error("the session is still counted")
			}
		}
		if code := a.code(); code != codes.Aborted {
			t.Errorf("ended with %v", code)
		}
		if got := w.srv.HandleClaims(nil); got != nil {
			t.Errorf("refused: %v", got)
		}
		for outcome, want := range map[string]float64{"no_session": 4, "yielded": 1, "refused": 6} {
			if got := w.metric("heard_claims_total", "outcome", outcome); got != want {
				t.Errorf("%s: %v, want %v", outcome, got, want)
			}
		}
		far := held.Epoch + 3_600_000_000
		w.srv.HandleClaims([]fleet.Claim{{AgentID: "a9", Epoch: far}})
		w.open("a9", nil).beat()
		if got, _ := w.srv.Session("a9"); got.Epoch <= far {
			t.Errorf("epoch %d after one of %d was heard", got.Epoch, far)
		}
	})
}

// A node whose stream is blocked in a write counts the agent no longer either.
func TestALostSessionThatIsBlockedIsNotCounted(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var revision atomic.Uint64
		w.store.set(func(f *fakeStore) {
			f.desired = func(string) (fleet.Desired, error) {
				return fleet.Desired{Revision: revision.Load(), Config: []fleet.ConfigItem{{Name: "p", Detail: strings.Repeat("x", 4<<20)}}}, nil
			}
		})
		a := w.openUnread("a1")
		a.beat()
		b := w.openUnread("b1")
		b.beat()
		for range 4 { // the first ones fill what the connection takes unread
			revision.Add(1)
			w.store.notify(fleet.TableDesired)
			time.Sleep(time.Second)
		}
		held, _ := w.srv.Session("a1")
		if reset, _ := w.srv.Session("b1"); max(held.ConfigRevision, reset.ConfigRevision) == revision.Load() {
			t.Fatal("all configs were written: no session is blocked")
		}
		w.srv.Reset([]string{"b1"})
		if got := w.srv.HandleClaims([]fleet.Claim{{AgentID: "b1"}}); got != nil {
			t.Errorf("a session that has ended refuses a claim: %v", got)
		}
		w.srv.HandleClaims([]fleet.Claim{{AgentID: "a1", Epoch: held.Epoch + 1}})
		synctest.Wait()
		for _, id := range []string{"a1", "b1"} {
			if _, ok := w.srv.Session(id); ok {
				t.Errorf("the session of %s is still counted", id)
			}
		}
		time.Sleep(time.Minute)
		a.cancel()
		b.cancel()
	})
}

func TestAStopDoesNotWaitForASilentNode(t *testing.T) {
	someNodes(t, make([]time.Duration, 2), func(t *testing.T, n *nodes) {
		n.part("n1", "n2", false)
		w := n.worlds["n1"]
		w.open("a1", nil).beat()
		time.Sleep(5 * time.Second) // a call hangs
		start := time.Now()
		w.stop()
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("stopped after %v", took)
		}
	})
}

var _ agentrpc.Claims = (*peersOf)(nil)
