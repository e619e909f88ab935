// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"sync/atomic"
	"time"
)

// limits bound what is taken; they follow the topic's settings.
type limits struct {
	record   atomic.Int64 // of one record with its key and framing
	batch    atomic.Int64 // of a batch before it is compressed
	learnt   atomic.Bool  // the partitions are known: records move on
	reported *throttle    // log lines about records that are too large, by key
}

func (l *limits) init(record int) {
	l.record.Store(int64(record))
	l.batch.Store(batchBytes)
	l.reported = newThrottle(1024, time.Hour)
}
