// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/httpapi"
	"muster/internal/memnet"
)

func TestFrontPage(t *testing.T) {
	w := newWorld(t)
	w.addAgent("a1", true)
	w.health.Degraded = []string{"kafka away for <12> s"}
	text := w.do("GET /", request{kind: httpapi.ListenerHTTP})
	for _, want := range []string{"Muster node n1", "ready, degraded", "connected here: 1", "<12>", "http://example.com/api/v1/user/login", "muster status --addr"} {
		if !strings.Contains(text.Body.String(), want) {
			t.Errorf("text without %q:\n%s", want, text.Body)
		}
	}
	html := w.do("GET /", request{header: map[string]string{"Accept": "text/html,*/*"}})
	if ct := html.Header().Get("Content-Type"); !strings.HasPrefix(ct, "text/html") || !strings.Contains(html.Body.String(), "&lt;12&gt;") || !strings.Contains(html.Body.String(), "https://example.com/") {
		t.Errorf("%s:\n%s", ct, html.Body)
	}
	for _, host := range []string{"x;rm -rf ~", "$(id)", "a b", ""} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		r.Host = host
		rec := httptest.NewRecorder()
		w.api.Handler(httpapi.ListenerHTTP).ServeHTTP(rec, r)
		if !strings.Contains(rec.Body.String(), "http://HOST:PORT/api") {
			t.Errorf("host %q is shown to be pasted into a shell:\n%s", host, rec.Body)
		}
	}
}

func TestSecurityHeaders(t *testing.T) {
	w := newWorld(t)
	for _, call := range []string{"GET /", "GET /ping", getStatus, "GET /v1/status", "GET /nothing"} {
		h := w.do(call, request{as: fleet.RoleAdmin}).Header()
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Frame-Options") != "DENY" || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: headers %v", call, h)
		}
	}
	if got := w.do(getStatus, request{as: fleet.RoleAdmin}).Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control of an answer to somebody is %q", got)
	}
}

// TestServe: a request that is under way when the node stops is answered, and
// Serve returns after it.
func TestServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		fill(w, 2)
		begun := make(chan struct{})
		w.live.written = func(string) error {
			close(begun)
			time.Sleep(3 * time.Second)
			return nil
		}
		network := memnet.New()
		ln, err := network.Host("192.0.2.1").Listen("tcp", ":6701")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := w.api.Serve(ctx, httpapi.ListenerHTTP, ln, nil); err != nil {
				t.Errorf("Serve = %v, want nil", err)
			}
		})
		wg.Go(func() {
			<-begun
			stop()
		})
		client := &http.Client{Transport: &http.Transport{DialContext: network.Host("192.0.2.2").DialContext, DisableKeepAlives: true}}
		r, err := http.NewRequestWithContext(t.Context(), "POST", "http://192.0.2.1:6701/command", strings.NewReader(restart))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("token", token(fleet.RoleOperator))
		answer, err := client.Do(r)
		if err != nil {
			t.Fatalf("request under way at the stop: %v", err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Errorf("request under way at the stop: %s", answer.Status)
		}
		wg.Wait()
	})
}

func FuzzRequests(f *testing.F) {
	f.Add("/api/v1/agent/getStatus/filter?page=1", `{"filter":[{"key":"cpu","rules":[{"operator":"$gt","value":1}]}],"condition":"$or"}`)
	f.Add("/api/v1/agent/createTask/task", `{"id_list":["a0001"],"data":{"task":{"data_type":1,"name":"x"}}}`)
	f.Add("/api/v6/user/new", `{"username":"x","level":1,"password":"p"}`)
	f.Add("/api/v1/agent/updateDefaultConfig", `{"type":"x","config":[{"name":"y","download_url":null}]}`)
	f.Add("/command/", restart)
	f.Add("/conn/reset", `{"type":"random","count":1}`)
	f.Add("/v1/tags", `{}`)
	f.Fuzz(func(t *testing.T, target, body string) {
		w := newWorld(t)
		fill(w, 3)
		w.live.written = func(string) error { return nil }
		r, err := http.NewRequestWithContext(t.Context(), "POST", "http://n1/"+strings.TrimLeft(target, "/"), strings.NewReader(body))
		if err != nil {
			t.Skip("no URL that a client could send")
		}
		r.RemoteAddr = "127.0.0.1:1"
		r.Header.Set("token", token(fleet.RoleAdmin))
		rec := httptest.NewRecorder()
		w.api.Handler(httpapi.ListenerHTTPS).ServeHTTP(rec, r)
		if rec.Code >= 500 && rec.Code != 503 {
			t.Errorf("POST %s %s: %d %s\n%s", target, body, rec.Code, rec.Body, w.log)
		}
		if ct := rec.Header().Get("Content-Type"); strings.Contains(ct, "json") && !json.Valid(bytes.TrimSpace(rec.Body.Bytes())) {
			t.Errorf("POST %s %s: answer is not JSON: %s", target, body, rec.Body)
		}
	})
}
