// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package main measures Muster as its table of figures wants it (make bench,
// make soak): a load generator, a broker that keeps nothing, the least that a
// server could do as a floor, and what runs them beside each other. Each is a
// process of its own, so that the CPU of the server stands alone.
package main
