// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"pgregory.net/rapid"

	"muster/fleet"
)

// TestServicesEncodeAsJSON: what is put together by hand is what encoding/json
// makes of the same list.
func TestServicesEncodeAsJSON(t *testing.T) {
	extra := rapid.MapOfN(rapid.String(), rapid.OneOf(rapid.Just(any("<&>")), rapid.Just(any(1.5)), rapid.Just(any(nil))), 0, 3)
	service := rapid.Custom(func(t *rapid.T) fleet.Service {
		return fleet.Service{
			Name: rapid.String().Draw(t, "name"), IP: rapid.OneOf(rapid.StringMatching(`[ -~]{0,20}`), rapid.String()).Draw(t, "ip"),
			Port: rapid.Int().Draw(t, "port"), Status: fleet.ServiceStatus(rapid.IntRange(0, 4).Draw(t, "status")),
			CreateAt: rapid.Int64().Draw(t, "created"), UpdateAt: rapid.Int64().Draw(t, "updated"), Weight: rapid.Int().Draw(t, "weight"),
			Extra: extra.Draw(t, "extra"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(service, 0, 4).Draw(t, "list")
		got := appendServices([]byte("before"), list)
		for i := range list {
			if list[i].Extra == nil {
				list[i].Extra = map[string]any{}
			}
		}
		want := bytes.NewBufferString("before")
		enc := json.NewEncoder(want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(sdAnswer{Msg: "ok", Data: nonNil(list)}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
	})
}

// FuzzParameter: reading one parameter of a query gives what parsing all gives.
func FuzzParameter(f *testing.F) {
	for _, query := range []string{
		"name=a&count=10", "", "name", "=a&name=b", "name=a;b&count=1", "n%61me=a%20b", "name=a+b&name=c", "name=%zz&name=b", "&&name==x&", "naMe=a",
	} {
		f.Add(query, "name")
	}
	f.Fuzz(func(t *testing.T, query, name string) {
		r := &http.Request{URL: &url.URL{RawQuery: query}}
		if got, want := parameter(r, name), r.URL.Query().Get(name); got != want {
			t.Errorf("%q of %q: got %q, want %q", name, query, got, want)
		}
	})
}
