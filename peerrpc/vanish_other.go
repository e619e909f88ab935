// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package peerrpc

import (
	"syscall"
	"time"
)

// limitUnacknowledged leaves it to the kernel's own patience.
func limitUnacknowledged(syscall.Conn, time.Duration) {}
