// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package peerrpc is the port between nodes: Raft's connections, calls between
// members and joining share one listener and are told apart by ALPN. Members
// know each other by certificates of the cluster's CA; a node without one proves
// that it knows the cluster secret. See DESIGN.md for the frames and why.
package peerrpc
