// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package raftstore keeps what the cluster must not lose: users, tokens, keys,
// the agent inventory, desired config and tasks. Writes go through a Raft log
// (raft-wal) and are applied on every node, in the same order, to a bbolt file
// that is at once the node's state and its snapshot. DESIGN.md describes the
// buckets, the formats and the rules of the log.
package raftstore
