// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package agents is the benchmark's load generator: agents that speak the stock
// protocol (mutual TLS, HTTP/2, gRPC, snappy) at as little cost as can be, so
// that it leaves the machine to the server. Messages are encoded and compressed
// before they are needed, unless their records are numbered; HTTP/2 is spoken by
// the few lines of stream.go.
package agents
