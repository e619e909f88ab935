// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package kafka runs Apache Kafka for tests, through the scripts of deploy/kafka:
// clusters of real brokers on this machine with ports and data of their own,
// brokers that are killed, paused and started again, lines to them that lose,
// delay or swallow what they carry, topics, and what stands in them in the end.
package kafka
