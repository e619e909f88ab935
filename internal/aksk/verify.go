// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package aksk

import (
	"crypto/hmac"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// windowSeconds is how far the clocks of both sides must stay together: a
// difference of this or more is refused.
const windowSeconds = 60

// Reason says why a request is refused, in the words that clients of Elkeid
// know. It is an error.
type Reason string

// The reasons, in the order in which they are checked.
const (
	MissingAccessKey Reason = "header missed: " + HeaderAccessKey
	MissingSignature Reason = "header missed: " + HeaderSignature
	MissingTimeStamp Reason = "header missed: " + HeaderTimeStamp
	BadTimeStamp     Reason = "timestamp error"
	UnknownKey       Reason = "User not exist"
	BadSignature     Reason = "signature error"
)

// Error returns the reason itself.
func (r Reason) Error() string { return string(r) }

// Request is what a signature covers, and the signature.
type Request struct {
	Method, Path, RawQuery          string
	AccessKey, TimeStamp, Signature string
	BodyHash                        string // as BodyHash returns it
}

// FromHTTP collects a Request. The caller has read and hashed the body.
func FromHTTP(r *http.Request, bodyHash string) Request {
	return Request{
		Method: r.Method, Path: r.URL.Path, RawQuery: r.URL.RawQuery,
		AccessKey: r.Header.Get(HeaderAccessKey),
		TimeStamp: r.Header.Get(HeaderTimeStamp),
		Signature: r.Header.Get(HeaderSignature),
		BodyHash:  bodyHash,
	}
}

// Verify returns the access key in lower case, which is how keys are looked up,
// or a Reason. The secret of a key is asked for once. A key may be sent in any
// case; its signature covers it as sent or in lower case.
func Verify(r Request, now time.Time, secret func(ak string) (string, bool)) (string, error) {
	switch "" {
	case r.AccessKey:
		return "", MissingAccessKey
	case r.Signature:
		return "", MissingSignature
	case r.TimeStamp:
		return "", MissingTimeStamp
	}
	ts, err := strconv.ParseInt(r.TimeStamp, 10, 64)
	if err != nil || ts < 0 {
		return "", BadTimeStamp
	}
	if age := now.Unix() - ts; age >= windowSeconds || age <= -windowSeconds {
		return "", BadTimeStamp
	}
	ak := strings.ToLower(r.AccessKey)
	sk, ok := secret(ak)
	if !ok || sk == "" {
		return "", UnknownKey
	}
	given, err := hex.DecodeString(r.Signature)
	if err != nil {
		return "", BadSignature
	}
	asSent := hmac.Equal(given, sum(sk, r))
	r.AccessKey = ak
	if inLowerCase := hmac.Equal(given, sum(sk, r)); !asSent && !inLowerCase {
		return "", BadSignature
	}
	return ak, nil
}
