// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package peerrpc

import (
	"net"
	"time"
)

// limitUnacknowledged leaves it to the kernel's own patience.
func limitUnacknowledged(*net.TCPConn, time.Duration) {}
