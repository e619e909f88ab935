// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agents_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster/internal/pki"
	"muster/test/bench/agents"
	"muster/test/bench/broker"
	"muster/test/bench/floor"
)

// world is a broker and a floor in this process.
type world struct {
	t      *testing.T
	broker *broker.Broker
	addr   string
	client *tls.Config
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	b, err := broker.New("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.Look(true)
	running.Go(func() { b.Run(ctx) })
	ca, err := pki.NewCA("bench", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair := func(r pki.Request) tls.Certificate {
		p, err := ca.IssuePair(r, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		c, err := p.TLS()
		if err != nil {
			t.Fatal(err)
		}
		return *c
	}
	pool := pki.Pool(ca.Certificate())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &tls.Config{Certificates: []tls.Certificate{pair(pki.AgentServerRequest("floor"))}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
	running.Go(func() {
		if err := floor.Run(ctx, floor.Options{Listener: l, TLS: server, Broker: b.Addr(), Spoken: new(atomic.Int64)}); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return &world{t, b, l.Addr().String(), &tls.Config{Certificates: []tls.Certificate{pair(pki.FleetRequest("bench"))}, RootCAs: pool, MinVersion: tls.VersionTLS12}}
}

// run lets agents send for a while and returns what they and the broker counted.
func (w *world) run(o agents.Options, enough func(agents.Stats) bool) (agents.Stats, broker.Stats) {
	w.t.Helper()
	o.Addr, o.TLS = w.addr, w.client // not used where service discovery is
	load, err := agents.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { load.Run(w.t.Context()) })
	w.wait(func() bool { return enough(load.Stats()) })
	load.Stop()
	running.Wait()
	sent := load.Stats()
	w.wait(func() bool { return w.broker.Stats().Records == sent.Records+sent.Heartbeats })
	return sent, w.broker.Stats()
}

func (w *world) wait(what func() bool) {
	w.t.Helper()
	for end := time.Now().Add(60 * time.Second); !what(); {
		if time.Now().After(end) {
			w.t.Fatalf("not within a minute; the broker has %+v", w.broker.Stats())
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestEveryNumberArrives(t *testing.T) {
	for name, o := range map[string]agents.Options{
		"saturated, large messages": {Agents: 5, Batch: 300, Numbered: 1, Heartbeat: time.Minute},
		"saturated, small messages": {Agents: 5, Batch: 1, Numbered: 1, Heartbeat: time.Minute},
		"steady":                    {Agents: 5, Batch: 10, Rate: 5000, Numbered: 1, Heartbeat: 50 * time.Millisecond},
		"some are numbered":         {Agents: 5, Batch: 10, Numbered: 3, Heartbeat: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			sent, got := w.run(o, func(s agents.Stats) bool { return s.Messages >= 200 && s.Connected == 5 })
			if sent.Failures+sent.Ended != 0 {
				t.Errorf("%d connects failed (%s), %d streams ended", sent.Failures, sent.Failure, sent.Ended)
			}
			if got.Marked != sent.Numbered || got.Unique != sent.Numbered || got.Disorder != 0 || got.Unread != 0 {
				t.Errorf("sent %+v, the broker has %+v", sent, got)
			}
			if o.Numbered == 1 && sent.Numbered != sent.Records || o.Numbered == 3 && sent.Numbered*2 > sent.Records {
				t.Errorf("%d of %d records were numbered", sent.Numbered, sent.Records)
			}
			if got.DelayMax < 0 {
				t.Errorf("longest delay %d µs", got.DelayMax)
			}
		})
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := agents.Options{Addr: "127.0.0.1:1", TLS: &tls.Config{MinVersion: tls.VersionTLS12}, Agents: 1, Heartbeat: time.Second}
	if _, err := agents.New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*agents.Options){
		"Addr":      func(o *agents.Options) { o.Addr = "" },
		"TLS":       func(o *agents.Options) { o.TLS = nil },
		"Agents":    func(o *agents.Options) { o.Agents = 0 },
		"Rate":      func(o *agents.Options) { o.Rate = -1 },
		"Heartbeat": func(o *agents.Options) { o.Heartbeat = 0 },
	} {
		bad := good
		change(&bad)
		if _, err := agents.New(bad); err == nil {
			t.Errorf("a bad %s was taken", name)
		}
	}
}

// An agent with service discovery takes the first address that works, and keeps
// the connection of its look-up if it should.
func TestFindsItsServer(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = dead.Close()
	w := newWorld(t)
	var data []map[string]any
	for _, addr := range []string{dead.Addr().String(), w.addr} {
		host, port, _ := net.SplitHostPort(addr)
		n, _ := strconv.Atoi(port)
		data = append(data, map[string]any{"ip": host, "port": n, "weight": 0})
	}
	var open atomic.Int64
	sd := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(rw).Encode(map[string]any{"msg": "ok", "data": data})
	}))
	sd.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		default:
		}
	}
	sd.Start()
	defer sd.Close()
	sent, _ := w.run(agents.Options{SD: []string{sd.URL}, KeepLookups: true, Agents: 3, Heartbeat: time.Minute}, func(s agents.Stats) bool {
		return s.Connected == 3 && open.Load() == 3
	})
	if sent.Failures != 0 || sent.MostFailures != 0 || sent.Passed != 3 {
		t.Errorf("%+v", sent)
	}
}
