// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package agentpb is the wire format between Elkeid agents and Muster, and of
// the messages that Muster writes to Kafka, generated from agent.proto.
package agentpb
