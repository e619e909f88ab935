// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// limitUnacknowledged ends the connection when what was sent stays without an
// acknowledgement for so long; no keep-alive probe is sent meanwhile.
func limitUnacknowledged(c syscall.Conn, limit time.Duration) {
	raw, err := c.SyscallConn()
	if err != nil {
		return // closed already
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	})
}
