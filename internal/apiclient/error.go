// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package apiclient

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"muster/internal/apiv1"
)

// Error is a request that the node refused or could not carry out.
type Error struct {
	apiv1.Problem
	// RetryAfterSeconds is how long the node asks to wait, 0 if it does not say.
	RetryAfterSeconds int
}

// Error says what is wrong in one line: the field, if there is one, and the
// detail.
func (e *Error) Error() string {
	text := e.Detail
	if text == "" {
		text = e.Title
	}
	if e.Field != "" {
		text = e.Field + ": " + text
	}
	if e.RetryAfterSeconds > 0 && !strings.Contains(text, "try again in ") {
		text += fmt.Sprintf(" (try again in %d s)", e.RetryAfterSeconds)
	}
	return text
}

// IsStatus tells whether err is a problem of that HTTP status.
func IsStatus(err error, status int) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Status == status
}

// problem reads the body of a refusal. What is not problem+json comes from
// something in between, or from another program, and is cut short.
func problem(base *url.URL, resp *http.Response, body []byte) error {
	e := &Error{}
	e.RetryAfterSeconds, _ = strconv.Atoi(resp.Header.Get("Retry-After"))
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if strings.TrimSpace(kind) == "application/problem+json" && json.Unmarshal(body, &e.Problem) == nil {
		e.Status = resp.StatusCode
		return e
	}
	e.Problem = apiv1.Problem{Title: http.StatusText(resp.StatusCode), Status: resp.StatusCode}
	e.Detail = fmt.Sprintf("%s answered %s", base, resp.Status)
	if where := resp.Header.Get("Location"); where != "" {
		e.Detail += " to " + where + ": is that the address to use?"
	} else if resp.StatusCode == http.StatusNotFound {
		e.Detail += ": is it a Muster node's HTTP address (--http-addr or --https-addr)?"
	}
	return e
}

// Unreachable is a node that gave no answer.
type Unreachable struct {
	Addr string
	// Advice says what to look at; it may be empty.
	Advice string
	// Err is the cause.
	Err error
}

// Error names the address, the cause and what to look at.
func (u *Unreachable) Error() string {
	text := fmt.Sprintf("no answer from %s: %v", u.Addr, u.Err)
	if u.Advice != "" {
		text += ": " + u.Advice
	}
	return text
}

// Unwrap returns the cause.
func (u *Unreachable) Unwrap() error { return u.Err }

func unreachable(base *url.URL, err error) error {
	// url.Error repeats the method and the whole URL, which helps nobody here.
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	out := &Unreachable{Addr: base.String(), Err: err}
	var (
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		timeout interface{ Timeout() bool }
	)
	switch {
	case errors.As(err, &unknown):
		out.Advice = "give the cluster's CA with --ca FILE"
	case errors.As(err, &host):
		out.Advice = "use a name or address that stands in the node's certificate"
	case errors.Is(err, syscall.ECONNREFUSED):
		out.Advice = "is the node running, and is this its --http-addr?"
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		out.Advice = "the address is plain HTTP: use http://"
	case strings.Contains(err.Error(), "malformed HTTP response"), errors.Is(err, io.EOF):
		out.Advice = "does the address speak HTTPS: use https://?"
	case errors.As(err, &timeout) && timeout.Timeout():
		out.Advice = "the node may be starting, overloaded or cut off; try another one"
	}
	return out
}
