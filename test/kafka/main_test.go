// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package kafka_test

import (
	"fmt"
	"os"
	"testing"

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

// TestThreeBrokers runs all that needs no broker of its own against one cluster
// of three: to start it costs more than most of these tests.
func TestThreeBrokers(t *testing.T) {
	needKafka(t)
	c := kafka.Start(t, kafka.Options{Brokers: 3})
	for _, tt := range []struct {
		name string
		test func(*testing.T, *kafka.Cluster)
	}{
		{"Compression", testCompression},
		{"SASL", testSASL},
		{"TLS", testTLS},
		{"AnswersLost", testAnswersLost},
		{"ConnectionsCut", testConnectionsCut},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.test(t, c)
		})
	}
}
