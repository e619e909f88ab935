// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package peerrpcpb is the wire between nodes, generated from peer.proto.
package peerrpcpb
