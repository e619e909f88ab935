// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agents

import "encoding/binary"

// prefixBytes is what gRPC puts before a message: a flag and four bytes of length.
const prefixBytes = 5

// messages counts gRPC messages in what comes in pieces.
type messages struct {
	prefix [prefixBytes]byte
	have   int // of the prefix
	rest   int // of the message
}

// feed returns how many messages end in piece.
func (m *messages) feed(piece []byte) (ended int) {
	for len(piece) > 0 {
		if m.have < prefixBytes {
			n := copy(m.prefix[m.have:], piece)
			m.have += n
			piece = piece[n:]
			if m.have < prefixBytes {
				return ended
			}
			m.rest = int(binary.BigEndian.Uint32(m.prefix[1:]))
		}
		n := min(m.rest, len(piece))
		m.rest -= n
		piece = piece[n:]
		if m.rest == 0 {
			ended++
			m.have = 0
		}
	}
	return ended
}
