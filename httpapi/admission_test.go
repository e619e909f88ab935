// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"muster/fleet"
	"muster/httpapi"
)

// TestHeavyRoutes: what may look through the fleet waits its turn, and nothing else.
func TestHeavyRoutes(t *testing.T) {
	var got []string
	for _, r := range newWorld(t).api.Routes() {
		if r.Heavy {
			got = append(got, r.String())
		}
	}
	slices.Sort(got)
	want := []string{
		"GET /api/v1/agent/getStatus", "GET /api/v1/agent/getSubTask/:task_id", "GET /api/v1/agent/getTags",
		"GET /conn/list", "GET /conn/stat",
		"GET /v1/agents", "GET /v1/tags", "GET /v1/tasks", "GET /v1/tasks/:id/agents",
		"POST /api/v1/agent/getStatus/filter", "POST /api/v1/agent/getSubTask/filter", "POST /api/v1/agent/getTags", "POST /api/v1/agent/getTask/filter",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("heavy routes (-want +got):\n%s", diff)
	}
}

// slowAgents hold every list of the inventory up until they are released.
type slowAgents struct {
	httpapi.AgentStore
	release chan struct{}
}

func (s slowAgents) Agents(after string, limit int) ([]fleet.Agent, error) {
	<-s.release
	return s.AgentStore.Agents(after, limit)
}

// busyWorld is a world that is short of processors, whose lists wait for release.
func busyWorld(t *testing.T) (w *world, release chan struct{}) {
	release = make(chan struct{})
	return newWorld(t, func(o *httpapi.Options) {
		o.State.Agents = slowAgents{o.State.Agents, release}
		o.Busy = func() bool { return true }
	}), release
}

// While a query runs and others wait, all else is answered at once; what waits for
// too long, or is too much, is told why and when to come again.
func TestQueriesHoldUpNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, release := busyWorld(t)
		w.addAgent("a1", true)
		began := time.Now()
		var mu sync.Mutex
		answers := make(map[string][]*httptest.ResponseRecorder)
		var asking sync.WaitGroup
		ask := func(call string) {
			asking.Go(func() {
				rec := w.do(call, request{as: fleet.RoleAdmin, body: `{"filter":[]}`, header: map[string]string{"Content-Type": "application/json"}})
				mu.Lock()
				defer mu.Unlock()
				answers[call] = append(answers[call], rec)
			})
			synctest.Wait()
		}
		got := func(call string) []*httptest.ResponseRecorder {
			mu.Lock()
			defer mu.Unlock()
			return answers[call]
		}
		ask("GET /v1/agents")
		const late, full = "GET /v1/agents?limit=7", "GET /v1/agents?limit=9"
		for range 64 {
			ask(late)
		}
		ask(full)
		ask("GET /conn/list")
		ask("POST /api/v1/agent/getStatus/filter")
		for _, call := range []string{"GET /registry/detail?name=hids_svr_grpc", "GET /readyz", "GET /livez", "GET /v1/agents/a1", "GET /conn/count", "GET /v1/status"} {
			if rec := w.do(call, request{as: fleet.RoleAdmin}); rec.Code != http.StatusOK {
				t.Errorf("%s: %d %s", call, rec.Code, rec.Body)
			}
		}
		if rec := w.do("POST /api/v1/user/login", request{body: `{"username":"admin","password":"secret"}`}); rec.Code != http.StatusOK {
			t.Errorf("log-in: %d %s", rec.Code, rec.Body)
		}
		if passed := time.Since(began); passed > 0 {
			t.Errorf("other requests took %s", passed)
		}
		for _, call := range []string{full, "GET /conn/list", "POST /api/v1/agent/getStatus/filter"} {
			if recs := got(call); len(recs) != 1 || recs[0].Code != http.StatusServiceUnavailable || recs[0].Header().Get("Retry-After") != "5" ||
				!strings.Contains(recs[0].Body.String(), "agents come first") {
				t.Errorf("%s: %+v", call, recs)
			}
		}
		<-time.After(6 * time.Second)
		synctest.Wait()
		for _, rec := range got(late) {
			if rec.Code != http.StatusServiceUnavailable || !strings.Contains(rec.Body.String(), "within 5s") {
				t.Fatalf("%d %s", rec.Code, rec.Body)
			}
		}
		close(release)
		asking.Wait()
		if len(answers[late]) != 64 || answers["GET /v1/agents"][0].Code != http.StatusOK {
			t.Errorf("%d were refused; the first got %s", len(answers[late]), answers["GET /v1/agents"][0].Body)
		}
		<-time.After(10 * time.Second) // a busy node rests after a query
		synctest.Wait()
		if rec := w.do("GET /v1/agents", request{as: fleet.RoleAdmin}); rec.Code != http.StatusOK {
			t.Errorf("the next one: %d %s", rec.Code, rec.Body)
		}
		if err := testutil.GatherAndCompare(w.reg, strings.NewReader(`
# HELP muster_httpapi_queries_refused_total Queries of the fleet, of clients and of other nodes, that were refused because few run at once: too many waited already (queue_full), or the turn did not come within 5 s (late).
# TYPE muster_httpapi_queries_refused_total counter
muster_httpapi_queries_refused_total{reason="late"} 64
muster_httpapi_queries_refused_total{reason="queue_full"} 3
`), "muster_httpapi_queries_refused_total"); err != nil {
			t.Error(err)
		}
	})
}

// stuckClient takes the header of an answer and then nothing until it is released.
type stuckClient struct {
	*httptest.ResponseRecorder
	release chan struct{}
}

func (s stuckClient) Write(b []byte) (int, error) {
	<-s.release
	return s.ResponseRecorder.Write(b)
}

// A client that is slow to send its body or to read its answer has no turn
// meanwhile.
func TestSlowClientsHoldUpNoQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, release := busyWorld(t)
		close(release)
		w.addAgent("a1", true)
		serve := func(rw http.ResponseWriter, call string, body io.Reader) {
			method, path, _ := strings.Cut(call, " ")
			r := httptest.NewRequestWithContext(t.Context(), method, path, body)
			r.Header.Set("token", token(fleet.RoleAdmin))
			w.api.Handler(httpapi.ListenerHTTPS).ServeHTTP(rw, r)
		}
		var slow sync.WaitGroup
		stuck := make(chan struct{})
		slow.Go(func() { serve(stuckClient{httptest.NewRecorder(), stuck}, "GET /v1/agents", nil) })
		body, sends := io.Pipe()
		filtered := httptest.NewRecorder()
		slow.Go(func() { serve(filtered, "POST /api/v1/agent/getStatus/filter", body) })
		synctest.Wait()
		began := time.Now()
		if rec := w.do("GET /v1/agents", request{as: fleet.RoleAdmin}); rec.Code != http.StatusOK || time.Since(began) > 0 {
			t.Errorf("beside two slow clients: %d %s after %s", rec.Code, rec.Body, time.Since(began))
		}
		close(stuck)
		_, _ = io.WriteString(sends, `{"filter":[]}`)
		_ = sends.Close()
		slow.Wait()
		if filtered.Code != http.StatusOK {
			t.Errorf("the slow sender: %d %s", filtered.Code, filtered.Body)
		}
	})
}

// A query that panics gives its turn back.
func TestPanicGivesTheTurnBack(t *testing.T) {
	w := newWorld(t, func(o *httpapi.Options) {
		o.State.Agents = panicAgents{o.State.Agents}
		o.Busy = func() bool { return true }
	})
	for range 3 {
		if rec := w.do("GET /v1/agents", request{as: fleet.RoleAdmin}); rec.Code != http.StatusInternalServerError {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
	}
}

type panicAgents struct{ httpapi.AgentStore }

func (panicAgents) Agents(string, int) ([]fleet.Agent, error) { panic("on purpose") }
