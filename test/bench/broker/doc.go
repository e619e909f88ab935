// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package broker is a Kafka broker that keeps nothing: it acknowledges batches,
// counts their records from the header and lets the kernel throw away the rest
// unread. On demand it looks at the numbers that records carry, refuses, hangs or
// is slow.
package broker
