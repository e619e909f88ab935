// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package apiclient_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/internal/apiclient"
	"muster/internal/apiv1"
)

// serve answers with h until the test ends, and returns a client of it.
func serve(t *testing.T, h http.HandlerFunc, change ...func(*apiclient.Options)) *apiclient.Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return client(t, srv.URL, change...)
}

func client(t *testing.T, addr string, change ...func(*apiclient.Options)) *apiclient.Client {
	t.Helper()
	opts := apiclient.Options{Addr: addr, Timeout: 10 * time.Second}
	for _, c := range change {
		c(&opts)
	}
	c, err := apiclient.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestDo(t *testing.T) {
	type seen struct {
		Method, URI, Body, Token, Type, Agent string
	}
	var got []seen
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = append(got, seen{r.Method, r.RequestURI, string(b), r.Header.Get("Authorization"), r.Header.Get("Content-Type"), r.UserAgent()})
		if r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		_, _ = io.WriteString(w, `{"tag":"web","agents":3,"more":1}`)
	}, func(o *apiclient.Options) { o.Addr += "/behind/"; o.Token = "t0"; o.UserAgent = "test/1" })

	var tag apiv1.Tag
	if err := c.Do(t.Context(), http.MethodPost, apiclient.Path("v1", "tags", "a/b c")+"?x=%2F", apiv1.Tag{Tag: "in"}, &tag); err != nil {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), http.MethodDelete, "/v1/x", nil, &tag); err != nil {
		t.Fatal(err)
	}
	if want := (apiv1.Tag{Tag: "web", Agents: 3}); tag != want {
		t.Errorf("answer %+v, want %+v", tag, want)
	}
	want := []seen{
		{"POST", "/behind/v1/tags/a%2Fb%20c?x=%2F", `{"tag":"in","agents":0}`, "Bearer t0", "application/json", "test/1"},
		{"DELETE", "/behind/v1/x", "", "Bearer t0", "", "test/1"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestProblems(t *testing.T) {
	tests := map[string]struct {
		header map[string]string
		status int
		body   string
		want   string
	}{
		"problem": {
			map[string]string{"Content-Type": "application/problem+json"},
			400,
			`{"status":200,"code":"invalid","field":"limit","detail":"is not a number"}`, "limit: is not a number",
		},
		"problem with a charset": {
			map[string]string{"Content-Type": "application/problem+json; charset=utf-8"}, 409, `{"code":"exists","detail":"there"}`, "there",
		},
		"title alone": {map[string]string{"Content-Type": "application/problem+json"}, 500, `{"title":"Internal Server Error"}`, "Internal Server Error"},
		"throttled": {
			map[string]string{"Content-Type": "application/problem+json", "Retry-After": "7"},
			429, `{"code":"throttled","detail":"slow down"}`,
			"slow down (try again in 7 s)",
		},
		"throttled, and said so": {
			map[string]string{"Content-Type": "application/problem+json", "Retry-After": "7"},
			429, `{"code":"throttled","detail":"too many attempts: try again in 7 s"}`,
			"too many attempts: try again in 7 s",
		},
		"a proxy's page": {map[string]string{"Content-Type": "text/html"}, 502, `<h1>no</h1>`, "ADDR answered 502 Bad Gateway"},
		"another server": {nil, 404, `no such page`, "ADDR answered 404 Not Found: is it a Muster node's HTTP address (--http-addr or --https-addr)?"},
		"a redirect":     {map[string]string{"Location": "https://else.where/"}, 302, ``, "ADDR answered 302 Found to https://else.where/: is that the address to use?"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				for k, v := range tt.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			err := c.Do(t.Context(), http.MethodGet, "/v1/status", nil, nil)
			if err == nil || !apiclient.IsStatus(err, tt.status) || apiclient.IsStatus(err, 418) {
				t.Fatalf("error %v, want status %d", err, tt.status)
			}
			if got, want := err.Error(), strings.ReplaceAll(tt.want, "ADDR", c.Addr()); got != want {
				t.Errorf("error %q, want %q", got, want)
			}
		})
	}
}

// A redirect must not take the token to a host that nobody named.
func TestTokenStays(t *testing.T) {
	asked := false
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer thief.Close()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
	}, func(o *apiclient.Options) { o.Token = "secret" })
	if err := c.Do(t.Context(), http.MethodGet, "/v1/status", nil, nil); err == nil || asked {
		t.Errorf("error %v, the other host was asked: %t", err, asked)
	}
}

func TestUnreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + ln.Addr().String()
	_ = ln.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	secure.Config.ErrorLog = nil
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	stuck := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stuck }))
	defer hanging.Close()
	defer close(stuck)

	otherName := x509.NewCertPool()
	otherName.AddCert(secure.Certificate())
	tests := map[string]struct {
		addr   string
		change func(*apiclient.Options)
		want   string
	}{
		"nobody there":       {closed, nil, "is the node running"},
		"unknown ca":         {secure.URL, nil, "give the cluster's CA with --ca FILE"},
		"another name":       {secure.URL, func(o *apiclient.Options) { o.TLS = &tls.Config{RootCAs: otherName, ServerName: "else.where"} }, "stands in the node's certificate"},
		"https to plain":     {strings.Replace(plain.URL, "http:", "https:", 1), nil, "use http://"},
		"it does not answer": {hanging.URL, func(o *apiclient.Options) { o.Timeout = 50 * time.Millisecond }, "try another one"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			change := tt.change
			if change == nil {
				change = func(*apiclient.Options) {}
			}
			c := client(t, tt.addr, change)
			err := c.Do(t.Context(), http.MethodGet, "/v1/status", nil, nil)
			unreachable, ok := errors.AsType[*apiclient.Unreachable](err)
			if !ok || !strings.Contains(unreachable.Advice, tt.want) || !strings.Contains(err.Error(), tt.addr) {
				t.Errorf("error %v, want advice with %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "Get \"") {
				t.Errorf("error repeats the request: %v", err)
			}
		})
	}
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	if err := c.Do(ctx, http.MethodGet, "/v1/status", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestStrangeAnswers(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `<html>`) })
	err := c.Do(t.Context(), http.MethodGet, "/v1/status", nil, &apiv1.Status{})
	if err == nil || !strings.Contains(err.Error(), "is "+c.Addr()+" a Muster node") {
		t.Errorf("error %v", err)
	}
	if err := c.Do(t.Context(), http.MethodGet, "no-slash", nil, nil); err == nil {
		t.Error("a path without a slash was taken")
	}
}

func TestOptions(t *testing.T) {
	for name, opts := range map[string]apiclient.Options{
		"no scheme":    {Addr: "127.0.0.1:6701"},
		"ftp":          {Addr: "ftp://x"},
		"no host":      {Addr: "http://"},
		"token":        {Addr: "http://x", Token: "a b"},
		"negative":     {Addr: "http://x", Timeout: -1},
		"no addr":      {},
		"control byte": {Addr: "http://x\n"},
	} {
		if _, err := apiclient.New(opts); err == nil {
			t.Errorf("%s: %+v was taken", name, opts)
		}
	}
}

// numbers serves a list of n numbers in pages of at most 10.
func numbers(t *testing.T, n int, asked *[]url.Values) *apiclient.Client {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		*asked = append(*asked, q)
		limit, _ := strconv.Atoi(q.Get("limit"))
		from, _ := strconv.Atoi(q.Get("after"))
		if from == 20 && q.Get("fail") != "" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		p := apiv1.Page[int]{Items: []int{}}
		for i := from; i < min(n, from+min(limit, 10)); i++ {
			p.Items = append(p.Items, i)
		}
		if end := from + len(p.Items); end < n {
			p.Next = strconv.Itoa(end)
		}
		_ = json.NewEncoder(w).Encode(p)
	})
}

func TestPages(t *testing.T) {
	for _, tt := range []struct{ n, limit, want, pages int }{
		{25, 0, 25, 3}, {25, 12, 12, 2}, {25, 10, 10, 1}, {25, 100, 25, 3}, {0, 0, 0, 1}, {10, 0, 10, 1},
	} {
		t.Run(fmt.Sprintf("%d of %d", tt.limit, tt.n), func(t *testing.T) {
			var asked []url.Values
			c := numbers(t, tt.n, &asked)
			got, err := apiclient.Collect[int](t.Context(), c, "/v1/numbers", url.Values{"tag": {"a&b"}}, tt.limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != tt.want || !slices.IsSorted(got) || got == nil {
				t.Errorf("got %v, want %d", got, tt.want)
			}
			if len(asked) != tt.pages || asked[0].Get("tag") != "a&b" {
				t.Errorf("asked %v, want %d pages", asked, tt.pages)
			}
		})
	}
}

func TestPagesStop(t *testing.T) {
	var asked []url.Values
	c := numbers(t, 100, &asked)
	for n, err := range apiclient.All[int](t.Context(), c, "/v1/numbers", nil, 0) {
		if err != nil || n == 5 {
			break
		}
	}
	if len(asked) != 1 {
		t.Errorf("%d pages asked for", len(asked))
	}
	got, err := apiclient.Collect[int](t.Context(), c, "/v1/numbers", url.Values{"fail": {"1"}}, 0)
	if !apiclient.IsStatus(err, http.StatusServiceUnavailable) || got != nil {
		t.Errorf("got %v, %v", got, err)
	}
}
