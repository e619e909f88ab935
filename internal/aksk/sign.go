// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package aksk

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The header names of a signed request.
const (
	HeaderAccessKey = "AccessKey"
	HeaderSignature = "Signature"
	HeaderTimeStamp = "TimeStamp"
)

// separator is a backslash and the letter n, not a line break: the original
// signs a raw string.
const separator = `\n`

// Sign returns the signature, 64 hex digits, over a request. ts is the text of
// the TimeStamp header; path is the decoded URL path.
func Sign(secret, method, path, rawQuery, ak, ts string, body []byte) string {
	return hex.EncodeToString(sum(secret, Request{
		Method: method, Path: path, RawQuery: rawQuery,
		AccessKey: ak, TimeStamp: ts, BodyHash: BodyHash(body),
	}))
}

// BodyHash returns what is signed in place of the body: the hex SHA-256, or the
// empty string when the body is empty.
func BodyHash(body []byte) string {
	if len(body) == 0 {
		return ""
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// SignRequest sets the three headers. It reads the whole body into memory and
// puts it back.
func SignRequest(r *http.Request, ak, sk string, now time.Time) error {
	var body []byte
	if r.Body != nil && r.Body != http.NoBody {
		var err error
		body, err = io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil {
			return fmt.Errorf("read the body to sign: %w", err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		r.ContentLength = int64(len(body))
	}
	method := r.Method
	if method == "" {
		method = http.MethodGet
	}
	ts := strconv.FormatInt(now.Unix(), 10)
	r.Header.Set(HeaderAccessKey, ak)
	r.Header.Set(HeaderTimeStamp, ts)
	r.Header.Set(HeaderSignature, Sign(sk, method, r.URL.Path, r.URL.RawQuery, ak, ts, body))
	return nil
}

func sum(secret string, r Request) []byte {
	mac := hmac.New(sha256.New, []byte(secret))
	path := strings.TrimSuffix(strings.TrimSpace(r.Path), "/")
	mac.Write([]byte(strings.Join(
		[]string{r.Method, path, r.RawQuery, r.AccessKey, r.TimeStamp, r.BodyHash}, separator)))
	return mac.Sum(nil)
}
