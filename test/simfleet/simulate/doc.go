// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package main prints what package simfleet finds, for docs/benchmarks.md.
package main
