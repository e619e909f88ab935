// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/fleet"
	"muster/httpapi"
	"muster/internal/memnet"
)

// picker is a directory that does something first.
type picker struct {
	*fakeDirectory
	first func()
}

func (p *picker) Pick(count int) []*fleet.Member {
	p.first()
	return p.fakeDirectory.Pick(count)
}

// sdServer is a listener for service discovery; it lives in a bubble.
type sdServer struct {
	t     testing.TB
	world *world
	host  *memnet.Host // of clients
	stop  context.CancelFunc
	ended chan struct{}
}

// serveSD serves as a node does, or by net/http's server alone. first, if there
// is one, is called at each look-up for agents.
func serveSD(t testing.TB, alone bool, first func()) *sdServer {
	w := newWorld(t, func(o *httpapi.Options) {
		if first != nil {
			o.Directory.Members = &picker{o.Directory.Members.(*fakeDirectory), first}
		}
	})
	network := memnet.New()
	ln, err := network.Host("192.0.2.1").Listen("tcp", ":8088")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	s := &sdServer{t: t, world: w, host: network.Host("192.0.2.2"), stop: stop, ended: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(s.ended)
		if !alone {
			if err := w.api.Serve(ctx, httpapi.ListenerSD, ln, nil); err != nil {
				t.Errorf("Serve = %v, want nil", err)
			}
			return
		}
		srv := w.api.Server(httpapi.ListenerSD)
		context.AfterFunc(ctx, func() { _ = srv.Shutdown(context.WithoutCancel(ctx)) })
		_ = srv.Serve(ln)
	})
	return s
}

func (s *sdServer) dial() net.Conn {
	s.t.Helper()
	conn, err := s.host.DialContext(s.t.Context(), "tcp", "192.0.2.1:8088")
	if err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// say sends the parts, each after all is done that the one before has caused, and
// returns the answers and how long the server kept the connection after them; then,
// unless it is to stay, the client's end of it comes first.
func (s *sdServer) say(stay bool, parts ...string) (string, time.Duration) {
	conn := s.dial()
	defer conn.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for _, part := range parts {
			if _, err := io.WriteString(conn, part); err != nil {
				return
			}
			synctest.Wait()
		}
		if !stay {
			_ = conn.(*memnet.Conn).CloseWrite()
		}
	})
	begun := time.Now()
	answer, err := io.ReadAll(conn)
	if err != nil {
		answer = fmt.Append(answer, "\n[reset]")
	}
	return string(answer), time.Since(begun)
}

func (s *sdServer) end() {
	s.stop()
	<-s.ended
}

const lookupHead = "GET /registry/detail?name=hids_svr_grpc&count=10 HTTP/1.1\r\nHost: n1:8088\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n"

// sdTalks are what clients say to a listener of service discovery.
func sdTalks() map[string]string {
	get := func(target string) string { return "GET " + target + " HTTP/1.1\r\nHost: n1\r\n\r\n" }
	return map[string]string{
		"look-up": lookupHead, "two": lookupHead + lookupHead, "all": get("/registry/detail?name=x"), "no name": get("/registry/detail"),
		"bad count": get("/registry/fetch?name=x&count=0"), "fetch": get("/registry/fetch?name=hids_svr_grpc&mode=max"), "mode": get("/registry/fetch?name=x&mode=%20"),
		"list": get("/registry/list"), "summary": get("/registry/summary"), "ping": get("/endpoint/ping"), "stat": get("/endpoint/stat"),
		"many": get("/registry/detail?name=many"), "slash": get("/registry/list/"), "unknown": get("/registry/x"), "metrics": get("/metrics"),
		"old": "GET /endpoint/ping HTTP/1.0\r\n\r\n", "head": strings.Replace(lookupHead, "GET", "HEAD", 1), "close": strings.Replace(lookupHead, "Accept-Encoding: gzip", "Connection: close", 1),
		"post": "POST /registry/evict HTTP/1.1\r\nHost: n1\r\nContent-Length: 2\r\n\r\n{}", "expect": strings.Replace(lookupHead, "Accept-Encoding: gzip", "Expect: 100-continue", 1),
		"no host": "GET /endpoint/ping HTTP/1.1\r\n\r\n", "two hosts": "GET /endpoint/ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "bad host": "GET /endpoint/ping HTTP/1.1\r\nHost: a/b{\r\n\r\n",
		"garbage": "\x16\x03\x01\x02\x00\x01", "half": lookupHead[:40], "mixed": lookupHead + get("/registry/nothing") + lookupHead, "long": get("/registry/detail?name=" + strings.Repeat("a", 5000)),
	}
}

// prepare gives a world what the talks ask about.
func (s *sdServer) prepare() *sdServer {
	for i := range 40 {
		s.world.dir.services = append(s.world.dir.services, fleet.Service{Name: "many", IP: fmt.Sprint("10.0.0.", i), Port: 1 + i, Status: fleet.ServiceGreen})
	}
	return s
}

// counts are the counters and histograms of requests.
func (s *sdServer) counts() string {
	families, err := s.world.reg.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "muster_httpapi_") {
			fmt.Fprintln(&all, f.GetName(), f.GetMetric())
		}
	}
	return all.String()
}

// TestQuickAnswersAsNetHTTP: byte by byte what net/http's server alone answers,
// wherever the client's bytes are cut, and as much is counted.
func TestQuickAnswersAsNetHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain, quick := serveSD(t, true, nil).prepare(), serveSD(t, false, nil).prepare()
		for name, talk := range sdTalks() {
			cuts := []int{len(talk)}
			for cut := 0; cut < min(len(talk), 400) && cut < len(talk); cut += 1 + len(talk)/16 {
				cuts = append(cuts, cut)
			}
			if end := strings.Index(talk, "\r\n\r\n"); end > 0 {
				cuts = append(cuts, end, end+2, end+4)
			}
			for _, cut := range cuts {
				want, wantAfter := plain.say(false, talk[:cut], talk[cut:])
				got, after := quick.say(false, talk[:cut], talk[cut:])
				if diff := cmp.Diff(want, got); diff != "" || after != wantAfter {
					t.Errorf("%s, cut at %d (ended after %s, want %s): -net/http alone +quick\n%s", name, cut, after, wantAfter, diff)
				}
			}
		}
		for _, s := range []*sdServer{plain, quick} {
			if got, _ := s.say(false, lookupHead, lookupHead, lookupHead); strings.Count(got, "HTTP/1.1 200 OK") != 3 {
				t.Errorf("three look-ups one after the other: %s", got)
			}
		}
		if diff := cmp.Diff(plain.counts(), quick.counts()); diff != "" {
			t.Errorf("counted: -net/http alone +quick\n%s", diff)
		}
		plain.end()
		quick.end()
	})
}

// FuzzQuick: any bytes, cut anywhere, are answered as by net/http's server alone.
func FuzzQuick(f *testing.F) {
	for _, talk := range sdTalks() {
		f.Add(talk, uint16(len(talk)), uint16(0))
		f.Add(talk+lookupHead, uint16(len(talk)), uint16(len(lookupHead)))
		f.Add(lookupHead+talk, uint16(len(lookupHead)), uint16(7))
	}
	f.Fuzz(func(t *testing.T, talk string, cut, next uint16) {
		first := min(int(cut), len(talk))
		second := min(first+int(next), len(talk))
		parts := []string{talk[:first], talk[first:second], talk[second:]}
		synctest.Test(t, func(t *testing.T) {
			plain, quick := serveSD(t, true, nil).prepare(), serveSD(t, false, nil).prepare()
			want, wantAfter := plain.say(false, parts...)
			got, after := quick.say(false, parts...)
			if strings.Contains(talk, "rand") { // the order is free
				want, got = fmt.Sprint(len(want)), fmt.Sprint(len(got))
			}
			if diff := cmp.Diff(want, got); diff != "" || after != wantAfter {
				t.Errorf("%q (ended after %s, want %s): -net/http alone +quick\n%s", parts, after, wantAfter, diff)
			}
			if diff := cmp.Diff(plain.counts(), quick.counts()); diff != "" {
				t.Errorf("%q: counted: -net/http alone +quick\n%s", parts, diff)
			}
			plain.end()
			quick.end()
		})
	})
}

// TestQuickDeadlines: silence ends a connection when net/http alone would end it,
// and half a request does soon after.
func TestQuickDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain, quick := serveSD(t, true, nil), serveSD(t, false, nil)
		for name, parts := range map[string][]string{
			"silent": {}, "silent after an answer": {lookupHead}, "after two": {lookupHead, lookupHead}, "half": {lookupHead[:30]},
		} {
			want, wantAfter := plain.say(true, parts...)
			got, after := quick.say(true, parts...)
			if len(got) != len(want) || after != wantAfter || after == 0 { // their dates differ
				t.Errorf("%s: ended after %s, want %s; %q, want %q", name, after, wantAfter, got, want)
			}
		}
		plain.end()
		quick.end()
	})
}

// TestQuickDrain: at the end idle connections are closed at once, a request under
// way is answered, and a client that reads nothing holds nobody up for long.
func TestQuickDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := false
		s := serveSD(t, false, func() {
			if slow {
				time.Sleep(3 * time.Second)
			}
		}).prepare()
		idle, deaf, busy := s.dial(), s.dial(), s.dial()
		defer idle.Close()
		defer deaf.Close()
		defer busy.Close()
		for range 100 {
			_ = deaf.SetWriteDeadline(time.Now().Add(time.Millisecond))
			if _, err := io.WriteString(deaf, "GET /registry/detail?name=many HTTP/1.1\r\nHost: n1\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		slow = true
		if _, err := io.WriteString(busy, lookupHead); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		begun := time.Now()
		s.stop()
		if rest, err := io.ReadAll(idle); err != nil || len(rest) > 0 || time.Since(begun) != 0 {
			t.Errorf("idle connection: %q, %v after %s", rest, err, time.Since(begun))
		}
		answer, err := io.ReadAll(busy)
		if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 200")) || !bytes.Contains(answer, []byte("\r\nConnection: close\r\n")) {
			t.Errorf("request under way: %q, %v", answer, err)
		}
		<-s.ended
		if took := time.Since(begun); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("ended after %s", took)
		}
	})
}

// TestQuickPaths: every open look-up is answered quickly, and nothing else is.
func TestQuickPaths(t *testing.T) {
	var want []string
	for _, route := range httpapi.OpenRoutes() {
		if path, ok := strings.CutPrefix(route, "GET "); ok && (strings.HasPrefix(path, "/registry/") || strings.HasPrefix(path, "/endpoint/")) {
			want = append(want, path)
		}
	}
	if diff := cmp.Diff(want, newWorld(t).api.QuickPaths()); diff != "" {
		t.Errorf("-open +quick\n%s", diff)
	}
}

// TestQuickPanic: a panic is answered as everywhere, or ends the one connection.
func TestQuickPanic(t *testing.T) {
	for _, v := range []any{"boom", http.ErrAbortHandler} {
		synctest.Test(t, func(t *testing.T) {
			boom := func() { panic(v) }
			plain, quick := serveSD(t, true, boom), serveSD(t, false, boom)
			want, _ := plain.say(false, lookupHead)
			if got, _ := quick.say(false, lookupHead); got != want || strings.Contains(got, "500") != (v == "boom") {
				t.Errorf("%v: answered %q, want %q", v, got, want)
			}
			if got, _ := quick.say(false, "GET /endpoint/ping HTTP/1.1\r\nHost: n1\r\n\r\n"); !strings.Contains(got, "pong") {
				t.Errorf("%v: then %q", v, got)
			}
			plain.end()
			quick.end()
		})
	}
}

// Beyond so many connections each is closed after its answer, and those that stay
// are served as before.
func TestQuickKeepsFewConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serveSD(t, false, nil)
		const lookup = "GET /registry/detail?name=hids_svr_grpc&count=10 HTTP/1.1\r\nHost: sd\r\n\r\n"
		ask := func(conn net.Conn) string {
			t.Helper()
			if _, err := io.WriteString(conn, lookup); err != nil {
				t.Fatal(err)
			}
			answer := make([]byte, 4096)
			n, err := conn.Read(answer)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return string(answer[:n])
		}
		const kept = 1000
		var conns []net.Conn
		for i := range kept + 20 {
			conn := s.dial()
			conns = append(conns, conn)
			answer := ask(conn)
			if !strings.HasPrefix(answer, "HTTP/1.1 200 OK\r\n") {
				t.Fatalf("%d: %q", i, answer)
			}
			if closes := strings.Contains(answer, "\r\nConnection: close\r\n"); closes != (i >= kept) {
				t.Fatalf("connection %d: closes %t", i, closes)
			}
		}
		if n, err := conns[kept].Read(make([]byte, 1)); n != 0 || err != io.EOF { //nolint:errorlint // the value itself
			t.Errorf("one too many: %d %v", n, err)
		}
		if answer := ask(conns[0]); strings.Contains(answer, "close") {
			t.Errorf("one that stayed: %q", answer)
		}
		for _, conn := range conns {
			_ = conn.Close()
		}
		s.stop()
		<-s.ended
	})
}
