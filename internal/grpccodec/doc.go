// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package grpccodec holds the message compressions that agents and the
// AgentCenter use on gRPC: snappy (the framed stream format, what a stock agent
// always sends), zstd and gzip.
//
// Memory: gRPC reads at most its maximum message size (plus one byte) out of a
// decompressor, so a bomb costs no more than one message. What a decompressor
// may hold for itself is bounded here: one block of at most 1 MiB for snappy,
// one window of at most 16 MiB for zstd, 32 KiB for gzip. All of them work in
// the caller's goroutine, and all but zstd's decoder come from pools.
package grpccodec
