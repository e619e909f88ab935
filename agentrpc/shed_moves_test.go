// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"muster/agentrpc"
	"muster/internal/simagent"
)

const (
	otherIP = "10.0.0.2"
	sdIP    = "10.8.0.1"
)

// twoNodes are a server, another on the same network, and a service discovery
// that lists the other first.
func twoNodes(t *testing.T, test func(t *testing.T, first, second *world)) {
	t.Helper()
	dirs := []string{t.TempDir(), t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		var shared *tls.Config
		first := newWorld(t, dirs[0], func(o *agentrpc.Options) { shared = o.TLS })
		second := newWorld(t, dirs[1], func(o *agentrpc.Options) {
			l, err := first.net.Host(otherIP).Listen("tcp", ":"+agentPort)
			if err != nil {
				t.Fatal(err)
			}
			o.TLS, o.Listeners = shared, []net.Listener{l}
		})
		t.Cleanup(second.stop)
		t.Cleanup(first.stop)
		l, err := first.net.Host(sdIP).Listen("tcp", ":8088")
		if err != nil {
			t.Fatal(err)
		}
		sd := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(rw, `{"msg":"ok","data":[{"ip":%q,"port":%s},{"ip":%q,"port":%s}]}`, otherIP, agentPort, serverIP, agentPort)
		})}
		var serving sync.WaitGroup
		serving.Go(func() { _ = sd.Serve(l) })
		t.Cleanup(func() {
			_ = sd.Close()
			serving.Wait()
		})
		test(t, first, second)
	})
}

// stockAgents behave as stock ones do. They know the first server by heart, and
// ask service discovery once told.
type stockAgents struct {
	world  *world
	fleets []*simagent.Fleet
	cancel context.CancelFunc
	runs   sync.WaitGroup
	sd     atomic.Bool
}

// stock starts n agents, at one address or at one for each.
func (w *world) stock(n int, oneIP string) *stockAgents {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &stockAgents{world: w, cancel: cancel}
	w.t.Cleanup(s.stop)
	for i := range n {
		ip := oneIP
		if ip == "" {
			ip = fmt.Sprintf("10.1.%d.%d", i/250, i%250+1)
		}
		host := w.net.Host(ip)
		transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if !s.sd.Load() {
				return nil, errAway
			}
			return host.DialContext(ctx, network, addr)
		}}
		f, err := simagent.New(simagent.Options{
			SD: []string{"http://" + sdIP + ":8088"}, Addrs: []string{net.JoinHostPort(serverIP, agentPort)},
			Agents: 1, Seed: uint64(i + 1), TLS: w.clientTLS(), HTTP: transport, Load: simagent.Load{Rate: 5},
			Dial:   func(ctx context.Context, addr string) (net.Conn, error) { return host.DialContext(ctx, "tcp", addr) },
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			w.t.Fatal(err)
		}
		s.fleets = append(s.fleets, f)
		s.runs.Go(func() { _ = f.Run(ctx) })
		pass(17 * time.Millisecond) // their ticks differ
	}
	w.eventually("all have a stream", time.Minute, func() bool { return w.srv.SessionCount() == n })
	s.sd.Store(true)
	pass(500 * time.Microsecond) // between their ticks, which are of whole milliseconds
	return s
}

func (s *stockAgents) stop() {
	s.cancel()
	s.runs.Wait()
}

// moved waits until n agents have come to a server, and returns how long each
// of them took, in order.
func (s *stockAgents) moved(to *world, n int) []time.Duration {
	s.world.t.Helper()
	start, seen := time.Now(), make(map[string]bool)
	var took []time.Duration
	for len(took) < n {
		pass(20 * time.Millisecond)
		for _, id := range to.srv.SessionIDs() {
			if !seen[id] {
				seen[id] = true
				took = append(took, time.Since(start))
			}
		}
		if time.Since(start) > time.Minute {
			s.world.t.Fatalf("%d of %d agents have come within a minute", len(took), n)
		}
	}
	s.world.t.Logf("%d agents without a stream: median %v, longest %v", n, took[n/2], took[n-1])
	return took
}

// A stock agent that is shed has a stream elsewhere within 12 s, and none of its
// records is lost on the way.
func TestShedAgentsFindAnotherNode(t *testing.T) {
	const agents = 30
	twoNodes(t, func(t *testing.T, first, second *world) {
		s := first.stock(agents, "")
		if n := first.srv.Shed(agents); n != agents {
			t.Fatalf("Shed = %d", n)
		}
		if took := s.moved(second, agents); took[agents-1] > 12*time.Second {
			t.Errorf("an agent had no stream for %v", took[agents-1])
		}
		pass(10 * time.Second)
		s.stop()
		for _, f := range s.fleets {
			id, arrived := f.IDs()[0], 0
			for _, value := range slices.Concat(first.log.of(f.IDs()[0]), second.log.of(f.IDs()[0])) {
				if mqData(t, value).GetDataType() == 59 {
					arrived++
				}
			}
			if sent := int(f.SentBy(id)); arrived != sent || sent == 0 {
				t.Errorf("%s sent %d records, %d arrived", id, sent, arrived)
			}
		}
	})
}

// Of agents behind one address those that are shed move, the others stay.
func TestShedOfACrowdMovesOnlyThose(t *testing.T) {
	const agents, shed = 25, 5
	twoNodes(t, func(t *testing.T, first, second *world) {
		s := first.stock(agents, "10.9.9.9")
		if n := first.srv.Shed(shed); n != shed {
			t.Fatalf("Shed = %d", n)
		}
		if took := s.moved(second, shed); took[shed-1] > 12*time.Second {
			t.Errorf("an agent had no stream for %v", took[shed-1])
		}
		pass(31 * time.Second)
		if a, b := first.srv.SessionCount(), second.srv.SessionCount(); a != agents-shed || b != shed {
			t.Errorf("%d and %d sessions, want %d and %d", a, b, agents-shed, shed)
		}
		s.stop()
	})
}

// A node that takes nobody new is passed over at once by an agent that was told
// to go there first.
func TestAgentsPassOverANodeThatRefuses(t *testing.T) {
	twoNodes(t, func(t *testing.T, first, second *world) {
		s := first.stock(5, "")
		second.srv.RefuseNew(true)
		first.srv.Shed(5)
		pass(11 * time.Second)
		if n := second.metric("refused_total", "reason", "draining"); n < 5 {
			t.Errorf("%v were refused by the node that they were told first, want 5", n)
		}
		pass(30 * time.Second) // both refuse for 30 s; then the second in the list takes them
		if n := first.srv.SessionCount(); n != 5 {
			t.Errorf("%d agents came back to the only node that takes them, want 5", n)
		}
		s.stop()
	})
}
