// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"muster/fleet"
)

// scan is a command that an agent answers.
func scan(token string) fleet.AgentCommand {
	return fleet.AgentCommand{Task: &fleet.AgentTask{DataType: fleet.DataTypeScanPath, Name: "scanner", Data: "{}", Token: token}}
}

func task(id, agent string, delivery fleet.Delivery) fleet.Dispatch {
	return fleet.Dispatch{
		TaskID: id, AgentID: agent, Number: 1, Kind: fleet.TaskKindTask, Delivery: delivery,
		Command: scan(fleet.TaskToken(id, 1)), Deadline: time.Now().Add(24 * time.Hour).Unix(),
	}
}

func tokens(a *agent) []string {
	var out []string
	for _, c := range a.got() {
		out = append(out, c.GetTask().GetToken())
	}
	return out
}

func (w *world) book() *taskBook {
	book := &taskBook{}
	book.install(w.store)
	return book
}

func TestTaskReachesAConnectedAgent(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		a := w.open("a1", nil)
		a.beat()
		book.put(task("t1", "a1", fleet.DeliveryOnce))
		w.store.notify(fleet.TableTasks)
		w.eventually("task", 300*time.Millisecond, func() bool { return len(a.got()) == 1 })
		got := a.got()[0].GetTask()
		if got.GetToken() != "t1.1" || got.GetName() != "scanner" || got.GetDataType() != int32(fleet.DataTypeScanPath) {
			t.Errorf("sent %v", got)
		}
		a.cancel()
	})
}

func TestOnceIsNeverSentAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		book.put(task("t1", "a1", fleet.DeliveryOnce))
		a := w.open("a1", nil)
		a.beat()
		w.eventually("task", time.Second, func() bool { return len(a.got()) == 1 })
		time.Sleep(time.Hour)
		a.cancel()
		w.eventually("gone", time.Second, func() bool { return w.srv.SessionCount() == 0 })
		b := w.open("a1", nil)
		b.beat()
		time.Sleep(time.Hour)
		if n := len(a.got()) + len(b.got()); n != 1 {
			t.Errorf("sent %d times", n)
		}
		b.cancel()
	})
}

func TestMarkIsCommittedBeforeSending(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		free := make(chan struct{})
		w.store.set(func(f *fakeStore) {
			f.mark = func(marks []fleet.TaskMark) ([]bool, error) {
				<-free
				return book.mark(marks)
			}
		})
		book.put(task("t1", "a1", fleet.DeliveryOnce))
		a := w.open("a1", nil)
		a.beat()
		time.Sleep(10 * time.Second)
		if n := len(a.got()); n != 0 {
			t.Error("sent before the mark was committed")
		}
		close(free)
		w.eventually("task", time.Second, func() bool { return len(a.got()) == 1 })
		a.cancel()
	})
}

func TestOnlyGrantedTasksAreSent(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		for i := range 5 {
			book.put(task(fmt.Sprintf("t%d", i), "a1", fleet.DeliveryOnce))
		}
		w.store.set(func(f *fakeStore) {
			f.mark = func(marks []fleet.TaskMark) ([]bool, error) {
				book.end("t3") // cancelled in the very last moment
				return book.mark(marks)
			}
		})
		a := w.open("a1", nil)
		a.beat()
		w.eventually("tasks", time.Second, func() bool { return len(a.got()) == 4 })
		for _, token := range tokens(a) {
			if token == "t3.1" {
				t.Error("a cancelled task was sent")
			}
		}
		a.cancel()
	})
}

func TestMarksThatCannotBeStoredAreTriedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		book.put(task("t1", "a1", fleet.DeliveryOnce))
		w.store.set(func(f *fakeStore) {
			f.mark = func([]fleet.TaskMark) ([]bool, error) { return nil, fleet.ErrUnavailable }
		})
		a := w.open("a1", nil)
		a.beat()
		time.Sleep(time.Minute)
		if n := len(a.got()); n != 0 {
			t.Error("sent without a mark")
		}
		book.install(w.store)
		w.eventually("task", 3*time.Second, func() bool { return len(a.got()) == 1 })
		a.cancel()
	})
}

func TestRetryIsSentAgainAfter60Seconds(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		book.put(task("t1", "a1", fleet.DeliveryRetry))
		a := w.open("a1", nil)
		a.beat()
		w.eventually("first", time.Second, func() bool { return len(a.got()) == 1 })
		time.Sleep(58 * time.Second)
		if n := len(a.got()); n != 1 {
			t.Errorf("sent %d times within 59 s", n)
		}
		w.eventually("second", 10*time.Second, func() bool { return len(a.got()) == 2 })
		a.cancel()
		w.eventually("gone", time.Second, func() bool { return w.srv.SessionCount() == 0 })
		// Another stream does not know when it was sent, but it was before now.
		b := w.open("a1", nil)
		b.beat()
		time.Sleep(58 * time.Second)
		if n := len(b.got()); n != 0 {
			t.Errorf("sent %d times right after the reconnect", n)
		}
		w.eventually("third", 10*time.Second, func() bool { return len(b.got()) == 1 })
		book.end("t1")
		time.Sleep(5 * time.Minute)
		if n := len(b.got()); n != 1 {
			t.Errorf("sent %d times, also after its end", n)
		}
		b.cancel()
	})
}

func TestTaskForAnOfflineAgent(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		book.put(task("t1", "a1", fleet.DeliveryOnce))
		late := task("t2", "a1", fleet.DeliveryOnce)
		late.Deadline = time.Now().Add(time.Minute).Unix()
		book.put(late)
		w.store.notify(fleet.TableTasks)
		time.Sleep(time.Hour)
		a := w.open("a1", nil)
		time.Sleep(10 * time.Second)
		if n := len(a.got()); n != 0 {
			t.Error("sent before anything was heard")
		}
		a.send(record(59)) // an agent whose process goes on beats later
		w.eventually("task", time.Second, func() bool { return len(a.got()) == 1 })
		time.Sleep(time.Minute)
		if got := fmt.Sprint(tokens(a)); got != "[t1.1]" {
			t.Errorf("sent %v; the deadline of t2 has passed", got)
		}
		a.cancel()
	})
}

func TestMarksOfManyAgentsShareAProposal(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		const agents = 50
		conn := w.dial(nil)
		for i := range agents {
			if i%8 == 0 {
				conn = w.dial(nil)
			}
			id := fmt.Sprintf("a%d", i)
			w.open(id, conn).beat()
			book.put(task("t"+id, id, fleet.DeliveryOnce))
		}
		w.store.notify(fleet.TableTasks)
		w.eventually("all", time.Second, func() bool { return w.metric("tasks_total", "outcome", "written") == agents })
		w.store.set(func(f *fakeStore) {
			if n := len(f.marks); n > 3 {
				t.Errorf("%d proposals for %d marks", n, agents)
			}
		})
	})
}

func TestTasksWithoutAnswerSucceedWhenWritten(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		d := task("t1", "a1", fleet.DeliveryOnce)
		d.Command = fleet.AgentCommand{Task: &fleet.AgentTask{DataType: fleet.DataTypeAgentSettings, Name: fleet.AgentProduct, Token: "t1.1"}}
		book.put(d)
		book.put(task("t2", "a1", fleet.DeliveryOnce))
		a := w.open("a1", nil)
		a.beat()
		w.eventually("result", time.Second, func() bool { return len(w.store.allResults()) == 1 })
		time.Sleep(time.Minute)
		got := w.store.allResults()
		if len(got) != 1 || got[0].Token != "t1.1" || got[0].AgentID != "a1" || got[0].State != fleet.SubTaskSucceeded {
			t.Errorf("results %+v", got)
		}
		a.cancel()
	})
}

func TestConfigTaskSucceedsWhenItsRevisionIsWritten(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		configured(w.store, 3)
		book.put(fleet.Dispatch{TaskID: "t1", AgentID: "a1", Number: 1, Kind: fleet.TaskKindConfig, Revision: 4})
		a := w.open("a1", nil)
		a.beat()
		time.Sleep(time.Minute)
		if n := len(w.store.allResults()); n != 0 {
			t.Error("reported before its revision was written")
		}
		configured(w.store, 4)
		w.store.notify(fleet.TableDesired)
		w.eventually("result", 6*time.Second, func() bool { return len(w.store.allResults()) == 1 })
		if got := w.store.allResults()[0]; got.Token != "t1.1" || got.State != fleet.SubTaskSucceeded {
			t.Errorf("result %+v", got)
		}
		if got := fmt.Sprint(versions(a)); got != "[3 4]" {
			t.Errorf("sent %v, want the two configs and no command besides", got)
		}
		time.Sleep(30 * time.Second)
		if n := len(w.store.allResults()); n != 1 {
			t.Errorf("reported %d times within 30 s", n)
		}
		if marks := w.store.allMarks(); len(marks) != 0 {
			t.Errorf("marked: %v", marks)
		}
		a.cancel()
	})
}

func TestCommandWithConfigIsWrittenAsItStands(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		configured(w.store, 3)
		book.put(fleet.Dispatch{
			TaskID: "t1", AgentID: "a1", Number: 1, Kind: fleet.TaskKindCommand, Delivery: fleet.DeliveryOnce,
			Command: fleet.AgentCommand{Config: []fleet.ConfigItem{{Name: "driver", Version: "special"}}},
		})
		a := w.open("a1", nil)
		a.beat()
		w.eventually("both", time.Second, func() bool { return fmt.Sprint(versions(a)) == "[3 special]" })
		w.eventually("result", time.Second, func() bool { return len(w.store.allResults()) == 1 })
		configured(w.store, 4)
		w.store.notify(fleet.TableDesired)
		w.eventually("the desired config wins", time.Second, func() bool { return fmt.Sprint(versions(a)) == "[3 special 4]" })
		a.cancel()
	})
}

func TestAwaitWritten(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		a := w.open("a1", nil)
		a.beat()
		wait, cancel := w.srv.AwaitWritten("t1")
		book.put(task("t1", "a1", fleet.DeliveryOnce))
		w.store.notify(fleet.TableTasks)
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		if err := wait(ctx); err != nil {
			t.Errorf("wait = %v", err)
		}
		if !cancel() {
			t.Error("cancel after the write = false")
		}
		a.cancel()
	})
}

func TestAwaitWrittenOfAnOfflineAgent(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		wait, cancel := w.srv.AwaitWritten("t1")
		book.put(task("t1", "a1", fleet.DeliveryOnce))
		w.store.notify(fleet.TableTasks)
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		if err := wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait = %v", err)
		}
		if cancel() {
			t.Error("cancel = true, nothing was written")
		}
		a := w.open("a1", nil) // the task is still pending
		a.beat()
		time.Sleep(time.Hour)
		if n := len(a.got()); n != 0 {
			t.Error("sent after cancel")
		}
		if marks := w.store.allMarks(); len(marks) != 0 {
			t.Errorf("marked after cancel: %v", marks)
		}
		a.cancel()
	})
}

func TestCancelWhileTheMarkIsCommitted(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		free := make(chan struct{})
		w.store.set(func(f *fakeStore) {
			f.mark = func(marks []fleet.TaskMark) ([]bool, error) {
				<-free
				return book.mark(marks)
			}
		})
		a := w.open("a1", nil)
		a.beat()
		_, cancel := w.srv.AwaitWritten("t1")
		book.put(task("t1", "a1", fleet.DeliveryOnce))
		w.store.notify(fleet.TableTasks)
		time.Sleep(time.Second)
		if cancel() {
			t.Error("cancel = true before the mark was granted")
		}
		close(free)
		time.Sleep(time.Minute)
		if n := len(a.got()); n != 0 {
			t.Error("sent after cancel")
		}
		if n := w.metric("tasks_total", "outcome", "cancelled"); n != 1 {
			t.Errorf("cancelled: %v, want 1", n)
		}
		a.cancel()
	})
}

func TestCancelRace(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		a := w.open("a1", nil)
		a.beat()
		var wg sync.WaitGroup
		said := make(map[string]bool)
		for i := range 100 {
			id := fmt.Sprintf("t%d", i)
			_, cancel := w.srv.AwaitWritten(id)
			book.put(task(id, "a1", fleet.DeliveryOnce))
			w.store.notify(fleet.TableTasks)
			var written bool
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				written = cancel()
			})
			wg.Wait()
			said[fleet.TaskToken(id, 1)] = written
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		got := make(map[string]bool)
		for _, token := range tokens(a) {
			got[token] = true
		}
		yes := 0
		for token, written := range said {
			if written != got[token] {
				t.Errorf("%s: cancel said written = %v, the agent has it: %v", token, written, got[token])
			}
			if written {
				yes++
			}
		}
		if yes == 0 || yes == len(said) {
			t.Errorf("%d of %d were written: no race was run", yes, len(said))
		}
		a.cancel()
	})
}

func TestAwaitWrittenToAStreamThatBreaks(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		book := w.book()
		a := w.open("a1", nil)
		a.beat()
		wait, cancel := w.srv.AwaitWritten("t1")
		w.store.set(func(f *fakeStore) {
			f.mark = func(marks []fleet.TaskMark) ([]bool, error) {
				w.srv.Reset([]string{"a1"})
				return book.mark(marks)
			}
		})
		book.put(task("t1", "a1", fleet.DeliveryOnce))
		w.store.notify(fleet.TableTasks)
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		err := wait(ctx)
		if code := a.code(); code != codes.Aborted {
			t.Errorf("the stream ended with %v", code)
		}
		if written := cancel(); written != (err == nil) || written != (len(a.got()) == 1) {
			t.Errorf("wait = %v, cancel = %v, the agent has %d", err, written, len(a.got()))
		}
	})
}
