// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package control starts the processes of a benchmark, asks them for what they
// have counted, and reads what the kernel knows about them.
package control
