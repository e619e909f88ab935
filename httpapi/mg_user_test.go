// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"strings"
	"testing"

	"muster/fleet"
)

func TestAccounts(t *testing.T) {
	w := newWorld(t)
	admin := func(body string) request { return request{as: fleet.RoleAdmin, body: body} }
	w.golden("user_info", w.do("GET /api/v1/user/info", request{as: fleet.RoleOperator}))

	if got := w.data("POST /api/v6/user/new", admin(`{"username":"new","password":"p","level":3,"avatar":"a"}`)); got != "ok" {
		t.Errorf("new: %v, want ok", got)
	}
	if u := w.store.users["new"]; u.PasswordHash != "hash:p" || u.Level != 3 || u.CreatedAt != start.Unix() {
		t.Errorf("stored %+v", u)
	}
	if got := w.answer("POST /api/v6/user/new", admin(`{"username":"new","password":"p","level":3}`), 200); got["code"] != 2.0 || got["msg"] != "duplicate field" {
		t.Errorf("the same again: %v, want code 2", got)
	}
	w.data("POST /api/v1/user/update", admin(`{"username":"new","level":2}`))
	if u := w.store.users["new"]; u.Level != 2 || u.Avatar != "a" {
		t.Errorf("after update: %+v, want level 2 and the same avatar", u)
	}
	for call, body := range map[string]string{
		"POST /api/v1/user/update": `{"username":"nobody","level":2}`, "POST /api/v1/user/del": `{"username":"nobody"}`,
		"POST /api/v6/user/DelList": `{"userNameList":["new","nobody"]}`,
	} {
		if got := w.answer(call, admin(body), 200); got["code"] != 10.0 {
			t.Errorf("%s of nobody: %v, want code 10", call, got)
		}
	}
	for call, body := range map[string]string{
		"POST /api/v1/user/update": `{"username":"admin","level":2}`, "POST /api/v1/user/del": `{"username":"admin"}`,
	} {
		if got := w.answer(call, admin(body), 200); got["code"] != 10.0 || !strings.Contains(got["data"].(string), "admin") {
			t.Errorf("%s of the last admin: %v, want code 10", call, got)
		}
	}
	w.data("POST /api/v1/user/del", admin(`{"username":"new"}`))
	w.data("POST /api/v6/user/DelList", admin(`{"userNameList":["viewer","responder","viewer"]}`))
	for _, gone := range []string{"new", "viewer", "responder"} {
		if _, ok := w.store.users[gone]; ok {
			t.Errorf("%s is still there", gone)
		}
	}
}

func TestAccountRefusals(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct{ call, body, says string }{
		{"POST /api/v6/user/new", `{"username":"x","password":"p"}`, "level: is missing"},
		{"POST /api/v6/user/new", `{"username":"x","password":"p","level":9}`, "between 0 and 8"},
		{"POST /api/v6/user/new", `{"username":"x y","password":"p","level":1}`, "only letters"},
		{"POST /api/v6/user/new", `{"username":"x","password":"","level":1}`, "password: is empty"},
		{"POST /api/v6/user/new", `{"username":"x","password":"` + strings.Repeat("p", 2000) + `","level":1}`, "at most 1024"},
		{"POST /api/v6/user/new", `{"username":"x","password":"p","level":"admin"}`, "level: is a JSON string"},
		{"POST /api/v1/user/update", `{"level":1}`, "username: is missing"},
		{"POST /api/v6/user/DelList", `{"userNameList":[]}`, "userNameList"},
		{"POST /api/v1/user/login", `{"username":`, "ends too early"},
		{"POST /api/v1/user/login", `username=admin&password=x`, "not JSON"},
		{"POST /api/v1/user/login", ``, "empty"},
		{"POST /api/v1/user/login", `{"username":"a"} {}`, "more than one"},
		{"POST /api/v6/user/List?page=0", `{}`, "page"},
	} {
		got := w.answer(tt.call, request{as: fleet.RoleAdmin, body: tt.body}, 400)
		if text, _ := got["data"].(string); got["code"] != 5.0 || got["msg"] != "param invalid" || !strings.Contains(text, tt.says) {
			t.Errorf("%s %s: %v, want code 5 and %q", tt.call, tt.body, got, tt.says)
		}
	}
}

func TestOwnPassword(t *testing.T) {
	w := newWorld(t)
	old, other := w.login("viewer", "secret"), w.login("viewer", "secret")
	mine := func(body string) request { return request{body: body, header: map[string]string{"token": old}} }
	if got := w.answer("POST /api/v1/user/resetPassword", mine(`{"username":"admin","password":"x"}`), 200); got["code"] != 10.0 || got["data"] != "permission denied" {
		t.Errorf("of another: %v, want code 10 permission denied", got)
	}
	if got := w.data("POST /api/v1/user/resetPassword", mine(`{"username":"viewer","password":"next"}`)); got != "ok" {
		t.Errorf("own: %v, want ok", got)
	}
	if rec := w.do(getStatus, withToken(other)); rec.Code != 401 {
		t.Errorf("another log-in after the change: %d, want 401", rec.Code)
	}
	for password, want := range map[string]bool{"next": true, "secret": false} {
		got := w.data("POST /api/v1/user/checkUser", mine(`{"username":"viewer","password":"`+password+`"}`))
		if got.(map[string]any)["if_check"] != want {
			t.Errorf("checkUser with %q: %v, want %v", password, got, want)
		}
	}
	if got := w.answer("POST /api/v1/user/checkUser", mine(`{"username":"admin","password":"secret"}`), 200); got["code"] != 10.0 {
		t.Errorf("checkUser of another: %v, want code 10", got)
	}
}

func TestAccountList(t *testing.T) {
	w := newWorld(t)
	w.golden("user_list", w.do("POST /api/v6/user/List?page=2&page_size=3&order_key=level&order_value=-1", request{as: fleet.RoleAdmin, body: `{}`}))
	w.golden("user_list_own", w.do("POST /api/v6/user/List", request{as: fleet.RoleViewer, body: `{"username":"","role":[]}`}))
	got := w.answer("POST /api/v6/user/List", request{as: fleet.RoleAdmin, body: `{"username":"VIEW","role":[3]}`}, 200)
	if items := got["data"].([]any); len(items) != 1 || items[0].(map[string]any)["username"] != "viewer" {
		t.Errorf("searched: %v, want viewer alone", got)
	}
}
