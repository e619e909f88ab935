// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package records

import (
	"bytes"
	"encoding/hex"
	"math"
)

// A Mark is the first entry of each record's body: who sent it, its number
// among that agent's records and when it was sent. It has a fixed width, so that
// it can be written over, and it is text, as everything in a body is.
type Mark struct {
	Agent  uint32
	Number uint64 // 48 bits
	Sent   int64  // Unix nanoseconds
}

// Unmarked is the agent of records that carry no number.
const Unmarked = math.MaxUint32

const (
	markKey   = "bench"
	markBytes = 36 // hexadecimal: 8 for the agent, 12 for the number, 16 for the time
	// markWithin is how far from a record's beginning its mark may begin.
	markWithin = 64
)

// markTag is what stands before a mark: key, tag and length of the value.
var markTag = []byte(markKey + "\x12\x24")

// put writes m over the mark at b[:markBytes].
func (m Mark) put(b []byte) {
	var raw [markBytes / 2]byte
	putUint(raw[:4], uint64(m.Agent))
	putUint(raw[4:10], m.Number)
	putUint(raw[10:], uint64(m.Sent)) //nolint:gosec // read back in the same way
	hex.Encode(b, raw[:])
}

// Find reads the mark of a record or of the MQData made of it. It is false for
// records without a number.
func Find(value []byte) (Mark, bool) {
	i := bytes.Index(value[:min(len(value), markWithin)], markTag)
	if i < 0 || len(value) < i+len(markTag)+markBytes {
		return Mark{}, false
	}
	var raw [markBytes / 2]byte
	if _, err := hex.Decode(raw[:], value[i+len(markTag):i+len(markTag)+markBytes]); err != nil {
		return Mark{}, false
	}
	m := Mark{
		Agent:  uint32(getUint(raw[:4])), //nolint:gosec // four bytes
		Number: getUint(raw[4:10]),
		Sent:   int64(getUint(raw[10:])), //nolint:gosec // written by put
	}
	return m, m.Agent != Unmarked
}

func putUint(b []byte, v uint64) {
	for i := range b {
		b[len(b)-1-i] = byte(v >> (8 * i))
	}
}

func getUint(b []byte) uint64 {
	var v uint64
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	return v
}
