// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package fleet is the domain that every part of Muster speaks: agents and
// their heartbeats, records, desired config, tasks and their states, users and
// roles, nodes and their load. It uses the standard library only and does no
// I/O, so everything in it can be tested as plain values.
package fleet
