// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package kafka_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"muster/recordlog"
	"muster/test/kafka"
)

func testCompression(t *testing.T, c *kafka.Cluster) {
	for _, codec := range []recordlog.Compression{
		recordlog.CompressionNone, recordlog.CompressionSnappy, recordlog.CompressionLZ4, recordlog.CompressionZstd,
	} {
		t.Run(string(codec), func(t *testing.T) {
			w := write(t, c, func(o *recordlog.Options) { o.Compression = codec })
			w.burst(100, 10, 20) // 20,000 records: full batches
			w.burst(1, 1, 1)
			w.undoubled(c)
		})
	}
}

// testAnswersLost has brokers write batches and nobody hear of it.
func testAnswersLost(t *testing.T, c *kafka.Cluster) {
	line := kafka.NewLine(t)
	w := write(t, c, func(o *recordlog.Options) { o.Dial = line.Dial })
	stop := w.load(5000)
	w.flows()
	for range 5 {
		line.LoseAnswers(0.3)
		<-time.After(time.Second)
		line.LoseAnswers(0)
		w.flows()
	}
	stop()
	w.undoubled(c)
	if line.Lost() < 10 {
		t.Errorf("%d answers were lost: too few to show anything", line.Lost())
	}
	t.Logf("%d answers lost, %d records", line.Lost(), w.appended())
}

// testConnectionsCut ends connections while requests and answers are on them.
func testConnectionsCut(t *testing.T, c *kafka.Cluster) {
	line := kafka.NewLine(t)
	w := write(t, c, func(o *recordlog.Options) { o.Dial = line.Dial })
	stop := w.load(5000)
	w.flows()
	for range 60 {
		<-time.After(time.Duration(20+rand.N(160)) * time.Millisecond)
		line.Cut()
	}
	stop()
	w.undoubled(c)
}
