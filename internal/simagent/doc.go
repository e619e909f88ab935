// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package simagent is a fleet of simulated agents that follow the rules of a
// stock Elkeid agent: how it finds a server, when it sends, waits, gives up and
// comes back, and what it does with tasks and configs.
//
// Each agent is one goroutine, plus one while its stream is open (and what gRPC
// needs for its connection). What its plugins would have put into its buffer is
// worked out when somebody looks, not by goroutines of its own: see source.
//
// Data records are numbered when they are sent, so that a reader of the other
// end (Tally) can tell which of them were lost or came twice.
package simagent
