// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package kafka_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"muster/recordlog"
	"muster/test/kafka"
	"muster/test/process"
)

// testTopicDeleted deletes the topic under load. What had been delivered is
// gone with it; what had not goes to the new one, which the Log makes itself if
// nobody else does.
func testTopicDeleted(t *testing.T, c *kafka.Cluster) {
	for _, name := range []string{"again", "left"} {
		t.Run(name, func(t *testing.T) { deleteTopic(t, c, name == "again") })
	}
}

func deleteTopic(t *testing.T, c *kafka.Cluster, again bool) {
	w := write(t, c, nil)
	stop := w.load(faultRate)
	w.flows()
	before := w.Ledger().Delivered
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	deleted, err := c.Admin().DeleteTopics(ctx, w.topic)
	if err == nil {
		err = deleted.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	if again {
		c.CreateTopic(w.topic, partitions)
	}
	w.flows()
	c.WaitInSync(w.topic)
	<-time.After(time.Second)
	stop()
	l := w.settle()
	n := w.appended()
	if l.Received != n || l.Delivered != n {
		t.Errorf("appended %d: %+v, want as many received and delivered", n, l)
	}
	var gone, doubles uint64
	seen := w.read(c) // nothing is missing behind the first of each key
	for key, sent := range w.sent {
		k := seen[key]
		if k == nil || k.next != sent {
			t.Errorf("%s: %+v in Kafka, want all up to %d", key, k, sent)
			continue
		}
		gone += uint64(k.first)
		doubles += k.doubles
	}
	if gone < before || gone == n || doubles > l.PossibleDuplicates {
		t.Errorf("%d records are gone with the old topic, %d were delivered before; %d are double: %+v", gone, before, doubles, l)
	}
	t.Logf("%d records delivered before, %d gone with the old topic, %d possible duplicates", before, gone, l.PossibleDuplicates)
}

// testPartitionsAdded has an operator add partitions under load.
func testPartitionsAdded(t *testing.T, c *kafka.Cluster) {
	w := write(t, c, nil)
	stop := w.load(faultRate)
	w.flows()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	began := time.Now()
	added, err := c.Admin().UpdatePartitions(ctx, 12, w.topic)
	if err == nil {
		err = added.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	process.Eventually(t, 40*time.Second, "the partitions are noticed", func() error {
		if s := w.Status(); s.Partitions != 12 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	t.Logf("noticed after %s", time.Since(began).Round(time.Millisecond))
	<-time.After(time.Second)
	stop()
	l := w.settle()
	if n := w.appended(); l.Delivered != n || l.PossibleDuplicates != 0 {
		t.Errorf("appended %d: %+v, want as many delivered, and none that may be double", n, l)
	}
	numbers, used := make(map[string]map[int]int), make(map[int32]bool)
	for _, r := range c.ReadAll(t, w.topic) {
		n, err := numberOf(r)
		if err != nil {
			t.Fatal(err)
		}
		if numbers[string(r.Key)] == nil {
			numbers[string(r.Key)] = make(map[int]int)
		}
		numbers[string(r.Key)][n]++
		used[r.Partition] = true
	}
	for key, sent := range w.sent {
		for n := range sent {
			if times := numbers[key][n]; times != 1 {
				t.Errorf("number %d of %s is %d times in Kafka", n, key, times)
			}
		}
	}
	if len(used) != 12 {
		t.Errorf("records are in partitions %v, want all 12", used)
	}
}

// testPasswordChanged changes the password that a connected Log logs in with.
func testPasswordChanged(t *testing.T, c *kafka.Cluster) {
	line := kafka.NewLine(t)
	w := write(t, c, func(o *recordlog.Options) {
		o.Brokers, o.Dial = c.Addrs(kafka.SASL), line.Dial
		o.SASL = &recordlog.SASL{Mechanism: "scram-sha-512", User: kafka.User, Password: kafka.Password}
	})
	stop := w.load(faultRate)
	w.flows()
	t.Cleanup(func() {
		if err := c.SetPassword(context.Background(), kafka.Password); err != nil {
			t.Error(err)
		}
	})
	if err := c.SetPassword(t.Context(), "another-password"); err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Second)
	w.flows() // whoever is logged in stays so
	line.Cut()
	w.lastErrorHas("check Kafka's user and password")
	<-time.After(2 * time.Second)
	if err := c.SetPassword(t.Context(), kafka.Password); err != nil {
		t.Fatal(err)
	}
	w.flows()
	stop()
	w.undoubled(c)
}
