// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package memnet is a network in memory for tests: hosts, listeners, streams
// and datagrams, with partitions between them. Every wait in it is on a
// sync.Cond or a channel, so it runs inside testing/synctest bubbles. Nothing
// is lost or delayed unless a test asks for it.
package memnet
