// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"muster/test/bubble"
)

// Requests that cannot be accepted are answered with what is wrong, and change
// nothing.
func TestBubbleBadRequests(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		v := newWitness(w)
		setDefaultConfig(w, "1.0", "collector")
		hasConfigs(w, v.agent, 1, 2*time.Second)
		applied := w.Status().Store.Applied
		const api, filter = "/api/v1/agent", `{"filter":[{"key":"agent_id","rules":[{"operator":"%s","value":"a"}]}]}`
		for _, bad := range []struct{ method, path, body, says string }{
			{"POST", "/api/v1/user/login", `username=admin`, "JSON"},
			{"POST", "/api/v1/user/login", `{"username":"admin"`, "JSON"},
			{"POST", "/api/v1/user/login", ``, "empty"},
			{"POST", "/api/v1/user/login", `{"username":"admin","password":"x"} {}`, "more than one"},
			{"POST", "/api/v1/user/login", `["admin"]`, "array"},
			{"POST", api + "/updateDefaultConfig", `{"type":`, "JSON"},
			{"POST", api + "/quickTask/task", `<task/>`, "JSON"},
			{"POST", api + "/getStatus/filter", `{{}}`, "JSON"},
			{"POST", api + "/addTags", `tag`, "JSON"},
			{"GET", api + "/getStatus?page=0", "", "page"},
			{"GET", api + "/getStatus?page=-1", "", "page"},
			{"GET", api + "/getStatus?page=x", "", "page"},
			{"GET", api + "/getStatus?page_size=0", "", "page_size"},
			{"GET", api + "/getStatus?page_size=5001", "", "page_size"},
			{"POST", api + "/getTask/filter?page=0", `{}`, "page"},
			{"POST", api + "/getSubTask/filter?page_size=5001", `{}`, "page_size"},
			{"POST", api + "/getStatus/filter", fmt.Sprintf(filter, "$where"), "$where"},
			{"POST", api + "/getStatus/filter", fmt.Sprintf(filter, "eq"), "eq"},
			{"POST", api + "/getTask/filter", fmt.Sprintf(filter, "$gtt"), "$gtt"},
			{"POST", api + "/getSubTask/filter", fmt.Sprintf(filter, ""), "operator"},
			{"POST", api + "/getStatus/filter", `{"filter":[],"condition":"$xor"}`, "$xor"},
			{"POST", api + "/updateDefaultConfig", `{"type":"agent","config":[{"name":"driver","colour":"2"}]}`, "colour"},
			{"POST", api + "/createTask/config", `{"id_list":["witness"],"data":{"config":[{"name":"driver","sha":"2"}]}}`, "sha"},
			{"POST", api + "/updateDefaultConfig", `{"type":"agent","config":[]}`, "empty"},
			{"POST", api + "/updateDefaultConfig", `{"type":"agent","config":[{"name":"driver","sha256":"xyz"}]}`, "sha256"},
			{"POST", api + "/updateDefaultConfig", `{"type":"agent","config":[{"name":"driver","download_url":["file:///etc"]}]}`, "download_url"},
			{"POST", api + "/createTask/task", `{"data":{"task":{"name":"scanner"}}}`, "id_list"},
			{"POST", api + "/controlTask", `{"task_id":"x","action":"run","rolling_percent":1.5,"concurrence":1}`, "rolling_percent"},
			{"POST", api + "/controlTask", `{"task_id":"x","action":"run","rolling_percent":1,"concurrence":1000}`, "concurrence"},
			{"POST", "/api/v6/user/new", `{"username":"eve","password":"abc"}`, "level"},
		} {
			a := w.Do(bubble.Request{Method: bad.method, Path: bad.path, Body: bad.body, Token: w.Token()})
			e, err := a.Envelope()
			if err != nil || a.Status != http.StatusBadRequest || e.Code != 5 || e.Msg != "param invalid" || !strings.Contains(string(e.Data), bad.says) {
				t.Errorf("%s %s %s: status %d: %s; want 400, code 5 and %q", bad.method, bad.path, bad.body, a.Status, a.Body, bad.says)
			}
		}
		for _, bad := range []struct{ method, path, body, says string }{
			{"POST", "/v1/tasks", `not JSON`, "JSON"},
			{"POST", "/v1/keys", `{"scope":"agents","colour":"red"}`, "colour"},
			{"GET", "/v1/agents?limit=0", "", "limit"},
		} {
			a := w.Do(bubble.Request{Method: bad.method, Path: bad.path, Body: bad.body, Token: w.Token()})
			if a.Status != http.StatusBadRequest || a.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(a.Body, bad.says) {
				t.Errorf("%s %s %s: status %d: %s; want a problem of status 400 about %q", bad.method, bad.path, bad.body, a.Status, a.Body, bad.says)
			}
		}
		if now := w.Status().Store.Applied; now != applied {
			t.Errorf("refused requests applied %d commands", now-applied)
		}
		v.unharmed("bad requests")
		hasConfigs(w, v.agent, 1, 0)
		v.all()
	})
}

func TestBubbleSignaturesMustBeFresh(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		v := newWitness(w)
		key, wrong := w.NewKey("agents"), w.NewKey("sd")
		const body = `{"agent_id":"witness","command":{"task":{"data_type":1051,"name":"elkeid-agent","data":"{}"}}}`
		now := time.Now()
		for what, q := range map[string]bubble.Request{
			"a signature of 60 s ago":     {Sign: key, SignedAt: now.Add(-time.Minute)},
			"a signature of the future":   {Sign: key, SignedAt: now.Add(time.Minute)},
			"a body that was changed":     {Sign: key, SignedBody: strings.Replace(body, "1051", "1052", 1)},
			"another secret":              {Sign: &bubble.Key{AK: key.AK, SK: wrong.SK}},
			"a key that there is not":     {Sign: &bubble.Key{AK: "nobody", SK: key.SK}},
			"a key for service discovery": {Sign: wrong},
		} {
			q.Method, q.Path, q.Body = "POST", "/command/", body
			a := w.Do(q)
			e, err := a.Envelope()
			if err != nil || a.Status != http.StatusOK || e.Code != 1 || e.Msg != "auth failed" {
				t.Errorf("%s: status %d: %s; want 200 and code 1", what, a.Status, a.Body)
			}
		}
		if a := w.Do(bubble.Request{Method: "POST", Path: "/command/", Body: body}); a.Status == http.StatusOK && strings.Contains(a.Body, `"code":0`) {
			t.Errorf("no credential at all: %v", a)
		}
		if c := v.agent.Commands(); len(c) != 0 {
			t.Errorf("a refused request reached the agent: %v", c[0])
		}
		if n := w.Metric(`muster_httpapi_refused_total{reason="signature"}`); n < 6 {
			t.Errorf("%v refused signatures are counted, want 6", n)
		}
		fresh := w.Do(bubble.Request{Method: "POST", Path: "/command/", Body: body, Sign: key, SignedAt: now.Add(-59 * time.Second)})
		if e, err := fresh.Envelope(); err != nil || e.Code != 0 || len(v.agent.Tasks()) != 1 {
			t.Errorf("a signature of 59 s ago: %v, %d tasks", fresh, len(v.agent.Tasks()))
		}
		v.unharmed("bad signatures")
	})
}

// wantToken fails the test unless a token is good, or is refused with 401.
func wantToken(w *bubble.Node, token, what string, good bool) {
	w.T.Helper()
	want := http.StatusUnauthorized
	if good {
		want = http.StatusOK
	}
	a := w.Do(bubble.Request{Method: "GET", Path: "/api/v1/agent/getStatus", Token: token})
	if a.Status != want || (!good && a.Body != "") {
		w.T.Errorf("%s: status %d %q, want %d", what, a.Status, a.Body, want)
	}
	if !good {
		a = w.Do(bubble.Request{Method: "GET", Path: "/v1/status", Token: token})
		var problem struct{ Status int }
		if err := json.Unmarshal([]byte(a.Body), &problem); err != nil || a.Status != want || problem.Status != want {
			w.T.Errorf("%s, /v1: status %d %q, want a problem of %d", what, a.Status, a.Body, want)
		}
	}
}

func TestBubbleTokensEnd(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		v := newWitness(w)
		revoked, idle, busy := w.NewToken(), w.NewToken(), w.NewToken()
		flipped := []byte(busy)
		flipped[len(flipped)-1] ^= 1
		for what, token := range map[string]string{
			"no token": "", "a tampered token": string(flipped), "a longer token": busy + "0", "half a token": busy[:len(busy)/2],
			"a very long token": strings.Repeat("x", 10<<10), "the user's name": bubble.Admin,
		} {
			wantToken(w, token, what, false)
		}
		wantToken(w, revoked, "a token before the log-out", true)
		if a := w.Do(bubble.Request{Method: "GET", Path: "/api/v1/user/logout", Token: revoked}); a.Status != http.StatusOK {
			t.Errorf("log-out: %v", a)
		}
		wantToken(w, revoked, "a token after the log-out", false)
		// Without use a token lasts for two hours, with it for twelve. A stopped
		// node forgets nothing.
		v.agent.Leave()
		w.StopFor(110 * time.Minute)
		wantToken(w, idle, "idle for 110 minutes", true)
		wantToken(w, busy, "in use", true)
		w.StopFor(110 * time.Minute)
		wantToken(w, busy, "in use", true)
		w.StopFor(12 * time.Minute)
		wantToken(w, idle, "idle for 122 minutes", false)
		for age := 332; age < 12*60; age += 100 {
			w.StopFor(100 * time.Minute)
			wantToken(w, busy, fmt.Sprintf("in use for %d minutes", age), true)
		}
		w.Pass(90 * time.Minute)
		wantToken(w, busy, "more than twelve hours old", false)
		newWitness(w).unharmed("tokens that are not good")
	})
}

func TestBubbleGuessingIsThrottled(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		v := newWitness(w)
		wrong, throttled := 0, 0
		for range 50 {
			a := w.LogIn(bubble.Admin, "guess")
			e, err := a.Envelope()
			switch {
			case err == nil && a.Status == http.StatusOK && e.Code == 1 && string(e.Data) == `"verify password failed"`:
				wrong++
			case err == nil && a.Status == http.StatusTooManyRequests && a.Header.Get("Retry-After") != "":
				throttled++
			default:
				t.Fatalf("a wrong password: status %d %s", a.Status, a.Body)
			}
		}
		if wrong > 12 || throttled < 38 {
			t.Errorf("of 50 guesses in a row %d were judged and %d were not", wrong, throttled)
		}
		if a := w.LogIn(bubble.Admin, bubble.AdminPassword); a.Status != http.StatusTooManyRequests {
			t.Errorf("the right password behind 50 wrong ones: status %d, want 429", a.Status)
		}
		if f, n := w.Metric(`muster_httpapi_logins_total{result="failed"}`), w.Metric(`muster_httpapi_logins_total{result="throttled"}`); f != float64(wrong) || n != float64(throttled+1) {
			t.Errorf("counted: %v failed and %v throttled, want %d and %d", f, n, wrong, throttled+1)
		}
		v.unharmed("guessing")
		w.Pass(6 * time.Minute)
		var data struct{ Token string }
		if e, err := w.LogIn(bubble.Admin, bubble.AdminPassword).Envelope(); err != nil || e.Code != 0 || json.Unmarshal(e.Data, &data) != nil {
			t.Fatalf("the right password later: %v %v", e, err)
		}
		wantToken(w, data.Token, "a token after the guessing", true)
		v.all()
	})
}
