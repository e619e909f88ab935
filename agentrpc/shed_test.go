// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"

	"muster/fleet"
	"muster/internal/agentpb"
)

// crowdOf opens streams of n agents, each from an address of its own, or all
// from one.
func (w *world) crowdOf(n int, name, oneIP string) []*agent {
	w.t.Helper()
	out := make([]*agent, n)
	for i := range out {
		ip := oneIP
		if ip == "" {
			ip = fmt.Sprintf("10.1.%d.%d", i/250, i%250+1)
		}
		out[i] = w.open(fmt.Sprint(name, i), w.dialFrom(ip, nil))
		out[i].beat()
	}
	return out
}

// ended counts the agents whose stream has ended.
func ended(agents []*agent) int {
	n := 0
	for _, a := range agents {
		select {
		case <-a.ended:
			n++
		default:
		}
	}
	return n
}

// refusedAt tells whether a connection from ip is reset at once.
func (w *world) refusedAt(ip string) bool {
	w.t.Helper()
	conn, err := w.net.Host(ip).DialContext(context.Background(), "tcp", net.JoinHostPort(serverIP, agentPort))
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(time.Second))
	_, err = conn.Read(make([]byte, 1))
	return errors.Is(err, syscall.ECONNRESET)
}

func TestShed(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		agents := w.crowdOf(30, "a", "")
		if n := w.srv.Shed(0) + w.srv.Shed(-1); n != 0 {
			t.Errorf("shed %d when asked for none", n)
		}
		if n := w.srv.Shed(10); n != 10 {
			t.Fatalf("Shed(10) = %d", n)
		}
		if n := w.srv.SessionCount(); n != 20 {
			t.Errorf("%d sessions at once after, want 20", n)
		}
		w.eventually("streams end", time.Second, func() bool { return ended(agents) == 10 })
		w.eventually("sessions are gone", time.Second, func() bool { return len(w.srv.SessionIDs()) == 20 })
		for i, a := range agents {
			ip := fmt.Sprintf("10.1.0.%d", i+1)
			select {
			case <-a.ended:
				if a.code() != codes.Unavailable || !w.refusedAt(ip) {
					t.Errorf("%s is shed: %v, refused %v", a.id, a.err, w.refusedAt(ip))
				}
			default:
				if w.refusedAt(ip) {
					t.Errorf("%s is not shed and refused", a.id)
				}
			}
		}
		if n := w.srv.Shed(100); n != 20 {
			t.Errorf("Shed of more than there are = %d, want 20", n)
		}
		w.eventually("all are gone", time.Second, func() bool { return w.srv.SessionCount() == 0 && len(w.srv.SessionIDs()) == 0 && ended(agents) == 30 })
		if n := w.srv.Shed(1); n != 0 {
			t.Errorf("shed %d of none", n)
		}
		if n := w.metric("shed_total"); n != 30 {
			t.Errorf("shed: %v, want 30", n)
		}
		w.eventually("every agent is reported at its end", time.Second, func() bool { return len(w.store.allReports()) >= 30 })
		pass(30 * time.Second)
		again := w.open("a1", w.dialFrom("10.1.0.2", nil))
		again.beat()
		if n := w.srv.SessionCount(); n != 1 {
			t.Errorf("after 30 s: %d sessions, want 1", n)
		}
	})
}

// What an agent had written is taken, though the log takes it later than the
// agent has gone.
func TestShedTakesWhatWasWritten(t *testing.T) {
	for _, tt := range []struct {
		name  string
		takes time.Duration // the log, for one message
	}{{"a slow log", 20 * time.Millisecond}, {"a log that waits", 3 * time.Second}} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a := w.open("a1", nil)
				a.beat()
				first := true
				w.log.block(func(context.Context, string) error {
					if first || tt.takes < time.Second {
						pass(tt.takes)
					}
					first = false
					return nil
				})
				for range 100 { // more than half of the window: it has to be updated meanwhile
					a.send(record(59, "exe", strings.Repeat("x", 500)))
				}
				if n := w.srv.Shed(1); n != 1 {
					t.Fatalf("Shed(1) = %d", n)
				}
				if a.code() != codes.Unavailable { // long before the log has taken it
					t.Errorf("the stream ended with %v", a.err)
				}
				w.eventually("all is taken", 10*time.Second, func() bool { return len(w.srv.SessionIDs()) == 0 })
				if got := len(w.log.of("a1")); got != 101 {
					t.Errorf("%d records arrived, want 101", got)
				}
			})
		})
	}
}

// A log that takes nothing from one agent does not hold up the parting of others.
func TestShedDoesNotWaitForOtherAgents(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		stuck := w.open("stuck", nil)
		stuck.beat()
		w.log.block(func(ctx context.Context, key string) error {
			if key != "stuck" {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		stuck.send(record(59))
		if n := w.metric("appending_messages"); n != 1 {
			t.Fatalf("%v messages wait for the log, not 1", n)
		}
		w.crowdOf(5, "other", "")
		if n := w.srv.Shed(6); n != 6 {
			t.Fatalf("Shed(6) = %d", n)
		}
		w.eventually("only that agent is left", time.Second, func() bool { return slices.Equal(w.srv.SessionIDs(), []string{"stuck"}) })
	})
}

// An agent that does not end its side is cut off after 2 s.
func TestShedOfAnAgentThatDoesNotAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		a.beat()
		w.die(agentIP)
		start := time.Now()
		if n := w.srv.Shed(1); n != 1 {
			t.Fatalf("Shed(1) = %d", n)
		}
		w.eventually("the session is gone", 3*time.Second, func() bool { return len(w.srv.SessionIDs()) == 0 })
		if took := time.Since(start); took < 2*time.Second {
			t.Errorf("it had %v to end its side, want 2 s", took)
		}
		w.eventually("its connection is closed", time.Second, func() bool { return w.metric("connections") == 0 })
		a.cancel()
	})
}

// Agents behind one address are shed last, and nobody new comes from there
// meanwhile; established sessions stay.
func TestShedOfCrowds(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const nat = "10.9.9.9"
		behind, single := w.crowdOf(21, "nat", nat), w.crowdOf(20, "a", "")
		w.srv.Shed(20)
		w.eventually("streams end", time.Second, func() bool { return ended(single)+ended(behind) == 20 })
		if ended(behind) != 0 || w.refusedAt(nat) {
			t.Errorf("%d of the crowd were shed before others; refused: %v", ended(behind), w.refusedAt(nat))
		}
		if n := w.srv.Shed(3); n != 3 {
			t.Fatalf("Shed(3) = %d", n)
		}
		w.eventually("streams end", time.Second, func() bool { return ended(behind) == 3 })
		if !w.refusedAt(nat) {
			t.Error("a new connection from the crowd's address is taken")
		}
		if n := w.srv.SessionCount(); n != 18 {
			t.Errorf("%d sessions stayed, want 18", n)
		}
	})
}

// Twenty agents of one address are no crowd yet.
func TestShedDoesNotSpareSmallCrowds(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		behind := w.crowdOf(20, "nat", "10.9.9.9")
		single := w.crowdOf(1, "a", "")
		w.srv.Shed(20)
		w.eventually("streams end", time.Second, func() bool { return ended(behind)+ended(single) == 20 })
		if ended(behind) < 19 {
			t.Errorf("%d of 20 behind one address were shed, want 19 or 20", ended(behind))
		}
	})
}

// An agent that uploads a file is shed after all others.
func TestShedSparesUploads(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		crowd := w.crowdOf(25, "nat", "10.9.9.9")
		conn := w.dial(nil)
		a := w.open("a1", conn)
		a.beat()
		w.asksForFile(fleet.DataTypeAgentUpload)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		up, err := agentpb.NewFileExtClient(conn).Upload(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := up.Send(&agentpb.UploadRequest{Token: "t.1", Data: []byte("part")}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.srv.Shed(25)
		w.eventually("streams end", time.Second, func() bool { return ended(crowd) == 25 })
		if ended([]*agent{a}) != 0 {
			t.Error("the agent that uploads was shed before others")
		}
		if n := w.srv.Shed(1); n != 1 {
			t.Errorf("alone it is not shed: %d", n)
		}
		w.eventually("stream ends", time.Second, func() bool { return ended([]*agent{a}) == 1 })
	})
}

// A session that was replaced by a newer stream, one that has not joined and one
// that is being shed are not chosen.
func TestShedChoosesOnlyPresentSessions(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		first := w.open("a1", w.dialFrom("10.1.0.1", nil))
		first.beat()
		second := w.open("a1", w.dialFrom("10.1.0.2", nil))
		second.beat()
		silent := w.open("a2", w.dialFrom("10.1.0.3", nil))
		synctest.Wait()
		if n := w.srv.Shed(10); n != 1 {
			t.Errorf("Shed = %d, want 1", n)
		}
		if n := w.srv.Shed(10); n != 0 {
			t.Errorf("Shed once more = %d, want 0", n)
		}
		if first.code() != codes.Aborted || second.code() != codes.Unavailable || ended([]*agent{silent}) != 0 {
			t.Errorf("ends: %v, %v; silent %d", first.code(), second.code(), ended([]*agent{silent}))
		}
		if w.refusedAt("10.1.0.1") || !w.refusedAt("10.1.0.2") || w.refusedAt("10.1.0.3") {
			t.Error("not the shed session's address alone is refused")
		}
		silent.cancel()
	})
}

// A session that is replaced while it is shed ends once, and the newer one stays.
func TestShedOfASessionThatIsReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		first := w.open("a1", w.dialFrom("10.1.0.1", nil))
		first.beat()
		newer := w.open("a1", w.dialFrom("10.1.0.2", nil))
		synctest.Wait()
		if n := w.srv.Shed(1); n != 1 {
			t.Fatalf("Shed(1) = %d", n)
		}
		newer.beat()
		pass(10 * time.Second)
		if n := w.srv.SessionCount(); n != 1 || ended([]*agent{newer}) != 0 || ended([]*agent{first}) != 1 {
			t.Errorf("%d sessions; newer ended %d, first ended %d", n, ended([]*agent{newer}), ended([]*agent{first}))
		}
		newer.cancel()
	})
}

// Nothing is sent to an agent that is shed: a task would be marked as sent and
// not arrive.
func TestShedLeavesTasksToOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var book taskBook
		book.install(w.store)
		a := w.open("a1", nil)
		a.beat()
		if n := w.srv.Shed(1); n != 1 {
			t.Fatalf("Shed(1) = %d", n)
		}
		book.put(task("t", "a1", fleet.DeliveryOnce))
		w.store.notify(fleet.TableTasks)
		pass(10 * time.Second)
		if marks, got := w.store.allMarks(), a.got(); len(marks) != 0 || len(got) != 0 {
			t.Errorf("marked %v, sent %v to an agent that was shed", marks, got)
		}
	})
}

// What was sent just before arrives.
func TestShedAfterASend(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var book taskBook
		book.install(w.store)
		agents := w.crowdOf(30, "a", "")
		for i, a := range agents {
			book.put(task(fmt.Sprint("t", i), a.id, fleet.DeliveryOnce))
		}
		w.store.notify(fleet.TableTasks)
		pass(40 * time.Millisecond) // they are sent within 50
		for end := time.Now().Add(time.Second); time.Now().Before(end); pass(time.Millisecond) {
			w.srv.Shed(1)
		}
		if marked := len(w.store.allMarks()); marked == 0 {
			t.Fatal("no task was sent")
		}
		for _, m := range w.store.allMarks() {
			i, _ := strconv.Atoi(strings.TrimPrefix(m.TaskID, "t"))
			if got := len(agents[i].got()); got != 1 {
				t.Errorf("%s got %d tasks, marked as sent: 1", agents[i].id, got)
			}
		}
	})
}

func TestShedDuringStop(t *testing.T) {
	for _, wait := range []time.Duration{0, 20 * time.Millisecond, 60 * time.Millisecond, time.Second} {
		t.Run(wait.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				agents := w.crowdOf(10, "a", "")
				w.net.Partition("10.1.0.1", serverIP) // it will not answer
				if n := w.srv.Shed(5); n != 5 {
					t.Fatalf("Shed(5) = %d", n)
				}
				pass(wait)
				w.cancel()
				for range 50 {
					w.srv.Shed(1)
					pass(time.Millisecond)
				}
				pass(10 * time.Second)
				if n := w.metric("connections"); n != 0 {
					t.Errorf("%v connections after the stop", n)
				}
				agents[0].cancel() // it will never know
				w.running.Wait()
				if n := w.srv.Shed(5); n != 0 {
					t.Errorf("Shed after the stop = %d", n)
				}
			})
		})
	}
}

func TestRefuseNew(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		a.beat()
		w.srv.RefuseNew(true)
		if !w.refusedAt("10.1.0.1") || w.srv.SessionCount() != 1 {
			t.Error("a new connection is taken, or the old one is gone")
		}
		if n := w.metric("refused_total", "reason", "draining"); n != 1 {
			t.Errorf("refused as draining: %v, want 1", n)
		}
		w.srv.RefuseNew(false)
		w.open("a2", nil).beat()
		if n := w.srv.SessionCount(); n != 2 {
			t.Errorf("%d sessions, want 2", n)
		}
	})
}

// Who was sent away from a node that was to be empty may come back at once when
// it is not any more.
func TestRefuseNoMore(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		crowd := w.crowdOf(2, "a", "10.1.0.1")
		w.srv.RefuseNew(true)
		if shed := w.srv.Shed(2); shed != 2 {
			t.Fatalf("%d shed, want 2", shed)
		}
		for _, a := range crowd {
			a.conn.Close()
		}
		w.srv.RefuseNew(false)
		if w.refusedAt("10.1.0.1") {
			t.Error("an agent is refused by a node that takes agents again")
		}
	})
}

// A shed agent's next session wins on another node as any other does, also while
// this node has not yet seen its end.
func TestShedAgentIsTakenElsewhere(t *testing.T) {
	someNodes(t, []time.Duration{0, -2 * time.Second}, func(t *testing.T, n *nodes) {
		w1, w2 := n.worlds["n1"], n.worlds["n2"]
		a := w1.open("a1", nil)
		a.beat()
		pass(time.Second)
		w1.die(agentIP) // so that the end is not seen
		if got := w1.srv.Shed(1); got != 1 {
			t.Fatalf("Shed(1) = %d", got)
		}
		b := w2.open("a1", nil)
		b.beat()
		pass(10 * time.Second)
		n.only("a1", "n2")
		if ended([]*agent{b}) != 0 {
			t.Errorf("the newer stream has ended: %v", b.err)
		}
	})
}

// After a shed a channel is not READY and, once it was used again, it has failed:
// that makes a stock agent ask service discovery.
func TestShedMakesTheChannelFail(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a1", nil)
		a.beat()
		w.srv.Shed(1)
		if a.code() != codes.Unavailable {
			t.Errorf("the stream ended with %v", a.err)
		}
		pass(5 * time.Second)
		if state := a.conn.GetState(); state == connectivity.Ready {
			t.Errorf("5 s later the channel is %v", state)
		}
		start := time.Now()
		again, err := agentpb.NewTransferClient(a.conn).Transfer(context.Background())
		if err == nil {
			_, err = again.Recv()
		}
		if err == nil || time.Since(start) > time.Second {
			t.Errorf("a stream again: %v after %v, want a failure at once", err, time.Since(start))
		}
		pass(5 * time.Second)
		if state := a.conn.GetState(); state != connectivity.TransientFailure {
			t.Errorf("10 s later the channel is %v", state)
		}
		if n := w.metric("refused_total", "reason", "shed"); n == 0 {
			t.Error("no refusal was counted")
		}
	})
}

// A stock agent that dials a node which refuses it goes on at once: it takes a
// reset for final.
func TestRefusalIsFinalToADialler(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.srv.RefuseNew(true)
		options := w.dialOptions(agentIP, nil)
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		start := time.Now()
		//nolint:staticcheck // the stock agent's very call
		conn, err := grpc.DialContext(ctx, net.JoinHostPort(serverIP, agentPort), append(options, grpc.WithBlock(), grpc.WithReturnConnectionError(), grpc.FailOnNonTempDialError(true))...)
		if err == nil {
			_ = conn.Close()
		}
		if took := time.Since(start); err == nil || took > time.Second {
			t.Errorf("dialled: %v after %v", err, took)
		}
	})
}

// Whatever else happens to the sessions meanwhile, the counts are right in the
// end.
func TestShedAmongOtherThings(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				dice := rand.New(rand.NewPCG(seed, 1))
				var agents []*agent
				shed := 0
				for i := range 150 {
					id, ip := fmt.Sprint("a", dice.IntN(20)), fmt.Sprintf("10.1.%d.%d", i/250, i%250+1)
					switch dice.IntN(6) {
					case 0, 1, 2:
						a := w.open(id, w.dialFrom(ip, nil))
						a.beat()
						agents = append(agents, a)
					case 3:
						shed += w.srv.Shed(dice.IntN(4))
					case 4:
						w.srv.Reset([]string{id})
					case 5:
						if len(agents) > 0 {
							_ = agents[dice.IntN(len(agents))].conn.Close()
						}
					}
					pass(time.Duration(dice.IntN(120)) * time.Millisecond)
				}
				pass(15 * time.Second)
				live := len(agents) - ended(agents)
				if n, ids := w.srv.SessionCount(), w.srv.SessionIDs(); n != live || len(ids) != live {
					t.Errorf("%d sessions, %d listed, want %d", n, len(ids), live)
				}
				if n := w.metric("shed_total"); int(n) != shed || shed == 0 {
					t.Errorf("%v counted as shed, want %d", n, shed)
				}
			})
		})
	}
}
