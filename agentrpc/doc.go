// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package agentrpc is the AgentCenter: it holds the gRPC streams of agents,
// forwards their records to the record log, and sends them config and tasks.
//
// One stream, one session. A session has two goroutines. The receiver reads a
// message, stamps its records with the session's identity and hands them to the
// record log; while the log is full it does not read, so HTTP/2 flow control
// slows that one agent. The sender sleeps until something may be due, then
// compares what the agent should have with what was written to its stream. A
// connect, a change and a lost wake-up all take that same path.
//
// Records are never unmarshalled: a record on the wire and the message that
// Kafka gets share their first three fields, so a Kafka value is the record's
// own bytes and a suffix that is the same for the whole message (message.go).
package agentrpc
