// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package grpccodec

import (
	"slices"
	"sync"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/gzip"
)

// The names of the compressions on the wire (header grpc-encoding).
const (
	Snappy = "snappy"
	Gzip   = gzip.Name
	Zstd   = "zstd"
	// None is the name of no compression.
	None = encoding.Identity
)

// register runs its function once however often it is called; it is never
// reassigned.
var register = sync.OnceFunc(func() {
	encoding.RegisterCompressor(newSnappy())
	encoding.RegisterCompressor(newZstd())
})

// Register makes snappy and zstd known to gRPC in this process; gzip is known
// already through the import. Whoever serves or dials agents calls it in its
// constructor, before its first grpc.NewServer or grpc.NewClient: gRPC's
// registry has no lock of its own. Calling it again does nothing, and it is safe
// for concurrent use with itself.
func Register() { register() }

// Names lists what a peer may ask for, None included, in the order of help texts.
func Names() []string { return []string{Snappy, Gzip, Zstd, None} }

// Known reports whether name is one of Names.
func Known(name string) bool { return slices.Contains(Names(), name) }
