// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"muster/fleet"
)

// rewriteFields gives every length-delimited field to change and copies the
// others. What is malformed is copied too, for unmarshalling to refuse.
func rewriteFields(b []byte, change func(num protowire.Number, v []byte) []byte) []byte {
	var out []byte
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeField(b)
		if n < 0 {
			return append(out, b...)
		}
		if typ == protowire.BytesType {
			_, _, tag := protowire.ConsumeTag(b)
			v, _ := protowire.ConsumeBytes(b[tag:])
			out = protowire.AppendBytes(append(out, b[:tag]...), change(num, v))
		} else {
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	return out
}

// repairText goes rune by rune: a run of wrong bytes becomes one U+FFFD.
func repairText(v []byte) []byte {
	var out []byte
	inRun := false
	for len(v) > 0 {
		r, n := utf8.DecodeRune(v)
		wrong := r == utf8.RuneError && n == 1
		if !wrong || !inRun {
			out = utf8.AppendRune(out, r)
		}
		inRun = wrong
		v = v[n:]
	}
	return out
}

// repairRawData makes a message of an agent that does not check its texts one
// that unmarshalling takes.
func repairRawData(raw []byte) []byte {
	return rewriteFields(raw, func(num protowire.Number, v []byte) []byte {
		if num < 2 || num > 9 {
			return v
		}
		return repairText(v)
	})
}

func repairItem(body []byte) []byte {
	return rewriteFields(body, func(num protowire.Number, entry []byte) []byte {
		if num != 1 {
			return entry
		}
		return rewriteFields(entry, func(num protowire.Number, v []byte) []byte {
			if num > 2 {
				return v
			}
			return repairText(v)
		})
	})
}

// What is read of any reply is UTF-8 and within its limits.
func FuzzResult(f *testing.F) {
	for _, body := range oddItems() {
		f.Add(body)
	}
	f.Add(appendEntry(appendEntry(nil, "token", "t.1"), "status", "succeed"))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, _ := resultOf(notable{dataType: 2001, body: body})
		for _, text := range []string{r.Token, r.Status, r.Message} {
			if !utf8.ValidString(text) {
				t.Errorf("%q is not UTF-8", text)
			}
		}
		if len(r.Token) > fleet.MaxTaskTokenBytes+1 || len(r.Status) > maxStatusBytes || len(r.Message) > fleet.MaxResultBytes {
			t.Errorf("too long: %d, %d, %d bytes", len(r.Token), len(r.Status), len(r.Message))
		}
	})
}
