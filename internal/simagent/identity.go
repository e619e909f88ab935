// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// identity is what stays the same over an agent's restarts.
type identity struct {
	id       string // formed like a random UUID
	hostname string
	ipv4     string // in 10.0.0.0/8
	serial   string
}

// newIdentity is a pure function of its arguments.
func newIdentity(seed uint64, index int) identity {
	var in [16]byte
	binary.BigEndian.PutUint64(in[:8], seed)
	binary.BigEndian.PutUint64(in[8:], uint64(index))
	h := sha256.Sum256(in[:])
	h[6] = h[6]&0x0f | 0x40
	h[8] = h[8]&0x3f | 0x80
	n := index + 1
	return identity{
		id:       fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16]),
		hostname: fmt.Sprintf("sim-%x-%06d", h[16:18], n),
		ipv4:     fmt.Sprintf("10.%d.%d.%d", n>>16&0xff, n>>8&0xff, n&0xff),
		serial:   fmt.Sprintf("SIM%X", h[18:24]),
	}
}
