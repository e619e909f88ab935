// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"muster/fleet"
	"muster/internal/aksk"
)

// errInternal stands for every error whose text is not for clients.
var errInternal = errors.New("internal error")

// outcome is one line of the table from errors to answers. The text of an
// error reaches a client only if it is a *fleet.Refusal; else hint does.
type outcome struct {
	err    error
	status int
	code   string // of /v1
	// Elkeid's Manager answers most refusals with 200 and a code.
	mgStatus int
	mgCode   elkeidCode
	hint     string
}

// outcomes is looked through from the top.
var outcomes = []outcome{
	{fleet.ErrInvalid, 400, "invalid", 400, elkeidParamInvalid, "the request's content cannot be accepted"},
	{fleet.ErrNotFound, 404, "not_found", 200, elkeidDBOperate, "there is no such thing"},
	{fleet.ErrExists, 409, "exists", 200, elkeidDuplicate, "it exists already"},
	{fleet.ErrConflict, 409, "conflict", 200, elkeidUnknown, "its present state forbids this"},
	{fleet.ErrOffline, 409, "offline", 200, elkeidUnknown, "the agent has no stream here: it is offline, or elsewhere"},
	{fleet.ErrUnauthenticated, 401, "unauthenticated", 401, elkeidAuthFailed, "a valid token is needed: send it as Authorization: Bearer TOKEN, or as the header token"},
	{fleet.ErrForbidden, 403, "forbidden", 403, elkeidAuthFailed, "your role does not permit this"},
	{fleet.ErrThrottled, 429, "throttled", 429, elkeidExceedLimit, "too many attempts: wait, then try again"},
	{fleet.ErrTooLarge, 413, "too_large", 413, elkeidParamInvalid, "the request is too large"},
	{fleet.ErrNotVisible, 504, "committed_not_visible", 504, elkeidTimeOut, "the change is stored, but this node does not show it yet"},
	{fleet.ErrTimeout, 504, "timeout", 504, elkeidTimeOut, "no answer in time; whether the change was made is not known"},
	{context.DeadlineExceeded, 504, "timeout", 504, elkeidTimeOut, "no answer in time; whether the change was made is not known"},
	{fleet.ErrUnavailable, 503, "unavailable", 503, elkeidUnavailable, "this node cannot do that now (no leader, starting or stopping): try again, or another node"},
	{fleet.ErrClosed, 503, "unavailable", 503, elkeidUnavailable, "this node is stopping: try another node"},
	{context.Canceled, 503, "unavailable", 503, elkeidUnavailable, "the request was given up"},
}

var internalOutcome = outcome{errInternal, 500, "internal", 500, elkeidUnknown, "internal error: the node's log says more"}

func outcomeOf(err error) outcome {
	if s, ok := errors.AsType[*special](err); ok {
		return s.outcome
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o
		}
	}
	return internalOutcome
}

// words are what a client may read about err.
func (o outcome) words(err error) (detail, field string) {
	if r, ok := errors.AsType[*fleet.Refusal](err); ok {
		return r.Detail, r.Field
	}
	if s, ok := errors.AsType[*special](err); ok {
		return s.detail, ""
	}
	if reason, ok := errors.AsType[aksk.Reason](err); ok {
		return reason.Error(), ""
	}
	return o.hint, ""
}

// throttled is fleet.ErrThrottled with the time after which to try again.
type throttled struct{ wait time.Duration }

func (t *throttled) Error() string { return "too many attempts: try again in " + t.seconds() + " s" }
func (t *throttled) Unwrap() error { return fleet.ErrThrottled }

func (t *throttled) seconds() string {
	return strconv.Itoa(max(1, int(math.Ceil(t.wait.Seconds()))))
}

// elkeidError overrides the code, and if status is not 0 the status, with which
// Elkeid's Manager answers err.
type elkeidError struct {
	code   elkeidCode
	status int
	err    error
}

func (e *elkeidError) Error() string { return e.err.Error() }
func (e *elkeidError) Unwrap() error { return e.err }

// withCode makes an error that Manager routes answer with the given code.
func withCode(code elkeidCode, err error) error { return &elkeidError{code: code, err: err} }

// withStatus also sets the status.
func withStatus(code elkeidCode, status int, err error) error {
	return &elkeidError{code: code, status: status, err: err}
}

// refuse writes the answer to an error in the style of the route.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, st style, err error) {
	o := outcomeOf(err)
	if o.status == http.StatusInternalServerError && !errors.Is(err, errInternal) {
		a.log.Error("http request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	detail, field := o.words(err)
	if t, ok := errors.AsType[*throttled](err); ok {
		w.Header().Set("Retry-After", t.seconds())
		detail = t.Error()
	}
	index := a.refusedIndex(w, err)
	if o.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	text := detail
	if field != "" {
		text = field + ": " + detail
	}
	_, isSigned := errors.AsType[*signatureRefused](err)
	switch st {
	case styleV1:
		writeProblem(w, Problem{Status: o.status, Code: o.code, Detail: detail, Field: field, Index: index})
	case styleManager:
		refuseManager(w, o, err, text, isSigned)
	case styleAC:
		refuseAC(w, o, err, text, isSigned)
	case styleSD:
		refuseSD(w, o, text, isSigned)
	case stylePlain:
		http.Error(w, text, o.status)
	}
}

// refusedIndex is the index of the log that the refusal speaks of, 0 if there
// is none. It sets the headers that go with a refusal of a request that is early.
func (*API) refusedIndex(w http.ResponseWriter, err error) uint64 {
	if s, ok := errors.AsType[*special](err); ok {
		if s.retry > 0 {
			w.Header().Set("Retry-After", (&throttled{wait: s.retry}).seconds())
		}
		return s.index
	}
	if n, ok := errors.AsType[*fleet.NotVisible](err); ok {
		w.Header().Set(HeaderIndex, strconv.FormatUint(n.Index, 10))
		return n.Index
	}
	return 0
}

// refuseManager keeps the shapes of Elkeid's Manager.
func refuseManager(w http.ResponseWriter, o outcome, err error, text string, isSigned bool) {
	if isSigned {
		writeEnvelope(w, http.StatusOK, elkeidAuthFailed, text)
		return
	}
	status, code := o.mgStatus, o.mgCode
	if e, ok := errors.AsType[*elkeidError](err); ok {
		code = e.code
		if status == http.StatusUnauthorized || status == http.StatusForbidden {
			status = http.StatusOK
		}
		if e.status != 0 {
			status = e.status
		}
	}
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		w.WriteHeader(status)
		return
	}
	writeEnvelope(w, status, code, text)
}

// refuseAC keeps the shapes of Elkeid's AgentCenter.
func refuseAC(w http.ResponseWriter, o outcome, err error, text string, isSigned bool) {
	_, isSpecial := errors.AsType[*special](err)
	switch {
	case isSigned:
		writeACEnvelope(w, http.StatusOK, acAuthFailed, text)
	case o.status == http.StatusUnauthorized || o.status == http.StatusForbidden:
		w.WriteHeader(o.status)
	case o.status == http.StatusBadRequest || o.status == http.StatusRequestEntityTooLarge:
		writeACEnvelope(w, o.status, acParamInvalid, text)
	case o.status == http.StatusInternalServerError, isSpecial: // nothing was looked at
		writeACEnvelope(w, o.status, acUnknown, text)
	default:
		writeACEnvelope(w, http.StatusOK, acUnknown, text)
	}
}

// refuseSD keeps the shapes of Elkeid's ServiceDiscovery, which knows the
// statuses 400, 403 and 503.
func refuseSD(w http.ResponseWriter, o outcome, text string, isSigned bool) {
	if isSigned || o.status == http.StatusForbidden || o.status == http.StatusUnauthorized {
		writeJSON(w, http.StatusForbidden, envelope{Code: -1, Msg: "auth failed", Data: text})
		return
	}
	status := http.StatusServiceUnavailable
	switch o.status {
	case http.StatusGatewayTimeout:
		status = o.status
	case http.StatusBadRequest, http.StatusNotFound, http.StatusConflict:
		status = http.StatusBadRequest
	case http.StatusRequestEntityTooLarge, http.StatusInternalServerError:
		status = o.status
	}
	writeJSON(w, status, sdRefusal{Msg: text})
}
