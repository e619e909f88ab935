// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package simfleet is a fleet in a clock of its own: some nodes, each with its own
// view of the others, and up to millions of agents that ask, connect, leave, and lose
// their nodes. What nodes decide is decided by the real code (fleet.Rank, fleet.Askers,
// fleet.HandOuts, fleet.Balancer); the network, the agents and the nodes' sockets are
// made up. The same seed gives the same run.
//
// An agent behaves as a stock one: it asks some node (one that is dead is skipped, as
// dialers skip it among the addresses of a name), tries the addresses in their order,
// each after 0.02 to 2 s, and keeps the first that takes it; without one, and 5 s after
// a stream has ended, it asks again. A node takes handshakes at a bounded rate, and one
// that waits for 15 s is given up. Each node reports its load once a second, at a
// moment of its own; a report is on its way for 1 to 200 ms, and one in twenty is lost.
// A dead node counts as dead elsewhere after 5 s. A node that starts is ready after 2 s.
package simfleet
