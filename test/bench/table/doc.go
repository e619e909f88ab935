// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package table measures the figures of docs/benchmarks.md and prints them: for
// each, it starts servers, broker and load as processes, lets them run for a
// while, and reads from the kernel what the server took.
package table
