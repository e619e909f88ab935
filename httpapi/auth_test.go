// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/httpapi"
	"muster/internal/aksk"
)

const getStatus = "GET /api/v1/agent/getStatus"

// login logs in and returns the token.
func (w *world) login(user, password string) string {
	w.t.Helper()
	data := w.data("POST /api/v1/user/login", request{body: `{"username":"` + user + `","password":"` + password + `"}`})
	return data.(map[string]any)["token"].(string)
}

func withToken(text string) request { return request{header: map[string]string{"token": text}} }

// TestCurlLines are the two lines that every operator of Elkeid has in a
// script, with the headers that curl sends.
func TestCurlLines(t *testing.T) {
	w := newWorld(t)
	w.store.users["hids_test"] = fleet.User{Name: "hids_test", Level: 3, PasswordHash: "hash:ha/ä \\\"1"}
	rec := w.do("POST /api/v1/user/login", request{
		kind: httpapi.ListenerHTTP,
		body: `{"username":"hids_test","password":"ha/ä \\\"1"}`,
		header: map[string]string{
			"User-Agent": "curl/8.5.0", "Accept": "*/*", "Content-Type": "application/x-www-form-urlencoded",
		},
	})
	if rec.Code != 200 || rec.Header().Get("Content-Type") != "application/json; charset=utf-8" {
		t.Fatalf("log-in: %d %q %s", rec.Code, rec.Header().Get("Content-Type"), rec.Body)
	}
	_, text, _ := strings.Cut(rec.Body.String(), `"token":"`)
	text, _, _ = strings.Cut(text, `"`)
	rec = w.do(getStatus, request{
		kind:   httpapi.ListenerHTTP,
		header: map[string]string{"User-Agent": "curl/8.5.0", "Accept": "*/*", "token": text},
	})
	if rec.Code != 200 || rec.Header().Get("user") != "hids_test" {
		t.Fatalf("getStatus: %d, user %q: %s", rec.Code, rec.Header().Get("user"), rec.Body)
	}
	w.golden("getstatus_empty", rec)
}

func TestTokenEndings(t *testing.T) {
	w := newWorld(t)
	check := func(what, text string, want int) {
		t.Helper()
		if rec := w.do(getStatus, withToken(text)); rec.Code != want || want == 401 && rec.Body.Len() != 0 {
			t.Errorf("%s: %d %s, want %d", what, rec.Code, rec.Body, want)
		}
	}
	text := w.login("viewer", "secret")
	check("fresh", text, 200)
	check("tampered", text[:len(text)-1]+"~", 401)
	check("empty", "", 401)
	check("very long", strings.Repeat("x", 10000), 401)
	if rec := w.do(getStatus, request{header: map[string]string{"Authorization": "bearer " + text}}); rec.Code != 200 {
		t.Errorf("as a bearer: %d, want 200", rec.Code)
	}

	w.data("GET /api/v1/user/logout", withToken(text))
	check("logged out", text, 401)

	text = w.login("viewer", "secret")
	w.pass(119 * time.Minute)
	check("119 minutes idle", text, 200)
	w.pass(119 * time.Minute)
	check("used 119 minutes ago", text, 200)
	w.pass(121 * time.Minute)
	check("121 minutes idle", text, 401)

	text = w.login("viewer", "secret")
	for range 11 {
		w.pass(time.Hour)
		check("used each hour", text, 200)
	}
	w.pass(time.Hour)
	check("12 hours old", text, 401)

	text = w.login("viewer", "secret")
	w.data("POST /api/v1/user/update", request{as: fleet.RoleAdmin, body: `{"username":"viewer","level":2}`, header: map[string]string{"token": w.login("admin", "secret")}})
	check("level changed", text, 401)
}

// TestTouch: the last use is noted each ten minutes, and a store that cannot
// does no harm.
func TestTouch(t *testing.T) {
	w := newWorld(t)
	text := w.login("viewer", "secret")
	for range 30 {
		w.do(getStatus, withToken(text))
		w.pass(time.Minute)
	}
	if w.store.touched != 2 {
		t.Errorf("in half an hour noted %d times, want 2", w.store.touched)
	}
	w.store.err = fleet.ErrUnavailable
	w.pass(11 * time.Minute)
	for range 10 {
		if rec := w.do(getStatus, withToken(text)); rec.Code != 200 {
			t.Errorf("while there is no leader: %d, want 200", rec.Code)
		}
	}
	if w.store.touched != 3 {
		t.Errorf("without a leader tried %d times, want once", w.store.touched-2)
	}
}

// TestStrayTokens: an address that tries tokens is slowed down; a good token
// from there is not.
func TestStrayTokens(t *testing.T) {
	w := newWorld(t)
	throttled := 0
	for i := range 100 {
		rec := w.do(getStatus, withToken("guess"+strconv.Itoa(i)))
		if rec.Code == 429 && rec.Header().Get("Retry-After") != "" {
			throttled++
		} else if rec.Code != 401 {
			t.Fatalf("unknown token: %d", rec.Code)
		}
	}
	if throttled != 40 {
		t.Errorf("of 100 unknown tokens %d were throttled, want 40", throttled)
	}
	if rec := w.do(getStatus, request{as: fleet.RoleViewer}); rec.Code != 200 {
		t.Errorf("a good token from that address: %d, want 200", rec.Code)
	}
	if rec := w.do(getStatus, request{header: map[string]string{"token": "x"}, from: "203.0.113.9:1"}); rec.Code != 401 {
		t.Errorf("from another address: %d, want 401", rec.Code)
	}
}

func TestWrongPasswords(t *testing.T) {
	w := newWorld(t)
	try := func(user, password, from string) int {
		rec := w.do("POST /api/v1/user/login", request{body: `{"username":"` + user + `","password":"` + password + `"}`, from: from})
		if rec.Code == 429 {
			if rec.Header().Get("Retry-After") == "" || !strings.Contains(rec.Body.String(), `"code":21,"msg":"user locked"`) {
				t.Fatalf("throttled: %v %s", rec.Header(), rec.Body)
			}
		}
		return rec.Code
	}
	statuses := map[int]int{}
	for range 50 {
		statuses[try("admin", "wrong", "203.0.113.1:1")]++
	}
	if statuses[200] != 10 || statuses[429] != 40 {
		t.Errorf("50 wrong passwords in a row: %v, want 10 answers of 200 and 40 of 429", statuses)
	}
	if got := counterOf(w, "muster_httpapi_logins_total", "throttled"); got != 40 {
		t.Errorf("counted %v throttled log-ins, want 40", got)
	}
	if got := counterOf(w, "muster_httpapi_logins_total", "failed"); got != 10 {
		t.Errorf("counted %v failed log-ins, want 10", got)
	}
	if got := try("admin", "secret", "203.0.113.1:1"); got != 429 {
		t.Errorf("the right password at once: %d, want 429", got)
	}
	if got := try("operator", "secret", "203.0.113.1:1"); got != 200 {
		t.Errorf("another user from that address: %d, want 200", got)
	}
	if got := try("admin", "secret", "203.0.113.2:1"); got != 200 {
		t.Errorf("the same user from elsewhere: %d, want 200", got)
	}
	w.pass(6 * time.Minute)
	if got := try("admin", "secret", "203.0.113.1:1"); got != 200 {
		t.Errorf("the right password after a while: %d, want 200", got)
	}
}

// TestGuessingAtOnce: tries at the same time do not get around the throttle, and
// what is logged of them names no unknown user.
func TestGuessingAtOnce(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	var judged atomic.Int32
	for range 100 {
		wg.Go(func() {
			if rec := w.do("POST /api/v1/user/login", request{body: `{"username":"hunter2","password":"hunter3"}`}); rec.Code == 200 {
				judged.Add(1)
			}
		})
	}
	wg.Wait()
	if n := judged.Load(); n != 10 {
		t.Errorf("of 100 guesses at once %d were judged, want 10", n)
	}
	if log := w.log.String(); strings.Contains(log, "hunter") || !strings.Contains(log, "198.51.100.4") {
		t.Errorf("log %q, want the address and no name", log)
	}
}

// TestSlowTouch: a store that does not answer holds a request up for half a
// second, once.
func TestSlowTouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(o *httpapi.Options) { o.State.Tokens = slowTokens{o.State.Tokens} })
		w.pass(time.Hour)
		for _, want := range []time.Duration{500 * time.Millisecond, 0} {
			begun := time.Now()
			if rec := w.do(getStatus, request{as: fleet.RoleViewer}); rec.Code != 200 || time.Since(begun) != want {
				t.Errorf("%d after %s, want 200 after %s", rec.Code, time.Since(begun), want)
			}
		}
	})
}

type slowTokens struct{ httpapi.TokenStore }

func (slowTokens) TouchToken(ctx context.Context, _ string, _ int64) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestRequestTimeout: nothing outlives the deadline.
func TestRequestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(o *httpapi.Options) { o.State.Tags = slowTags{o.State.Tags} })
		begun := time.Now()
		got := w.answer("POST /api/v1/agent/addTags", request{as: fleet.RoleOperator, body: `{"tag":"x","id_list":["a"]}`}, http.StatusGatewayTimeout)
		if got["code"] != 11.0 || time.Since(begun) != 30*time.Second {
			t.Errorf("%v after %s, want code 11 after 30 s", got, time.Since(begun))
		}
	})
}

type slowTags struct{ httpapi.TagStore }

func (slowTags) TagAgents(ctx context.Context, _, _, _ []string) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// TestGuessingFromManyPlaces: a user at whom many addresses guess can still log
// in from where he did before.
func TestGuessingFromManyPlaces(t *testing.T) {
	w := newWorld(t)
	const home = "203.0.113.1:1"
	ask := func(password, from string) int {
		return w.do("POST /api/v1/user/login", request{body: `{"username":"admin","password":"` + password + `"}`, from: from}).Code
	}
	if ask("secret", home) != 200 {
		t.Fatal("cannot log in")
	}
	throttled := 0
	for i := range 300 {
		if ask("wrong", "198.51.100."+strconv.Itoa(i%250+1)+":1") == 429 {
			throttled++
		}
	}
	if throttled < 190 {
		t.Errorf("of 300 guesses from 250 addresses %d were throttled, want about 200", throttled)
	}
	if got := ask("secret", home); got != 200 {
		t.Errorf("from where he was before: %d, want 200", got)
	}
}

// TestUnknownUserLooksTheSame: the answer does not tell who exists.
func TestUnknownUserLooksTheSame(t *testing.T) {
	w := newWorld(t)
	wrong := w.do("POST /api/v1/user/login", request{body: `{"username":"admin","password":"x"}`})
	nobody := w.do("POST /api/v1/user/login", request{body: `{"username":"nobody","password":"x"}`})
	if wrong.Body.String() != nobody.Body.String() || wrong.Code != 200 || nobody.Code != 200 {
		t.Errorf("wrong password %d %s, unknown user %d %s", wrong.Code, wrong.Body, nobody.Code, nobody.Body)
	}
	w.golden("login_wrong", wrong)
}

func TestSignatures(t *testing.T) {
	w := newWorld(t)
	sign := func(change func(h map[string]string, ts string) (body string)) request {
		ts := strconv.FormatInt(w.clock().Unix(), 10)
		h := map[string]string{"AccessKey": "akagents", "TimeStamp": ts}
		body := change(h, ts)
		return request{header: h, body: body}
	}
	signature := func(ts, body string) string {
		return aksk.Sign("secret-of-akagents", "POST", "/conn/reset", "", "akagents", ts, []byte(body))
	}
	const body = `{"type":"random","count":1}`
	for want, q := range map[string]request{
		"": sign(func(h map[string]string, ts string) string { h["Signature"] = signature(ts, body); return body }),
		"timestamp error": sign(func(h map[string]string, _ string) string {
			h["TimeStamp"] = strconv.FormatInt(w.clock().Unix()-60, 10)
			h["Signature"] = signature(h["TimeStamp"], body)
			return body
		}),
		"signature error": sign(func(h map[string]string, ts string) string { h["Signature"] = signature(ts, body); return body + " " }),
		"User not exist": sign(func(h map[string]string, ts string) string {
			h["Signature"] = signature(ts, body)
			h["AccessKey"] = "other"
			return body
		}),
		"header missed: Signature": sign(func(map[string]string, string) string { return body }),
		"header missed: TimeStamp": sign(func(h map[string]string, ts string) string {
			h["Signature"] = signature(ts, body)
			delete(h, "TimeStamp")
			return body
		}),
		"header missed: AccessKey":  {body: body},
		"the key is for sd, this r": {key: "aksd", body: body},
	} {
		got := w.answer("POST /conn/reset", q, http.StatusOK)
		text, _ := got["data"].(string)
		if want == "" && got["code"] != 0.0 || want != "" && (got["code"] != 1.0 || got["msg"] != "auth failed" || !strings.HasPrefix(text, want)) {
			t.Errorf("want %q, got %v", want, got)
		}
	}
	got := w.answer("POST /registry/register", request{key: "akagents", body: `{}`}, http.StatusForbidden)
	if got["code"] != -1.0 || got["msg"] != "auth failed" {
		t.Errorf("a wrong key at service discovery: %v", got)
	}
}

// TestStoreAway: what cannot be looked up is neither let in nor called wrong.
func TestStoreAway(t *testing.T) {
	w := newWorld(t, func(o *httpapi.Options) {
		o.State.Tokens = brokenTokens{o.State.Tokens}
	})
	if rec := w.do(getStatus, request{as: fleet.RoleAdmin}); rec.Code != 500 || strings.Contains(rec.Body.String(), "disk") {
		t.Errorf("%d %s, want 500 without the reason", rec.Code, rec.Body)
	}
	if !strings.Contains(w.log.String(), "disk on fire") {
		t.Errorf("log %q, want the reason in it", w.log)
	}
}

type brokenTokens struct{ httpapi.TokenStore }

func (brokenTokens) TokenByHash(string) (fleet.Token, error) {
	return fleet.Token{}, errors.New("disk on fire")
}

// counterOf is a counter by the value of its only label.
func counterOf(w *world, name, label string) float64 {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// TestPlainHTTP: credentials of /v1 stay off the wire, those of Elkeid's
// routes go where they were configured to go.
func TestPlainHTTP(t *testing.T) {
	for _, tt := range []struct {
		call, from string
		kind       httpapi.Listener
		allow      bool
		want       int
	}{
		{"GET /v1/status", "127.0.0.1:9", httpapi.ListenerHTTP, false, 200},
		{"GET /v1/status", "[::1]:9", httpapi.ListenerHTTP, false, 200},
		{"GET /v1/status", "192.0.2.3:9", httpapi.ListenerHTTP, false, 403},
		{"GET /v1/status", "[2001:db8::3]:9", httpapi.ListenerHTTP, false, 403},
		{"GET /v1/status", "192.0.2.3:9", httpapi.ListenerHTTP, true, 200},
		{"GET /v1/status", "192.0.2.3:9", httpapi.ListenerHTTPS, false, 200},
		{"POST /v1/tokens", "192.0.2.3:9", httpapi.ListenerHTTP, false, 403},
		{getStatus, "192.0.2.3:9", httpapi.ListenerHTTP, false, 200},
	} {
		w := newWorld(t, func(o *httpapi.Options) { o.AllowPlainHTTP = tt.allow })
		rec := w.do(tt.call, request{as: fleet.RoleAdmin, kind: tt.kind, from: tt.from})
		if rec.Code != tt.want {
			t.Errorf("%s from %s over listener %d, allowed %v: %d, want %d: %s", tt.call, tt.from, tt.kind, tt.allow, rec.Code, tt.want, rec.Body)
		}
	}
}
