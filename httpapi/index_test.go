// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/httpapi"
)

func minIndex(as fleet.Role, n string) request {
	return request{as: as, header: map[string]string{"X-Muster-Min-Index": n}}
}

// TestIndexOfWrites: what changes the state says how far this node's is; reads
// and what has no state do not.
func TestIndexOfWrites(t *testing.T) {
	w := newWorld(t)
	w.store.applied = 41
	for _, r := range w.api.Routes() {
		w.seed()
		got := try(w, r, request{as: fleet.RoleAdmin}).Header().Get(httpapi.HeaderIndex)
		want := ""
		if r.Method != http.MethodGet {
			want = "41"
		}
		if got != want {
			t.Errorf("%s: %s is %q, want %q", r, httpapi.HeaderIndex, got, want)
		}
	}
	if got := w.do("POST /api/v1/user/login", request{body: `{"username":"viewer","password":"secret"}`}).Header().Get(httpapi.HeaderIndex); got != "41" {
		t.Errorf("a log-in's: %q", got)
	}
}

// TestCommittedNotVisible: a write that stands and cannot be seen here yet says
// from which index on it can.
func TestCommittedNotVisible(t *testing.T) {
	w := newV1World(t)
	w.store.err = fmt.Errorf("writing: %w", &fleet.NotVisible{Index: 99})
	q := request{as: fleet.RoleAdmin, body: `{"name":"new","password":"long enough","role":"viewer"}`}
	got := w.v1("POST /v1/users", q, 504)
	equal(t, "problem", []any{"committed_not_visible", 99.0}, []any{got["code"], got["index"]})
	if h := w.do("POST /v1/users", q).Header().Get(httpapi.HeaderIndex); h != "99" {
		t.Errorf("%s: %q", httpapi.HeaderIndex, h)
	}
	rec := w.do("POST /api/v6/user/new", request{as: fleet.RoleAdmin, body: `{"username":"new","password":"secret","level":3}`})
	if rec.Code != 504 || !strings.Contains(rec.Body.String(), `"code":11`) || rec.Header().Get(httpapi.HeaderIndex) != "99" {
		t.Errorf("Elkeid's route: %d %v %s", rec.Code, rec.Header(), rec.Body)
	}
}

// lagging is a world whose node applies index 50 ten milliseconds after it is
// waited for, and 60 never; the cluster's log has come to 60.
func lagging(t *testing.T) (v1World, *fakeCluster) {
	c := &fakeCluster{}
	w := newV1World(t, func(o *httpapi.Options) { o.Cluster = c })
	c.readIndex = func(context.Context) (uint64, error) { return 60, nil }
	c.waitApplied = func(ctx context.Context, index uint64) error {
		if index <= 50 {
			time.Sleep(10 * time.Millisecond)
			w.store.mu.Lock()
			defer w.store.mu.Unlock()
			w.store.applied = 50
			return nil
		}
		<-ctx.Done()
		return &fleet.NotVisible{Index: index}
	}
	return w, c
}

// TestMinIndex: a request waits until this node is as far as it asks for, but
// not for ever, and hardly at all for what the cluster does not have.
func TestMinIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := lagging(t)
		for _, tt := range []struct {
			index  string
			status int
			took   time.Duration
			says   string
		}{
			{"7", 200, 0, ""},
			{"0", 200, 0, ""},
			{"50", 200, 10 * time.Millisecond, ""},
			{"60", 504, 10 * time.Second, "has applied index 50, 60 was asked for"},
			{"61", 504, time.Second, "has come to index 60, 61 was asked for"},
			{"9007199254740991", 504, time.Second, "has come to index 60"},
			{"-1", 400, 0, "is not an index"},
			{"18446744073709551616", 400, 0, "is not an index"},
		} {
			begun := time.Now()
			got := w.v1("GET /v1/tags", minIndex(fleet.RoleViewer, tt.index), tt.status)
			if took := time.Since(begun); took != tt.took {
				t.Errorf("index %s: answered after %v, want %v", tt.index, took, tt.took)
			}
			if tt.status == 504 && (got["code"] != "not_yet_visible" || fmt.Sprintf("%.0f", got["index"]) == "0") {
				t.Errorf("index %s: %v", tt.index, got)
			}
			if d := fmt.Sprint(got["detail"]); !strings.Contains(d, tt.says) {
				t.Errorf("index %s: %s", tt.index, d)
			}
		}
		c.readIndex = func(ctx context.Context) (uint64, error) { <-ctx.Done(); return 0, context.Cause(ctx) }
		begun := time.Now()
		w.v1("GET /v1/tags", minIndex(fleet.RoleViewer, "61"), 504)
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("without a leader: answered after %v", took)
		}
	})
}

// TestMinIndexEverywhere: every route of the state honours the header, in the
// shape of its family; health and service discovery do not look at it.
func TestMinIndexEverywhere(t *testing.T) {
	w := newWorld(t) // alone: what is not applied is nowhere
	for _, r := range w.api.Routes() {
		w.seed()
		q := minIndex(fleet.RoleAdmin, "8")
		if r.Access.Permission() == "" && r.Access.Scope() != "" {
			q.key = "ak" + string(r.Access.Scope())
		}
		rec := try(w, r, q)
		if late := rec.Code == 504 && strings.Contains(rec.Body.String(), "index 7, 8 was asked for"); late == r.Stateless {
			t.Errorf("%s: %d %s", r, rec.Code, rec.Body)
		}
	}
}

// TestMinIndexBringsToken: who is sent on to another node with the index of its
// log-in is known there.
func TestMinIndexBringsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := lagging(t)
		tok := w.store.tokens["t-viewer"]
		delete(w.store.tokens, "t-viewer")
		q := minIndex(fleet.RoleViewer, "50")
		time.AfterFunc(5*time.Millisecond, func() {
			w.store.mu.Lock()
			defer w.store.mu.Unlock()
			w.store.tokens["t-viewer"] = tok
		})
		w.v1("GET /v1/tags", q, 200)
	})
}

// TestLinearizable: a read that asks for it sees what any node acknowledged.
func TestLinearizable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := lagging(t)
		q := func(value string) request {
			return request{as: fleet.RoleViewer, header: map[string]string{"X-Muster-Consistency": value}}
		}
		w.v1("GET /v1/tags", q("local"), 200)
		if c.asked != 0 {
			t.Error("a local read asks the leader")
		}
		c.readIndex = func(context.Context) (uint64, error) { return 50, nil }
		w.v1("GET /v1/tags", q("linearizable"), 200)
		if w.store.applied != 50 || c.asked != 1 {
			t.Errorf("read at index %d, the leader was asked %d times", w.store.applied, c.asked)
		}
		c.readIndex = func(context.Context) (uint64, error) { return 60, nil }
		begun := time.Now()
		got := w.v1("GET /v1/tags", q("linearizable"), 504)
		if took := time.Since(begun); took != 10*time.Second || got["code"] != "not_yet_visible" {
			t.Errorf("after %v: %v", took, got)
		}
		c.readIndex = func(context.Context) (uint64, error) { return 0, fmt.Errorf("no leader: %w", fleet.ErrUnavailable) }
		w.v1("GET /v1/tags", q("linearizable"), 503)
		w.v1("GET /v1/tags", q("strong"), 400)
		asked := c.asked
		w.do("GET /v1/tags", request{header: map[string]string{"X-Muster-Consistency": "linearizable"}})
		if c.asked != asked {
			t.Error("the leader is asked for somebody without a credential")
		}
	})
}
