// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package recordlog carries agents' records to Kafka and counts each of them.
//
// A Log takes records by Append, encodes them at once as Kafka v2 records into
// a buffer of their partition, and sends each partition's buffer from one
// goroutine, one batch in flight, idempotently and acknowledged by all in-sync
// replicas. While Kafka is away records go to a spool on disk up to a bound, then
// are held in memory up to another, and then Append waits.
//
// An Embedded is a broker inside this process for a node without a Kafka.
//
// DESIGN.md has the formats and the reasons.
package recordlog
