// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package apiclient_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/internal/apiclient"
	"muster/internal/memnet"
)

// read gathers what ReadEvents yields, an error as its text.
func read(r io.Reader) (got []string) {
	for e, err := range apiclient.ReadEvents(r) {
		if err != nil {
			return append(got, "error: "+err.Error())
		}
		got = append(got, fmt.Sprintf("%s/%s/%s", e.ID, e.Name, e.Data))
	}
	return got
}

func TestReadEvents(t *testing.T) {
	for name, tt := range map[string]struct {
		in   string
		want []string
	}{
		"nothing":          {"", nil},
		"one":              {"id: 7\nevent: node\ndata: {}\n\n", []string{"7/node/{}"}},
		"the ID stays":     {"id: 7\ndata:a\n\ndata: b\n\n", []string{"7/message/a", "7/message/b"}},
		"CRLF":             {"event: x\r\ndata: y\r\n\r\n", []string{"/x/y"}},
		"two lines":        {"data: a\ndata:  b\n\n", []string{"/message/a\n b"}},
		"comments":         {": still here\n\n:\n\ndata\n\n", []string{"/message/"}},
		"without data":     {"event: x\n\nid: 3\n\ndata: y\n\n", []string{"3/message/y"}},
		"an unknown field": {"retry: 10\nfoo\ndata: y\n\n", []string{"/message/y"}},
		"cut off":          {"data: a\n\ndata: b\n", []string{"/message/a"}},
		"in mid-line":      {"data: a\n\ndata: b", []string{"/message/a"}},
		"too large":        {"data: a\n\ndata: " + strings.Repeat("x", apiclient.MaxEventBytes), []string{"/message/a", "error: an event is larger than 8388608 bytes"}},
		"too many lines":   {strings.Repeat("data: "+strings.Repeat("x", 1<<20)+"\n", 9), []string{"error: an event is larger than 8388608 bytes"}},
	} {
		if diff := cmp.Diff(tt.want, read(strings.NewReader(tt.in))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for range apiclient.ReadEvents(strings.NewReader("data: a\n\ndata: b\n\n")) {
		break // and it does not yield again
	}
}

func FuzzReadEvents(f *testing.F) {
	for _, in := range []string{"id: 7\nevent: node\ndata: {}\n\n", ": x\n\n", "data\r\n\r\n", "\n\n\n", "data: a\ndata: b\n\n", "id\ndata:\n\n", "\xff: \x00\n\n"} {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		whole := read(bytes.NewReader(in))
		if diff := cmp.Diff(whole, read(oneByOne{bytes.NewReader(in)})); diff != "" {
			t.Errorf("byte by byte it is another (-whole +bytes):\n%s", diff)
		}
		if n := bytes.Count(in, []byte("\n")); len(whole) > n {
			t.Errorf("%d events of %d lines", len(whole), n)
		}
	})
}

type oneByOne struct{ r io.Reader }

func (o oneByOne) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

// TestEvents: a stream has no time limit while the node says something, and every
// way in which it ends is told.
func TestEvents(t *testing.T) {
	write := func(w http.ResponseWriter, text string) {
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
	}
	for name, tt := range map[string]struct {
		serve http.HandlerFunc
		want  []string // parts
	}{
		"longer than the time limit": {func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				write(w, ": still here\n\n")
				time.Sleep(15 * time.Second)
			}
			write(w, "data: at last\n\n")
		}, []string{"at last", "the stream broke off"}},
		"silent": {func(w http.ResponseWriter, r *http.Request) {
			write(w, "data: a\n\n")
			<-r.Context().Done()
		}, []string{"a", "it said nothing for 30s"}},
		"silent from the start": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, []string{"it said nothing for 30s"}},
		"refused": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, `{"detail":"64 event streams are open"}`)
		}, []string{"64 event streams are open"}},
		"asked as it must be": {func(w http.ResponseWriter, r *http.Request) {
			write(w, "data: "+r.Header.Get("Accept")+" "+r.Header.Get("Authorization")+"\n\n")
		}, []string{"text/event-stream, application/problem+json Bearer t0", "broke off"}},
	} {
		inBubble(t, name, tt.serve, func(t *testing.T, c *apiclient.Client) {
			var got []string
			for e, err := range c.Events(t.Context(), "/v1/nodes") {
				text := string(e.Data)
				if err != nil {
					text = err.Error()
				}
				got = append(got, text)
			}
			for i, want := range tt.want {
				if len(got) != len(tt.want) || !strings.Contains(got[i], want) {
					t.Fatalf("got %q, want %q", got, tt.want)
				}
			}
		})
	}
}

// inBubble runs a test with a client of a server whose time is virtual.
func inBubble(t *testing.T, name string, h http.HandlerFunc, test func(t *testing.T, c *apiclient.Client)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			network := memnet.New()
			ln, err := network.Host("192.0.2.1").Listen("tcp", ":6701")
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
			var serving sync.WaitGroup
			serving.Go(func() { _ = srv.Serve(ln) })
			transport := &http.Transport{DialContext: network.Host("192.0.2.2").DialContext}
			test(t, client(t, "http://192.0.2.1:6701", func(o *apiclient.Options) {
				o.Transport, o.Token, o.Timeout = transport, "t0", apiclient.DefaultTimeout
			}))
			transport.CloseIdleConnections()
			_ = srv.Close()
			serving.Wait()
		})
	})
}

// TestEventsEnd: the caller may end a stream at any time.
func TestEventsEnd(t *testing.T) {
	gone := make(chan struct{})
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "data: a\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(gone)
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, err := range c.Events(ctx, "/v1/nodes") {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	<-gone
}
