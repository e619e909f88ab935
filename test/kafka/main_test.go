// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package kafka_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"muster/test/kafka"
	"muster/test/process"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := process.Cleanup(); err != nil {
		fmt.Fprintln(os.Stderr, "remove the binary of the tests:", err)
	}
	os.Exit(code)
}

// needKafka skips a test where no Kafka is wanted, or none can be had.
func needKafka(t *testing.T) {
	t.Helper()
	if os.Getenv("MUSTER_TEST_KAFKA") != "1" {
		t.Skip("starts an Apache Kafka: set MUSTER_TEST_KAFKA=1, or use make test-kafka")
	}
	if why := kafka.Missing(); why != "" {
		if os.Getenv("CI") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
}

// logInLasts is how long a broker takes a SASL log-in for good.
const logInLasts = 3 * time.Second

// part is a test that shares its cluster with others.
type part struct {
	name string
	test func(*testing.T, *kafka.Cluster)
}

// TestThreeBrokers runs all that needs no brokers of its own against one cluster
// of three: to start it costs more than most of these tests.
func TestThreeBrokers(t *testing.T) {
	needKafka(t)
	dir := t.TempDir()
	disk, noDisk := kafka.NewDisk(t, filepath.Join(dir, "3"), 512) // the third broker's
	c := kafka.Start(t, kafka.Options{Brokers: 3, Dir: dir, Settings: map[string]string{
		"connections.max.reauth.ms": strconv.Itoa(int(logInLasts.Milliseconds())),
	}})
	t.Run("Well", func(t *testing.T) { // as far as the brokers go: at the same time
		for _, p := range []part{
			{"PartitionsAdded", testPartitionsAdded},
			{"Compression", testCompression},
			{"SASL", testSASL},
			{"TLS", testTLS},
			{"LogInEnds", testLogInEnds},
			{"TooLarge", testTooLarge},
			{"AnswersLost", testAnswersLost},
			{"ConnectionsCut", testConnectionsCut},
			{"Partitioned", testPartitioned},
			{"Slow", testSlow},
			{"LeadersMoved", testLeadersMoved},
			{"TopicDeleted", testTopicDeleted},
		} {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				p.test(t, c)
			})
		}
	})
	for _, p := range []part{
		{"PasswordChanged", testPasswordChanged},
		{"BrokerKilled", testBrokerKilled},
		{"TooFewReplicas", testTooFewReplicas},
		{"BrokerPaused", testBrokerPaused},
		{"BrokerFull", func(t *testing.T, c *kafka.Cluster) { testOneOfThreeFull(t, c, disk, noDisk) }},
		{"AllStopped", testAllStopped},
		{"Node", testNode},
	} {
		t.Run(p.name, func(t *testing.T) { p.test(t, c) })
	}
}

// TestOneBroker has a broker that nobody stands in for.
func TestOneBroker(t *testing.T) {
	needKafka(t)
	dir := t.TempDir()
	disk, noDisk := kafka.NewDisk(t, filepath.Join(dir, "1"), 256)
	c := kafka.Start(t, kafka.Options{Dir: dir, Settings: map[string]string{
		"producer.id.expiration.check.interval.ms": "200",
		"quota.window.num":                         "2", // seconds over which it is measured
	}})
	for _, p := range []part{
		{"Throttled", testThrottled},
		{"CertificateExpired", testCertificateExpired},
		{"Full", func(t *testing.T, c *kafka.Cluster) { testFull(t, c, disk, noDisk) }},
		{"ProducerForgotten", testProducerForgotten}, // the last: it changes a setting for all
	} {
		t.Run(p.name, func(t *testing.T) { p.test(t, c) })
	}
}
