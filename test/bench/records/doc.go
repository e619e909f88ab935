// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package records makes the messages that the benchmark's agents send, and
// finds in what arrives the numbers that they carry.
package records
