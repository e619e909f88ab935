// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package bubble runs whole Muster nodes inside a testing/synctest bubble, for
// tests in which time matters: an hour costs about a second, and a goroutine
// that nobody waits for fails the test. Every socket is on a network in memory,
// where nodes can be killed, cut off and parted; the files are real. The nodes
// are spoken to as from outside: by HTTP, by gRPC and by the Kafka protocol.
package bubble
