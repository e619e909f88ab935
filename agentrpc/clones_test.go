// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"muster/agentrpc"
	"muster/fleet"
	"muster/internal/agentpb"
)

// host is an agent as a stock one behaves: when its stream ends, it opens
// another 5 s later, to the same node.
func (w *world) host(id, ip string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	conn := w.dialFrom(ip, nil)
	w.running.Go(func() {
		for ctx.Err() == nil {
			w.live(ctx, id, conn)
			wait(ctx, 5*time.Second)
		}
	})
	return cancel
}

// live opens a stream and delivers something every 100 ms until it ends.
func (w *world) live(ctx context.Context, id string, conn *grpc.ClientConn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := agentpb.NewTransferClient(conn).Transfer(ctx)
	if err != nil {
		return
	}
	w.running.Go(func() {
		defer cancel()
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
		}
	})
	for raw := mustMarshal(id, heartbeat("state", "running")); stream.SendMsg(raw) == nil; raw = mustMarshal(id, record(59)) {
		if !wait(ctx, 100*time.Millisecond) {
			return
		}
	}
}

// Two hosts with one ID on two nodes take the agent from each other as often as
// they come back, and not more often.
func TestClonesAreToldAndDoNotFight(t *testing.T) {
	for name, offsets := range skews() {
		t.Run(name, func(t *testing.T) {
			someNodes(t, offsets, func(t *testing.T, n *nodes) {
				a, b := n.worlds["n1"], n.worlds["n2"]
				honest := n.worlds["n3"].host("honest", "10.0.1.8")
				one := a.host("twin", "10.0.1.1")
				time.Sleep(2 * time.Second)
				two := b.host("twin", "10.0.1.2")
				if twice := n.watch("twin", time.Minute); twice > 3*time.Second {
					t.Errorf("counted twice for %v of a minute", twice)
				}
				closed := func() float64 {
					var sum float64
					for _, w := range []*world{a, b} {
						sum += w.metric("closed_sessions_total", "cause", "moved") + w.metric("closed_sessions_total", "cause", "outclaimed")
					}
					return sum
				}
				first := closed()
				time.Sleep(2 * time.Minute)
				if perMinute := (closed() - first) / 2; perMinute > 13 || perMinute < 5 {
					t.Errorf("%v sessions end a minute, want one each time that an agent returns after 5 s", perMinute)
				}
				two()
				time.Sleep(10 * time.Second)
				n.only("twin", "n1")
				n.only("honest", "n3")
				found := a.metric("cloned_identities_total") + b.metric("cloned_identities_total")
				if found < 4 || found > 8 {
					t.Errorf("told %v times in 3 minutes by two nodes", found)
				}
				one()
				honest()
				n.stop()
				var lines []string
				for _, id := range n.ids() {
					for line := range strings.Lines(n.logs[id].String()) {
						if strings.Contains(line, "several hosts use one agent ID") {
							lines = append(lines, line)
						}
					}
				}
				if len(lines) != int(found) || !strings.Contains(lines[0], "agent_id=twin") || !strings.Contains(lines[0], "remote=10.0.1.") {
					t.Errorf("%d lines, want %v like\n%s", len(lines), found, lines)
				}
			})
		})
	}
}

// While its ID is known as a clone's, a refused session takes no higher epoch.
func TestARefusedCloneEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		epoch := uint64(time.Now().Add(time.Hour).UnixMicro())
		for range 2 { // lost, won back, lost
			w.open("a1", nil).beat()
			epoch += 1_000_000
			w.srv.HandleClaims([]fleet.Claim{{AgentID: "a1", Epoch: epoch}})
		}
		if got := w.metric("cloned_identities_total"); got != 1 {
			t.Fatalf("found %v times, want once", got)
		}
		a := w.open("a1", nil)
		a.beat()
		defer w.chatter(a)()
		time.Sleep(time.Second)
		if got := w.metric("closed_sessions_total", "cause", "outclaimed"); got != 1 {
			t.Errorf("outclaimed: %v, want 1", got)
		}
		if got := w.metric("claims_total", "outcome", "refused"); got != 1 {
			t.Errorf("%v claims of the clone were refused, want the first one alone", got)
		}
		a.code()
	}, func(o *agentrpc.Options) { o.Peers = refuser{} })
}

// refuser is a node that has a newer session of every agent.
type refuser struct{}

func (refuser) Nodes() []string { return []string{"n2"} }

func (refuser) Claim(_ context.Context, _ string, claims []fleet.Claim) ([]fleet.Claim, error) {
	out := slices.Clone(claims)
	for i := range out {
		out[i].Epoch += 1000
	}
	return out, nil
}

// A node may refuse as often as it likes: a session takes a higher epoch once.
func TestASessionIsRaisedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		a.beat()
		defer w.chatter(a)()
		first, _ := w.srv.Session("a1")
		// Each refusal is judged at the next tick, whose order to the agent's
		// messages is open.
		var epochs []uint64
		for range 100 {
			time.Sleep(5 * time.Millisecond)
			now, ok := w.srv.Session("a1")
			if !ok {
				break
			}
			if len(epochs) == 0 || epochs[len(epochs)-1] != now.Epoch {
				epochs = append(epochs, now.Epoch)
			}
		}
		if want := []uint64{first.Epoch, first.Epoch + 1001}; !slices.Equal(epochs, want) {
			t.Errorf("epochs %d, refused with ones 1000 higher, want %d", epochs, want)
		}
		if _, ok := w.srv.Session("a1"); ok {
			t.Error("the session goes on after a second refusal")
		}
		a.code()
	}, func(o *agentrpc.Options) { o.Peers = refuser{} })
}

// The node that has lost an agent says nothing about it any more, not even what
// it had still to say.
func TestALostAgentIsNotReported(t *testing.T) {
	for name, tc := range map[string]struct {
		ends bool
		at   time.Duration
	}{
		"its stream is open, the report waits":           {false, 100 * time.Millisecond},
		"its stream is open, the report is on its way":   {false, 1400 * time.Millisecond},
		"its stream has ended, the report waits":         {true, 100 * time.Millisecond},
		"its stream has ended, the report is on its way": {true, 1400 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.store.set(func(f *fakeStore) {
					f.report = func([]fleet.AgentReport) error { time.Sleep(300 * time.Millisecond); return errAway }
				})
				all := make(map[string]*agent)
				for i := range 3 {
					id := fmt.Sprint("a", i)
					all[id] = w.open(id, nil)
					all[id].beat()
				}
				if tc.ends {
					all["a1"].cancel()
					synctest.Wait()
				}
				time.Sleep(tc.at) // of the first proposal, or of the second that has all
				w.srv.HandleClaims([]fleet.Claim{{AgentID: "a1", Epoch: uint64(time.Now().Add(time.Hour).UnixMicro())}})
				time.Sleep(10 * time.Second)
				w.store.set(func(f *fakeStore) { f.report = nil })
				time.Sleep(10 * time.Second)
				got := make(map[string]bool)
				for _, r := range w.store.allReports() {
					got[r.AgentID] = true
				}
				if !got["a0"] || !got["a2"] || got["a1"] {
					t.Errorf("reported: %v, want a0 and a2", got)
				}
				// It comes back, and is reported again.
				w.open("a1", nil).beat()
				time.Sleep(time.Second)
				if r := w.store.allReports(); r[len(r)-1].AgentID != "a1" {
					t.Errorf("the last report is of %s, want a1", r[len(r)-1].AgentID)
				}
			})
		})
	}
}
