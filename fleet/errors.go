// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"errors"
	"fmt"
)

// The sentinels of the whole program. A Refusal unwraps to one of the first
// group; the others are returned as they are, wrapped with the action.
var (
	// ErrInvalid is returned when a request's content cannot be accepted.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound is returned when the named thing does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists is returned when a thing of that name exists already.
	ErrExists = errors.New("exists already")
	// ErrConflict is returned when the thing's present state forbids the change.
	ErrConflict = errors.New("conflict")
	// ErrUnauthenticated is returned when a credential is missing, unknown, expired or wrong.
	ErrUnauthenticated = errors.New("not authenticated")
	// ErrForbidden is returned when a known caller may not do this.
	ErrForbidden = errors.New("forbidden")
	// ErrThrottled is returned when a caller must wait before it tries again.
	ErrThrottled = errors.New("too many attempts")
	// ErrTooLarge is returned when a message, record or list is over its limit.
	ErrTooLarge = errors.New("too large")

	// ErrUnavailable is returned when a part that is needed is not there now
	// (no leader, starting, stopping); the same call may succeed later.
	ErrUnavailable = errors.New("unavailable")
	// ErrNotVisible is returned when a write is committed but this node has not
	// applied it within the wait; the write stands.
	ErrNotVisible = errors.New("committed, not yet visible here")
	// ErrOffline is returned when no live stream of the agent is known.
	ErrOffline = errors.New("agent is offline")
	// ErrTimeout is returned when an answer did not come within its deadline.
	ErrTimeout = errors.New("timed out")
	// ErrClosed is returned by calls on a part that has been stopped.
	ErrClosed = errors.New("stopped")
)

// Code names the kind of a Refusal. It is stored in the replicated state and
// shown to API clients, so its values never change.
type Code string

// The codes of refusals.
const (
	CodeInvalid         Code = "invalid"
	CodeNotFound        Code = "not_found"
	CodeExists          Code = "exists"
	CodeConflict        Code = "conflict"
	CodeUnauthenticated Code = "unauthenticated"
	CodeForbidden       Code = "forbidden"
	CodeThrottled       Code = "throttled"
	CodeTooLarge        Code = "too_large"
)

// Refusal says no in words that the client may read. It matches its sentinel
// with errors.Is.
type Refusal struct {
	Code   Code   `json:"code"`
	Field  string `json:"field,omitempty"` // the request's field that is wrong, if it is one
	Detail string `json:"detail"`
}

// Error names the field, if there is one, and the detail.
func (r *Refusal) Error() string {
	if r.Field == "" {
		return r.Detail
	}
	return r.Field + ": " + r.Detail
}

// Unwrap returns the sentinel of the code.
func (r *Refusal) Unwrap() error {
	switch r.Code {
	case CodeNotFound:
		return ErrNotFound
	case CodeExists:
		return ErrExists
	case CodeConflict:
		return ErrConflict
	case CodeUnauthenticated:
		return ErrUnauthenticated
	case CodeForbidden:
		return ErrForbidden
	case CodeThrottled:
		return ErrThrottled
	case CodeTooLarge:
		return ErrTooLarge
	case CodeInvalid:
		return ErrInvalid
	}
	return ErrInvalid
}

// Refuse makes a Refusal that is not about one field.
func Refuse(code Code, format string, args ...any) error {
	return &Refusal{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Invalid makes a Refusal of a field's value.
func Invalid(field, format string, args ...any) error {
	return &Refusal{Code: CodeInvalid, Field: field, Detail: fmt.Sprintf(format, args...)}
}
