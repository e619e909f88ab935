// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package kafka

import "syscall"

// endsWithUs: other systems let a broker live on whose test ended without a word.
func endsWithUs() *syscall.SysProcAttr { return nil }
