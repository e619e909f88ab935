// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package kafka_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

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

// testTooLarge has a topic whose batches must be smaller than those that the Log
// makes: it halves them, and refuses what is too large by itself.
func testTooLarge(t *testing.T, c *kafka.Cluster) {
	c.CreateTopic(topicOf(t), partitions)
	set(t, c, topicOf(t), "max.message.bytes", "20000")
	w := writeTo(t, c, topicOf(t), nil)
	w.burst(50, 10, 20)
	w.undoubled(c)
	huge := [][]byte{make([]byte, 30000)}
	if err := w.Append(t.Context(), "agent-huge", huge, nil); err != nil {
		t.Fatal(err)
	}
	w.burst(50, 1, 20)
	l := w.settle()
	if n := w.appended(); l.Delivered != n || l.Refused != 1 || l.Received != n+1 {
		t.Errorf("%d appended, and one too large: %+v", n, l)
	}
}

// set changes a setting of a topic.
func set(t *testing.T, c *kafka.Cluster, topic, name, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	altered, err := c.Admin().AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: name, Value: &value}}, topic)
	for _, a := range altered {
		err = errors.Join(err, a.Err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// testProducerForgotten is idle until the broker no longer knows the producer,
// which by default it does after a day.
func testProducerForgotten(t *testing.T, c *kafka.Cluster) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	second := "1000"
	altered, err := c.Admin().AlterBrokerConfigs(ctx, []kadm.AlterConfig{{Name: "producer.id.expiration.ms", Value: &second}})
	for _, a := range altered {
		err = errors.Join(err, a.Err)
	}
	if err != nil {
		t.Fatal(err)
	}
	w := write(t, c, nil)
	for range 3 {
		w.burst(50, 2, 10)
		w.undoubled(c)
		<-time.After(3 * time.Second)
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
