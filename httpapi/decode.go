// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"

	"muster/fleet"
)

// decodeJSON reads a body that must be one JSON value of v's shape. Fields that
// v does not know are passed over, and the Content-Type is not looked at:
// Elkeid's clients send what they like.
func decodeJSON(r *http.Request, v any) error { return decode(r, v, false) }

// decodeStrict is decodeJSON for /v1: application/json or no Content-Type, and
// no unknown fields.
func decodeStrict(r *http.Request, v any) error {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		media, _, err := mime.ParseMediaType(ct)
		if err != nil || media != "application/json" {
			return fleet.Invalid("Content-Type", "is %q, only application/json is accepted", ct)
		}
	}
	return decode(r, v, true)
}

func decode(r *http.Request, v any, strict bool) error {
	body, err := readBody(r)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return fleet.Invalid("", "the body is empty, JSON is expected")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if strict {
		dec.DisallowUnknownFields()
	}
	if err := dec.Decode(v); err != nil {
		return jsonError(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fleet.Invalid("", "the body holds more than one JSON value")
	}
	return nil
}

// bodyError says what is wrong with a body that could not be read.
func bodyError(err error) error {
	if tooLong, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fleet.Refuse(fleet.CodeTooLarge, "the body is longer than %d bytes", tooLong.Limit)
	}
	return fleet.Refuse(fleet.CodeInvalid, "the body could not be read to its end")
}

// jsonError says where the JSON is wrong.
func jsonError(err error) error {
	if refusal, ok := errors.AsType[*fleet.Refusal](err); ok {
		return refusal
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fleet.Invalid(wrong.Field, "is a JSON %s, which does not fit here", wrong.Value)
	}
	if bad, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fleet.Refuse(fleet.CodeInvalid, "the body is not JSON: %s at byte %d", bad.Error(), bad.Offset)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fleet.Refuse(fleet.CodeInvalid, "the body is not JSON: it ends too early")
	}
	return fmt.Errorf("the body is not acceptable JSON (%w): %w", err, fleet.Refuse(fleet.CodeInvalid, "%s", err.Error()))
}
