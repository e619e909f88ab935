// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/httpapi"
)

// behind is a world of a node that is 100 entries behind its leader. What
// arrives is in the state once the node has applied index 107.
func behind(t *testing.T, arrives func(w *world)) (*world, *fakeCluster) {
	c := &fakeCluster{}
	w := newWorld(t, func(o *httpapi.Options) { o.Cluster = c })
	c.readIndex = func(context.Context) (uint64, error) {
		time.Sleep(5 * time.Millisecond)
		return 107, nil
	}
	c.waitApplied = func(ctx context.Context, index uint64) error {
		if index != 107 {
			return fmt.Errorf("waits for %d: %w", index, fleet.ErrInvalid)
		}
		time.Sleep(30 * time.Millisecond)
		w.store.mu.Lock()
		defer w.store.mu.Unlock()
		arrives(w)
		w.store.applied = 107
		return nil
	}
	return w, c
}

// TestTokenOfAnotherNode: a token and a key that another node made a moment ago
// are good here.
func TestTokenOfAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := behind(t, func(w *world) {
			tok := w.store.tokens["t-viewer"]
			tok.ID, tok.Hash = "fresh", hashText("fresh")
			w.store.tokens["fresh"] = tok
			w.store.keys["akfresh"] = fleet.AccessKey{AccessKey: "akfresh", Scope: fleet.KeyScopeSD}
			w.store.secrets["akfresh"] = []byte("secret-of-akfresh")
		})
		if rec := w.do(getStatus, withToken("fresh")); rec.Code != 200 {
			t.Errorf("a fresh token: %d %s", rec.Code, rec.Body)
		}
		delete(w.store.keys, "akfresh")
		if rec := w.do("POST /registry/evict", request{key: "akfresh", body: `{"name":"x","ip":"10.0.0.1","port":1}`}); rec.Code != 200 {
			t.Errorf("a fresh key: %d %s", rec.Code, rec.Body)
		}
		if c.asked != 2 {
			t.Errorf("the leader was asked %d times, want once for each", c.asked)
		}
		for range 10 {
			w.do(getStatus, withToken("fresh"))
			w.do("GET /conn/count", request{key: "akagents"})
		}
		if c.asked != 2 {
			t.Error("the leader is asked for what is known")
		}
		if rec := w.do(getStatus, withToken("nonsense")); rec.Code != 401 {
			t.Errorf("a token that nobody made: %d, want 401", rec.Code)
		}
		if rec := w.do("GET /conn/count", request{key: "nonsense"}); !refused(rec) {
			t.Errorf("a key that nobody made: %d %s", rec.Code, rec.Body)
		}
	})
}

// TestLogInOfFreshUser: a user that another node made, or whose password it
// changed, a moment ago can log in here; without a leader, whoever is known.
func TestLogInOfFreshUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := behind(t, func(w *world) {
			w.store.users["fresh"] = fleet.User{Name: "fresh", Level: 3, PasswordHash: "hash:secret"}
			w.store.users["viewer"] = fleet.User{Name: "viewer", Level: 3, PasswordHash: "hash:changed"}
		})
		w.login("fresh", "secret")
		w.seed()
		w.login("viewer", "changed")
		c.readIndex = func(context.Context) (uint64, error) { return 0, fleet.ErrUnavailable }
		w.login("viewer", "changed")
	})
}

// TestFreshTokensAreNotThrottled: who makes many tokens and uses them on other
// nodes is no stranger.
func TestFreshTokensAreNotThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fresh := 0
		w, c := behind(t, func(w *world) {
			tok := w.store.tokens["t-viewer"]
			tok.ID, tok.Hash = "fresh", hashText(fmt.Sprint("fresh", fresh))
			w.store.tokens["fresh"] = tok
			ak := fmt.Sprint("akfresh", fresh)
			w.store.keys[ak], w.store.secrets[ak] = fleet.AccessKey{AccessKey: ak, Scope: fleet.KeyScopeAgents}, []byte("secret-of-"+ak)
		})
		for ; fresh < 100; fresh++ {
			if rec := w.do(getStatus, withToken(fmt.Sprint("fresh", fresh))); rec.Code != 200 {
				t.Fatalf("fresh token %d: %d %s", fresh, rec.Code, rec.Body)
			}
			delete(w.store.keys, fmt.Sprint("akfresh", fresh))
			if rec := w.do("GET /conn/count", request{key: fmt.Sprint("akfresh", fresh)}); rec.Code != 200 || refused(rec) {
				t.Fatalf("fresh key %d: %d %s", fresh, rec.Code, rec.Body)
			}
		}
		if c.asked != 200 {
			t.Errorf("the leader was asked %d times, want 200", c.asked)
		}
	})
}

// TestStrangersShareAQuestion: however many come with unknown tokens, the leader
// is asked one question at a time, and those who came after it was asked do not
// take its answer for theirs.
func TestStrangersShareAQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		var under, most atomic.Int32
		var index atomic.Uint64
		index.Store(10)
		c := &fakeCluster{}
		w := newWorld(t, func(o *httpapi.Options) { o.Cluster = c })
		c.readIndex = func(context.Context) (uint64, error) {
			most.Store(max(most.Load(), under.Add(1)))
			defer under.Add(-1)
			now := index.Load()
			time.Sleep(100 * time.Millisecond)
			return now, nil
		}
		c.waitApplied = func(_ context.Context, upTo uint64) error {
			w.store.mu.Lock()
			defer w.store.mu.Unlock()
			if upTo >= 11 {
				tok := w.store.tokens["t-viewer"]
				tok.ID, tok.Hash = "late", hashText("late")
				w.store.tokens["late"] = tok
			}
			return nil
		}
		stranger := func(i int, text string, want int) {
			rec := w.do(getStatus, request{header: map[string]string{"token": text}, from: fmt.Sprintf("10.1.%d.%d:1", i/250, i%250)})
			if rec.Code != want {
				t.Errorf("token %s: %d %s, want %d", text, rec.Code, rec.Body, want)
			}
		}
		for i := range 300 {
			wg.Go(func() { stranger(i, "nonsense", 401) })
		}
		time.Sleep(10 * time.Millisecond) // the first question is under way
		index.Store(11)                   // a log-in elsewhere is answered
		wg.Go(func() { stranger(301, "late", 200) })
		wg.Wait()
		if c.asked > 3 || most.Load() != 1 {
			t.Errorf("the leader was asked %d times, up to %d at once", c.asked, most.Load())
		}
	})
}

// TestCannotTell: a node that hears no leader does not say that a token is
// wrong, and does not keep its client waiting.
func TestCannotTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{}
		w := newWorld(t, func(o *httpapi.Options) { o.Cluster = c })
		silent := func(ctx context.Context) error {
			<-ctx.Done()
			return fmt.Errorf("no leader: %w", context.Cause(ctx))
		}
		for name, change := range map[string]func(){
			"no leader": func() { c.readIndex = func(ctx context.Context) (uint64, error) { return 0, silent(ctx) } },
			"far behind": func() {
				c.readIndex = nil
				c.waitApplied = func(ctx context.Context, _ uint64) error { return silent(ctx) }
			},
		} {
			change()
			for call, q := range map[string]request{
				"GET /v1/status": withToken("x"), getStatus: withToken("x"), "GET /conn/count": {key: "x"}, "POST /registry/evict": {key: "x"},
			} {
				begun := time.Now()
				rec := w.do(call, q)
				if took := time.Since(begun); took > time.Second {
					t.Errorf("%s, %s: answered after %v", name, call, took)
				}
				if rec.Code != 503 || rec.Header().Get("Retry-After") == "" || !strings.Contains(rec.Body.String(), "cannot tell now") {
					t.Errorf("%s, %s: %d %s", name, call, rec.Code, rec.Body)
				}
			}
			if rec := w.do(getStatus, request{as: fleet.RoleViewer}); rec.Code != 200 {
				t.Errorf("%s: a token that is known: %d", name, rec.Code)
			}
			w.pass(time.Minute)
		}
		if got := counterOf(w, "muster_httpapi_refused_total", "undecided"); got != 8 {
			t.Errorf("counted %v, want 8", got)
		}
	})
}

// TestStrangersAreThrottled: the source of many unknown credentials costs the
// leader nothing any more.
func TestStrangersAreThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{}
		w := newWorld(t, func(o *httpapi.Options) { o.Cluster = c })
		var last *httptest.ResponseRecorder
		begun := time.Now()
		for range 100 {
			last = w.do("GET /conn/count", request{key: "unknown"})
		}
		if c.asked != 60 {
			t.Errorf("for 100 unknown keys the leader was asked %d times, want 60", c.asked)
		}
		if took := time.Since(begun); took < 59*20*time.Millisecond {
			t.Errorf("60 questions within %v", took)
		}
		if !refused(last) || last.Header().Get("Retry-After") == "" || !strings.Contains(last.Body.String(), "too many attempts") {
			t.Errorf("the last: %d %s", last.Code, last.Body)
		}
		if rec := w.do("GET /conn/count", request{key: "akagents"}); rec.Code != 200 {
			t.Errorf("a good key from there: %d", rec.Code)
		}
	})
}

// TestClientGivesUp: a client that goes away takes nothing from those who wait
// for the same answer.
func TestClientGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{}
		w := newWorld(t, func(o *httpapi.Options) { o.Cluster = c })
		c.readIndex = func(ctx context.Context) (uint64, error) {
			select {
			case <-time.After(200 * time.Millisecond):
				return 7, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		stay := func() {
			if rec := w.do("GET /v1/status", withToken("x")); rec.Code != 401 {
				t.Errorf("who stayed: %d %s", rec.Code, rec.Body)
			}
		}
		wg.Go(stay) // asks
		time.Sleep(time.Millisecond)
		wg.Go(func() { // asks next, as it waits longest
			r := httptest.NewRequestWithContext(ctx, "GET", "/v1/status", nil)
			r.Header.Set("token", "x")
			w.api.Handler(httpapi.ListenerHTTPS).ServeHTTP(httptest.NewRecorder(), r)
		})
		time.Sleep(time.Millisecond)
		wg.Go(stay) // shares that
		time.Sleep(300 * time.Millisecond)
		leave()
		wg.Wait()
		if c.asked != 2 {
			t.Errorf("the leader was asked %d times, want twice", c.asked)
		}
	})
}
