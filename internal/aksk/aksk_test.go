// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package aksk_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"muster/internal/aksk"
)

const (
	testKey    = "exampleaccesskey"
	testSecret = "example-secret-key-for-test-vectors"
	testTime   = "1700000000"
)

var testNow = time.Unix(1700000000, 0)

func lookup(ak string) (string, bool) {
	if ak == testKey {
		return testSecret, true
	}
	return "", false
}

// The vectors come from the Elkeid services themselves.
func TestVectors(t *testing.T) {
	for _, tt := range []struct{ method, path, body, want string }{
		{"GET", "/conn/stat", "", "906d35987abe76efbbf8c0f5ccb5c4b1410d360fbcca5661ce5f35fb1b577c88"},
		{"POST", "/command/", `{"agent_id":"a"}`, "635c267b339b892ab4b9ed90128744db5d4ed710df728d0ffa2de30d3e9bb74d"},
		{"POST", " /command ", `{"agent_id":"a"}`, "635c267b339b892ab4b9ed90128744db5d4ed710df728d0ffa2de30d3e9bb74d"},
	} {
		if got := aksk.Sign(testSecret, tt.method, tt.path, "", testKey, testTime, []byte(tt.body)); got != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.method, tt.path, got, tt.want)
		}
	}
}

func TestSignedRequestVerifies(t *testing.T) {
	for _, tt := range []struct{ method, url, key, body string }{
		{"", "http://ac/conn/count", testKey, ""},
		{"GET", "http://ac/registry/detail?name=a%20b&x=/", testKey, ""},
		{"POST", "https://ac/command/", testKey, `{"agent_id":"a"}`},
		{"POST", "https://ac/command/", "ExampleAccessKey", `{}`},
		{"POST", "https://ac/a%2Fb/ü", testKey, `{}`},
	} {
		r, err := http.NewRequest(tt.method, tt.url, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Method = tt.method
		if err := aksk.SignRequest(r, tt.key, testSecret, testNow); err != nil {
			t.Fatal(err)
		}
		if tt.method == "" {
			r.Method = "GET" // as it goes over the wire
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != tt.body {
			t.Fatalf("body after signing = %q, %v", body, err)
		}
		ak, err := aksk.Verify(aksk.FromHTTP(r, aksk.BodyHash(body)), testNow, lookup)
		if err != nil || ak != testKey {
			t.Errorf("%s %s: %q, %v", tt.method, tt.url, ak, err)
		}
	}
}

func TestSignatureOverLowerCaseKeyIsAccepted(t *testing.T) {
	r := signed()
	r.AccessKey = strings.ToUpper(r.AccessKey)
	r.Signature = strings.ToUpper(r.Signature)
	if _, err := aksk.Verify(r, testNow, lookup); err != nil {
		t.Fatal(err)
	}
}

func TestSignRequestReportsABrokenBody(t *testing.T) {
	boom := errors.New("boom")
	r, err := http.NewRequest("POST", "http://ac/", iotest.ErrReader(boom))
	if err != nil {
		t.Fatal(err)
	}
	if err := aksk.SignRequest(r, testKey, testSecret, testNow); !errors.Is(err, boom) {
		t.Fatalf("SignRequest = %v", err)
	}
}

// signed is the second vector as a request.
func signed() aksk.Request {
	body := []byte(`{"agent_id":"a"}`)
	return aksk.Request{
		Method: "POST", Path: "/command/",
		AccessKey: testKey, TimeStamp: testTime, BodyHash: aksk.BodyHash(body),
		Signature: aksk.Sign(testSecret, "POST", "/command/", "", testKey, testTime, body),
	}
}

func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*aksk.Request)
		after  time.Duration
		want   string
	}{
		"no key":             {func(r *aksk.Request) { r.AccessKey = "" }, 0, "header missed: AccessKey"},
		"no signature":       {func(r *aksk.Request) { r.Signature = "" }, 0, "header missed: Signature"},
		"no time":            {func(r *aksk.Request) { r.TimeStamp = "" }, 0, "header missed: TimeStamp"},
		"not a time":         {func(r *aksk.Request) { r.TimeStamp = "now" }, 0, "timestamp error"},
		"smallest time":      {func(r *aksk.Request) { r.TimeStamp = "-9223372036854775808" }, 0, "timestamp error"},
		"largest time":       {func(r *aksk.Request) { r.TimeStamp = "9223372036854775807" }, 0, "timestamp error"},
		"59 s old":           {func(*aksk.Request) {}, 59 * time.Second, ""},
		"60 s old":           {func(*aksk.Request) {}, 60 * time.Second, "timestamp error"},
		"59 s ahead":         {func(*aksk.Request) {}, -59 * time.Second, ""},
		"60 s ahead":         {func(*aksk.Request) {}, -60 * time.Second, "timestamp error"},
		"unknown key":        {func(r *aksk.Request) { r.AccessKey = "nobody" }, 0, "User not exist"},
		"other body":         {func(r *aksk.Request) { r.BodyHash = aksk.BodyHash([]byte("{}")) }, 0, "signature error"},
		"body taken away":    {func(r *aksk.Request) { r.BodyHash = "" }, 0, "signature error"},
		"other path":         {func(r *aksk.Request) { r.Path = "/conn/reset" }, 0, "signature error"},
		"other method":       {func(r *aksk.Request) { r.Method = "PUT" }, 0, "signature error"},
		"query added":        {func(r *aksk.Request) { r.RawQuery = "a=b" }, 0, "signature error"},
		"other time":         {func(r *aksk.Request) { r.TimeStamp = "1700000001" }, 0, "signature error"},
		"signature not hex":  {func(r *aksk.Request) { r.Signature = "zz" }, 0, "signature error"},
		"signature too long": {func(r *aksk.Request) { r.Signature += "00" }, 0, "signature error"},
		"two slashes at end": {func(r *aksk.Request) { r.Path = "/command//" }, 0, "signature error"},
	} {
		r := signed()
		tt.change(&r)
		_, err := aksk.Verify(r, testNow.Add(tt.after), lookup)
		var got string
		if reason, ok := errors.AsType[aksk.Reason](err); ok {
			got = reason.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestAKeyWithoutSecretSignsNothing(t *testing.T) {
	r := signed()
	r.Signature = aksk.Sign("", "POST", "/command/", "", testKey, testTime, []byte(`{"agent_id":"a"}`))
	_, err := aksk.Verify(r, testNow, func(string) (string, bool) { return "", true })
	if !errors.Is(err, aksk.UnknownKey) {
		t.Fatalf("Verify = %v", err)
	}
}

func TestEveryFlippedBitIsRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := signed()
		raw := []byte(r.Signature)
		i := rapid.IntRange(0, len(raw)-1).Draw(t, "digit")
		other := rapid.SampledFrom([]byte("0123456789abcdef")).Draw(t, "value")
		if raw[i] == other {
			t.Skip("same digit")
		}
		raw = bytes.Clone(raw)
		raw[i] = other
		r.Signature = string(raw)
		if _, err := aksk.Verify(r, testNow, lookup); !errors.Is(err, aksk.BadSignature) {
			t.Fatalf("Verify = %v", err)
		}
	})
}
