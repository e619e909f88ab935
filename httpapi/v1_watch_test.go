// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/httpapi"
	"muster/internal/apiclient"
	"muster/internal/apiv1"
	"muster/internal/memnet"
)

// movingDirectory is a directory that changes while it is looked at.
type movingDirectory struct {
	*fakeDirectory
	mu sync.Mutex
}

func (d *movingDirectory) Members() []fleet.Member {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]fleet.Member(nil), d.members...)
}

func (d *movingDirectory) change(f func(m []fleet.Member) []fleet.Member) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.members = f(append([]fleet.Member(nil), d.members...))
}

// streamWorld serves three nodes' streams; it lives in a bubble, whose time is the
// API's.
type streamWorld struct {
	v1World
	moving *movingDirectory
	host   *memnet.Host
	stop   context.CancelFunc
	ended  chan struct{}
}

func newStreamWorld(t *testing.T, config *tls.Config, change ...func(*httpapi.Options)) *streamWorld {
	t.Helper()
	s := &streamWorld{ended: make(chan struct{})}
	begun := time.Now()
	s.v1World, _ = drainWorld(t, append(change, func(o *httpapi.Options) {
		s.moving = &movingDirectory{fakeDirectory: o.Directory.Members.(*fakeDirectory)}
		o.Directory.Members = s.moving
		o.Now = func() time.Time { return start.Add(time.Since(begun)) }
	})...)
	s.moving.change(func(m []fleet.Member) []fleet.Member {
		for i := range m { // who does not report each second would be dead
			m[i].ReportedAt = start.Add(24 * time.Hour)
		}
		return m
	})
	network := memnet.New()
	ln, err := network.Host("192.0.2.1").Listen("tcp", ":6752")
	if err != nil {
		t.Fatal(err)
	}
	s.host = network.Host("192.0.2.2")
	ctx, stop := context.WithCancel(t.Context())
	s.stop = stop
	var serving sync.WaitGroup
	serving.Go(func() {
		defer close(s.ended)
		if err := s.api.Serve(ctx, httpapi.ListenerHTTPS, ln, config); err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	t.Cleanup(func() { stop(); serving.Wait() })
	return s
}

// watch opens a stream and gives its events; it ends with the test, or cancel.
func (s *streamWorld) watch(as fleet.Role) (<-chan apiclient.Event, context.CancelFunc) {
	s.t.Helper()
	return s.watchOver("http", &http.Transport{DialContext: s.host.DialContext}, as)
}

func (s *streamWorld) watchOver(scheme string, transport *http.Transport, as fleet.Role) (<-chan apiclient.Event, context.CancelFunc) {
	s.t.Helper()
	c, err := apiclient.New(apiclient.Options{Addr: scheme + "://192.0.2.1:6752", Token: token(as), Transport: transport, Timeout: 20 * time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	events := make(chan apiclient.Event, 1000)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(events)
		for e, err := range c.Events(ctx, "/v1/nodes") {
			if err != nil {
				e = apiclient.Event{Name: "error", Data: []byte(err.Error())}
			}
			events <- e
		}
	})
	s.t.Cleanup(func() { cancel(); reading.Wait(); transport.CloseIdleConnections() })
	return events, cancel
}

// pending are the events that are there, as "id name change node", in n seconds.
func pending(t *testing.T, events <-chan apiclient.Event, n int) []string {
	t.Helper()
	time.Sleep(time.Duration(n) * time.Second)
	synctest.Wait()
	got := []string{}
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return append(got, "closed")
			}
			text := e.ID + " " + e.Name
			var change apiv1.NodeChange
			if e.Name == "node" && json.Unmarshal(e.Data, &change) == nil {
				text += " " + change.Change + " " + change.Node.Name
			} else if e.Name != "nodes" {
				text += " " + string(e.Data)
			}
			got = append(got, text)
		default:
			return got
		}
	}
}

// TestWatchNodes: a stream begins with the whole list, then tells of each change
// once, with the load at most once a second, and outlives every time limit of a
// request.
func TestWatchNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStreamWorld(t, nil, func(o *httpapi.Options) { o.RequestTimeout = 2 * time.Second })
		events, _ := s.watch(fleet.RoleViewer)
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		first := <-events
		var page apiv1.Page[apiv1.Node]
		if err := json.Unmarshal(first.Data, &page); err != nil || first.Name != "nodes" || first.ID != "1" || len(page.Items) != 3 || page.Items[1].Name != "n2" {
			t.Fatalf("first event %s %s: %v %s", first.ID, first.Name, err, first.Data)
		}
		var loose any
		_ = json.Unmarshal(first.Data, &loose)
		op, _ := s.doc.operation("GET", "/v1/nodes")
		if m := s.doc.mismatch("first", op.Responses["200"].Content["application/json"].Schema, loose); m != "" {
			t.Error(m)
		}
		equal(t, "nothing happens for an hour", []string{}, pending(t, events, 3600))

		for _, step := range []struct {
			what   string
			change func(m []fleet.Member) []fleet.Member
			want   []string
		}{
			{"load", func(m []fleet.Member) []fleet.Member { m[1].Load.CPUPermille = 7; return m }, []string{"2 node load n2"}},
			{"a report", func(m []fleet.Member) []fleet.Member { m[1].Load.Applied++; m[1].Load.Sequence++; return m }, []string{}},
			{"state", func(m []fleet.Member) []fleet.Member { m[1].Load.KafkaAway = true; return m }, []string{"3 node load n1", "4 node state n2", "5 node load n3"}},
			{"dead", func(m []fleet.Member) []fleet.Member { m[2].Alive = false; return m }, []string{"6 node load n1", "7 node dead n3"}},
			{"back", func(m []fleet.Member) []fleet.Member { m[2].Alive, m[1].Load.KafkaAway = true, false; return m }, []string{"8 node load n1", "9 node state n2", "10 node state n3"}},
			{"joined", func(m []fleet.Member) []fleet.Member {
				return append(m, fleet.Member{NodeID: "n25", ServerID: "n25~0e", Alive: true, ReportedAt: m[0].ReportedAt})
			}, []string{"11 node joined n25"}},
			{"left", func(m []fleet.Member) []fleet.Member { return m[:3] }, []string{"12 node left n25"}},
		} {
			s.moving.change(step.change)
			equal(t, step.what, step.want, pending(t, events, 2))
		}
		s.moving.change(func(m []fleet.Member) []fleet.Member { m[0].Load.Sessions++; return m })
		got := pending(t, events, 1)
		if len(got) > 3 {
			t.Errorf("%d events of three nodes in a second: %v", len(got), got)
		}
	})
}

// TestWatchHTTP2: a stream of HTTP/2 has time limits of its own.
func TestWatchHTTP2(t *testing.T) {
	other := httptest.NewTLSServer(http.NotFoundHandler()) // has a certificate
	other.Close()
	synctest.Test(t, func(t *testing.T) {
		s := newStreamWorld(t, &tls.Config{Certificates: other.TLS.Certificates, MinVersion: tls.VersionTLS12}, func(o *httpapi.Options) { o.RequestTimeout = 2 * time.Second })
		client := other.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		client.ServerName, client.NextProtos = "example.com", []string{"h2"}
		events, _ := s.watchOver("https", &http.Transport{DialContext: s.host.DialContext, TLSClientConfig: client, ForceAttemptHTTP2: true}, fleet.RoleViewer)
		equal(t, "the beginning", []string{"1 nodes"}, pending(t, events, 1))
		equal(t, "nothing happens for five minutes", []string{}, pending(t, events, 300))
		s.moving.change(func(m []fleet.Member) []fleet.Member { m[1].Load.CPUPermille = 7; return m })
		equal(t, "a change", []string{"2 node load n2"}, pending(t, events, 2))
		begun := time.Now()
		s.stop()
		<-s.ended
		if got, took := fmt.Sprint(pending(t, events, 0)), time.Since(begun); !strings.Contains(got, "this node stops") || took > 2*time.Second { // HTTP/2 says goodbye for a second
			t.Errorf("at the stop, after %v: %s", took, got)
		}
	})
}

// TestWatchEnds: at the reader's will, at the stop of the node, and soon after the
// token is not good any more.
func TestWatchEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStreamWorld(t, nil)
		revoked, _ := s.watch(fleet.RoleViewer)
		expired, _ := s.watch(fleet.RoleTaskViewer)
		demoted, _ := s.watch(fleet.RoleOperator)
		stays, _ := s.watch(fleet.RoleAdmin)
		_, leave := s.watch(fleet.RoleAdmin)
		time.Sleep(time.Second)
		if n := gaugeOf(s.world, "muster_httpapi_streams"); n != 5 {
			t.Errorf("%v streams are open, want 5", n)
		}
		leave()
		synctest.Wait()
		s.store.mu.Lock()
		delete(s.store.tokens, "t-viewer")
		old := s.store.tokens["t-task-viewer"]
		old.ExpiresAt = start.Unix() + 40
		s.store.tokens["t-task-viewer"] = old
		delete(s.store.users, "operator")
		s.store.mu.Unlock()
		time.Sleep(70 * time.Second)
		synctest.Wait()
		for name, events := range map[string]<-chan apiclient.Event{"a valid token is needed": revoked, "the token has expired": expired, "valid token": demoted} {
			got := fmt.Sprint(pending(t, events, 0))
			if !strings.Contains(got, "2 end") || !strings.Contains(got, name) || !strings.HasSuffix(got, "closed]") {
				t.Errorf("%s: %v", name, got)
			}
		}
		equal(t, "whose token is good", []string{"1 nodes"}, pending(t, stays, 0))
		begun := time.Now()
		s.stop()
		<-s.ended
		if took := time.Since(begun); took > time.Second {
			t.Errorf("the stop of the node took %v", took)
		}
		if got := fmt.Sprint(pending(t, stays, 0)); !strings.Contains(got, "this node stops") {
			t.Errorf("at the stop: %s", got)
		}
		for reason, want := range map[string]float64{"credential": 3, "stopping": 1, "gone": 1, "slow": 0, "failed": 0} {
			if n := counterOf(s.world, "muster_httpapi_streams_ended_total", reason); n != want {
				t.Errorf("%v streams have ended for %s, want %v", n, reason, want)
			}
		}
	})
}

// TestWatchEndsWithState: while the node's state may be old, no stream shows it.
func TestWatchEndsWithState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reason atomic.Value
		reason.Store("")
		s := newStreamWorld(t, nil, func(o *httpapi.Options) { o.Starting = func() string { return reason.Load().(string) } })
		events, _ := s.watch(fleet.RoleViewer)
		time.Sleep(time.Second)
		reason.Store("quarantined")
		if got := fmt.Sprint(pending(t, events, 40)); !strings.Contains(got, "2 end") || !strings.Contains(got, "another node): quarantined") {
			t.Error(got)
		}
		if n := counterOf(s.world, "muster_httpapi_streams_ended_total", "not_ready"); n != 1 {
			t.Errorf("%v streams have ended for it, want 1", n)
		}
	})
}

// rawStream opens a stream whose answer nobody reads.
func (s *streamWorld) rawStream() net.Conn {
	s.t.Helper()
	conn, err := s.host.DialContext(s.t.Context(), "tcp", "192.0.2.1:6752")
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /v1/nodes HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\ntoken: "+token(fleet.RoleViewer)+"\r\n\r\n"); err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// TestWatchSlowReader: who does not read is cut off, and holds nobody up.
func TestWatchSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStreamWorld(t, nil)
		s.moving.change(func(m []fleet.Member) []fleet.Member {
			for i := range 500 {
				m = append(m, fleet.Member{NodeID: fmt.Sprintf("x%03d", i), ServerID: fmt.Sprintf("x%03d~00", i), Alive: true, ReportedAt: m[0].ReportedAt})
			}
			return m
		})
		slow := s.rawStream()
		defer slow.Close()
		quick, _ := s.watch(fleet.RoleViewer)
		for i := range 20 {
			s.moving.change(func(m []fleet.Member) []fleet.Member { m[0].Load.CPUPermille = uint16(i + 1); return m })
			if got := pending(t, quick, 1); len(got) == 0 {
				t.Fatalf("the quick reader got nothing in second %d", i)
			}
		}
		if n := counterOf(s.world, "muster_httpapi_streams_ended_total", "slow"); n != 1 {
			t.Errorf("%v slow readers were cut off, want 1", n)
		}
		if n := gaugeOf(s.world, "muster_httpapi_streams"); n != 1 {
			t.Errorf("%v streams are open, want the quick one", n)
		}
	})
}

// TestWatchIsBounded: beyond 64 a reader is told to come again, and one that ends
// makes room.
func TestWatchIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStreamWorld(t, nil)
		var conns []net.Conn
		for range 64 {
			conns = append(conns, s.rawStream())
		}
		synctest.Wait()
		more := func() *httptest.ResponseRecorder {
			return s.do("GET /v1/nodes", request{as: fleet.RoleViewer, header: map[string]string{"Accept": "text/event-stream"}})
		}
		if rec := more(); rec.Code != 429 || !strings.Contains(rec.Body.String(), "64 event streams are open") || rec.Header().Get("Retry-After") != "10" ||
			rec.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%d %v %s", rec.Code, rec.Header(), rec.Body)
		}
		s.v1("GET /v1/nodes", request{as: fleet.RoleViewer}, 200) // the list is served all the same
		for _, c := range conns {
			c.Close()
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		events, _ := s.watch(fleet.RoleViewer)
		equal(t, "with room", []string{"1 nodes"}, pending(t, events, 1))
	})
}

// TestWatchRefusals: a stream is for who may read the fleet, and takes no query.
func TestWatchRefusals(t *testing.T) {
	w, _ := drainWorld(t)
	accept := map[string]string{"Accept": "application/json, text/event-stream;q=0.9"}
	for name, tt := range map[string]struct {
		call   string
		q      request
		status int
	}{
		"nobody":         {"GET /v1/nodes", request{header: accept}, 401},
		"plain HTTP":     {"GET /v1/nodes", request{as: fleet.RoleViewer, header: accept, kind: httpapi.ListenerHTTP}, 403},
		"a key":          {"GET /v1/nodes", request{key: "aksd", header: accept}, 401},
		"a query":        {"GET /v1/nodes?limit=5", request{as: fleet.RoleViewer, header: accept}, 400},
		"only the list":  {"GET /v1/nodes/n1", request{as: fleet.RoleViewer, header: accept}, 200},
		"the head alone": {"HEAD /v1/nodes", request{as: fleet.RoleViewer, header: accept}, 200},
	} {
		if rec := w.do(tt.call, tt.q); rec.Code != tt.status {
			t.Errorf("%s: %d, want %d: %s", name, rec.Code, tt.status, rec.Body)
		}
	}
	for _, role := range roles {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // the stream ends behind its first event
		r := httptest.NewRequestWithContext(ctx, "GET", "/v1/nodes", nil)
		r.Header.Set("token", token(role))
		r.Header.Set("Accept", "text/event-stream")
		rec := httptest.NewRecorder()
		w.api.Handler(httpapi.ListenerHTTPS).ServeHTTP(rec, r)
		streams := rec.Code == 200 && rec.Header().Get("Content-Type") == "text/event-stream" && strings.HasPrefix(rec.Body.String(), "id: 1\nevent: nodes\ndata: {")
		if may := role.May(fleet.PermFleetRead); streams != may {
			t.Errorf("%s: streams %v, want %v: %d %s", role, streams, may, rec.Code, rec.Body)
		}
	}
}

// gaugeOf is the value of a gauge without labels.
func gaugeOf(w *world, name string) float64 {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	w.t.Fatalf("there is no gauge %s", name)
	return 0
}
