// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/describeconfigs"
)

// limits bound what is taken; they follow the topic's settings.
type limits struct {
	record   atomic.Int64 // of one record with its key and framing
	batch    atomic.Int64 // of a batch before it is compressed
	learnt   atomic.Bool  // the partitions are known: records move on
	reported *throttle    // log lines about records that are too large, by key
	asked    time.Time    // when the topic's settings were asked for; of watchCluster
}

const (
	// maxMessageBytes is the setting of a topic that bounds a batch, compressed.
	maxMessageBytes = "max.message.bytes"
	// batchHeader is what the broker counts of a batch beside its records.
	batchHeader = recordsAt - offBaseOffset
	// largestRecord bounds a record whatever the topic takes: records of several
	// MiB would make one agent's share of the memory meaningless.
	largestRecord = 8 << 20
)

// follow sets the limits by what the topic takes, 0 if that is not known. Bytes
// are counted before they are compressed, so that a batch is never too large;
// the charge of a record covers its framing.
func (l *Log) follow(topicBytes int64) {
	record, batch := int64(DefaultMaxRecordBytes), int64(batchBytes)
	if topicBytes > 0 {
		record = min(max(topicBytes-batchHeader, 1), largestRecord, l.opts.MaxPendingBytes)
		batch = min(batch, record+recordsAt)
	}
	if l.opts.MaxRecordBytes > 0 {
		record = min(record, int64(l.opts.MaxRecordBytes))
	}
	l.limits.batch.Store(batch)
	if old := l.limits.record.Swap(record); old != record && topicBytes > 0 {
		l.logger.Info("learnt how large a record may be", "topic", l.opts.Topic, "max_message_bytes", topicBytes, "max_record_bytes", record)
	}
}

// askLimits asks for the topic's settings. A user without the right to see them
// has the default: a batch that is too large is split when it is refused.
func (l *Log) askLimits(ctx context.Context, c *conn) error {
	const topicResource = 2
	now := time.Now()
	if now.Sub(l.limits.asked) < metadataEvery {
		return nil
	}
	l.limits.asked = now
	res, err := c.roundTrip(ctx, &describeconfigs.Request{Resources: []describeconfigs.RequestResource{{
		ResourceType: topicResource, ResourceName: l.opts.Topic, ConfigNames: []string{maxMessageBytes},
	}}})
	if err != nil {
		return fmt.Errorf("asking %s for the topic's settings: %w", c.addr, err)
	}
	r, ok := res.(*describeconfigs.Response)
	if !ok || len(r.Resources) != 1 {
		return fmt.Errorf("asking %s for the topic's settings: unexpected answer", c.addr)
	}
	if err := codeError(r.Resources[0].ErrorCode); err != nil {
		if errors.Is(err, kafka.TopicAuthorizationFailed) || errors.Is(err, kafka.ClusterAuthorizationFailed) {
			l.follow(0)
		}
		return nil
	}
	for _, entry := range r.Resources[0].ConfigEntries {
		if n, err := strconv.ParseInt(entry.ConfigValue, 10, 64); err == nil && entry.ConfigName == maxMessageBytes {
			l.follow(n)
		}
	}
	return nil
}
