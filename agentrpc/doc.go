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
// One agent, one session. The newest stream of an agent wins: on this node at
// once; between nodes by claims, which name the agent and an epoch of a hybrid
// logical clock (clock.go). Every session is claimed to every other live node
// until that has answered; a node that appears hears of all of them (claims.go).
// A node whose session has a lower epoch ends it; with a higher or an equal one
// it answers with that epoch. The refused session is then contested: if it
// delivers a message within a second it takes the next epoch, once, and claims
// again, else it ends (contest.go). IDs that change their node three times in a
// minute belong to several hosts: that is told, and they are left to take the
// agent from each other no faster than they come back (moves.go).
//
// Records are never unmarshalled: a record on the wire and the message that
// Kafka gets share their first three fields, so a Kafka value is the record's
// own bytes and a suffix that is the same for the whole message (message.go).
package agentrpc
