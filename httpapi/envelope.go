// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
)

// elkeidCode is the code in the envelope of Elkeid's Manager.
type elkeidCode int

// The codes that Muster answers with. Source: Elkeid's list, which has gaps here.
const (
	elkeidSuccess      elkeidCode = 0
	elkeidAuthFailed   elkeidCode = 1
	elkeidDuplicate    elkeidCode = 2
	elkeidDBOperate    elkeidCode = 3
	elkeidParamInvalid elkeidCode = 5
	elkeidUnavailable  elkeidCode = 7
	elkeidUnknown      elkeidCode = 10
	elkeidTimeOut      elkeidCode = 11
	elkeidExceedLimit  elkeidCode = 15
	elkeidUserLocked   elkeidCode = 21
)

var elkeidMessages = map[elkeidCode]string{
	elkeidSuccess: "success", elkeidAuthFailed: "auth failed", elkeidDuplicate: "duplicate field",
	elkeidDBOperate: "db operate error", elkeidParamInvalid: "param invalid",
	elkeidUnavailable: "temporarily unavailable", elkeidUnknown: "unknown error",
	elkeidTimeOut: "get result timeout", elkeidExceedLimit: "", elkeidUserLocked: "user locked",
}

// acCode is the code in the envelope of Elkeid's AgentCenter.
type acCode int

const (
	acSuccess      acCode = 0
	acAuthFailed   acCode = 1
	acParamInvalid acCode = 2
	acUnknown      acCode = 3
)

var acMessages = map[acCode]string{
	acSuccess: "success", acAuthFailed: "auth failed", acParamInvalid: "param invalid", acUnknown: "unknown error",
}

// envelope is what Elkeid's Manager and AgentCenter answer.
type envelope struct {
	Code int    `json:"code"`
	Msg  string `json:"msg"`
	Data any    `json:"data"`
	// PageInfo stands beside the lists of /api/v6, and beside those of /api/v1
	// from which something is missing.
	PageInfo *pageInfo `json:"page_info,omitempty"`
}

type pageInfo struct {
	Total    int `json:"total"`
	Page     int `json:"page"`
	PageSize int `json:"page_size"`
	// Missing are the nodes that did not answer, as in HeaderMissing.
	Missing []string `json:"missing,omitempty"`
}

// sdAnswer is what Elkeid's ServiceDiscovery answers.
type sdAnswer struct {
	Msg  string `json:"msg"`
	Data any    `json:"data"`
}

// sdRefusal is what it answers when it refuses.
type sdRefusal struct {
	Msg string `json:"msg"`
}

// Problem is the body of every refusal under /v1 (RFC 9457). Code is stable
// and made for programs: invalid, not_found, exists, conflict, offline,
// unauthenticated, forbidden, throttled, too_large, not_ready, unavailable,
// committed_not_visible, not_yet_visible, timeout, internal, method_not_allowed.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
	// Field is the field of the request that is wrong, if it is one.
	Field string `json:"field,omitempty"`
	Index uint64 `json:"index,omitempty" description:"Of the replicated log, when it is not visible here yet: give it as X-Muster-Min-Index to wait for it."`
}

func writeProblem(w http.ResponseWriter, p Problem) {
	p.Type, p.Title = "about:blank", http.StatusText(p.Status)
	writeBody(w, problemType, p.Status, p)
}

// succeed writes the Manager's good answer.
func succeed(w http.ResponseWriter, data any) error {
	writeEnvelope(w, http.StatusOK, elkeidSuccess, data)
	return nil
}

// succeedPage is succeed for a list of agents.
func succeedPage(w http.ResponseWriter, p v1Page, missing []string) error {
	e := envelope{Code: int(elkeidSuccess), Msg: elkeidMessages[elkeidSuccess], Data: p}
	if len(missing) > 0 {
		e.PageInfo = &pageInfo{Total: p.Total, Page: p.Page, PageSize: p.PageSize, Missing: missing}
	}
	return respond(w, http.StatusOK, e)
}

func writeEnvelope(w http.ResponseWriter, status int, code elkeidCode, data any) {
	writeJSON(w, status, envelope{Code: int(code), Msg: elkeidMessages[code], Data: data})
}

func writeACEnvelope(w http.ResponseWriter, status int, code acCode, data any) {
	writeJSON(w, status, envelope{Code: int(code), Msg: acMessages[code], Data: data})
}

// respond writes a plain JSON answer; handlers end with it.
func respond(w http.ResponseWriter, status int, v any) error {
	writeJSON(w, status, v)
	return nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	writeBody(w, jsonType, status, v)
}

// writeBody encodes before it writes anything, so a value that JSON cannot hold
// panics (a programmer's error, answered 500) and never cuts an answer off.
func writeBody(w http.ResponseWriter, contentType []string, status int, v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	writeBytes(w, contentType, status, b.Bytes())
}

// The types of answers; shared, so never changed.
var (
	jsonType    = []string{"application/json; charset=utf-8"}
	problemType = []string{"application/problem+json"}
)

// chunkedFrom is the size from which net/http would send an answer in chunks if
// it were not told the length.
const chunkedFrom = 2048

func writeBytes(w http.ResponseWriter, contentType []string, status int, body []byte) {
	h := w.Header()
	h["Content-Type"] = contentType
	if len(body) >= chunkedFrom {
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// nonNil never encodes as null.
func nonNil[T any](in []T) []T {
	if in == nil {
		return []T{}
	}
	return in
}
