// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"muster/recordlog"
	"muster/test/kafka"
	"muster/test/process"
)

// faultRate is records a second: enough that each partition has some on its way
// at any moment.
const faultRate = 1000

// leads returns the brokers that lead partitions of w's topic.
func leads(t *testing.T, c *kafka.Cluster, topic string) map[int32]int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	topics, err := c.Admin().ListTopics(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	leaders := make(map[int32]int)
	for _, p := range topics[topic].Partitions {
		leaders[p.Leader]++
	}
	return leaders
}

// testBrokerKilled kills the broker that leads the controllers, too. Two replicas
// are left, and that is enough.
func testBrokerKilled(t *testing.T, c *kafka.Cluster) {
	w := write(t, c, nil)
	stop := w.load(faultRate)
	w.flows()
	b := c.Controller()
	led := leads(t, c, w.topic)[int32(b.ID)]
	b.Kill()
	began := time.Now()
	w.others(c, b)
	t.Logf("broker %d led %d of %d partitions; others do after %s", b.ID, led, partitions, time.Since(began).Round(time.Millisecond))
	b.Start()
	c.WaitInSync(w.topic)
	stop()
	w.undoubled(c)
}

// testTooFewReplicas kills a broker while all three have to have a record.
func testTooFewReplicas(t *testing.T, c *kafka.Cluster) {
	w := write(t, c, nil)
	stop := w.load(faultRate)
	w.flows()
	set(t, c, w.topic, "min.insync.replicas", "3")
	b := c.Brokers[c.Controller().ID%len(c.Brokers)]
	b.Kill()
	w.lastErrorHas("too few in-sync replicas: check the brokers")
	b.Start()
	w.flows()
	c.WaitInSync(w.topic)
	stop()
	w.undoubled(c)
}

// others waits until all records flow to other brokers than b.
func (w *writer) others(c *kafka.Cluster, b *kafka.Broker) {
	w.t.Helper()
	process.Eventually(w.t, settleWithin, "all partitions are delivered to again", func() error {
		if n := leads(w.t, c, w.topic)[int32(b.ID)]; n > 0 {
			return fmt.Errorf("broker %d still leads %d partitions", b.ID, n)
		}
		if s := w.Status(); !s.Up {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	w.flows()
}

// testBrokerPaused lets a broker hear and say nothing for longer than a request
// may take, and longer than the others wait for it.
func testBrokerPaused(t *testing.T, c *kafka.Cluster) {
	w := write(t, c, func(o *recordlog.Options) { o.RequestTimeout = 2 * time.Second })
	stop := w.load(faultRate)
	w.flows()
	b := c.Brokers[1]
	b.Pause()
	<-time.After(6 * time.Second)
	w.flows()
	b.Resume()
	c.WaitInSync(w.topic)
	stop()
	w.undoubled(c)
}

// testAllStopped has no broker for a while, and the Log ends and begins again
// meanwhile.
func testAllStopped(t *testing.T, c *kafka.Cluster) {
	w := write(t, c, nil)
	stop := w.load(faultRate)
	w.flows()
	for _, b := range c.Brokers {
		b.Kill()
	}
	w.lastErrorHas("connection refused")
	process.Eventually(t, settleWithin, "records are on disk", func() error {
		if l := w.Ledger(); l.Spooled == 0 {
			return fmt.Errorf("%+v", l)
		}
		return nil
	})
	stop()
	w.stop()
	l := w.Ledger()
	if n := w.appended(); l.Received != n || l.Delivered+l.Spooled != n || l.Spooled == 0 {
		t.Errorf("stopped without a broker, %d appended: %+v", n, l)
	}
	w.run(w.opts)
	if again := w.Ledger(); again.Recovered != l.Spooled {
		t.Errorf("%d records were left on disk, %d are found there", l.Spooled, again.Recovered)
	}
	stop = w.load(faultRate)
	c.StartAll()
	c.WaitInSync(w.topic)
	w.flows()
	stop()
	l = w.delivered(c)
	t.Logf("%d records in all, %d recovered, %d possible duplicates", w.appended(), l.Recovered, l.PossibleDuplicates)
}

// testPartitioned swallows what goes to one broker, which the others see well:
// it goes on leading its partitions, and their records wait.
func testPartitioned(t *testing.T, c *kafka.Cluster) {
	line := kafka.NewLine(t)
	w := write(t, c, func(o *recordlog.Options) { o.Dial, o.RequestTimeout = line.Dial, 2*time.Second })
	stop := w.load(faultRate)
	w.flows()
	line.Hold(c.Brokers[0].Addr(kafka.Plain))
	w.lastErrorHas("i/o timeout")
	w.flows() // to the others' partitions
	line.Release()
	w.flows()
	for _, b := range c.Brokers {
		line.Hold(b.Addr(kafka.Plain))
	}
	<-time.After(5 * time.Second)
	line.Release()
	stop()
	w.undoubled(c)
}

// testLeadersMoved has an operator move the partitions from broker to broker.
func testLeadersMoved(t *testing.T, c *kafka.Cluster) {
	w := write(t, c, nil)
	stop := w.load(faultRate)
	w.flows()
	for round := range 4 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		replicas, all := kadm.AlterPartitionAssignmentsReq{}, kadm.TopicsSet{}
		for p := range int32(partitions) {
			first := (int(p) + round) % 3
			order := slices.Concat(ids(c)[first:], ids(c)[:first])
			replicas.Assign(w.topic, p, order)
			all.Add(w.topic, p)
		}
		assigned, err := c.Admin().AlterPartitionAssignments(ctx, replicas)
		if err == nil {
			err = assigned.Error()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Admin().ElectLeaders(ctx, kadm.ElectPreferredReplica, all); err != nil {
			t.Fatal(err)
		}
		cancel()
		w.flows()
		<-time.After(500 * time.Millisecond)
	}
	stop()
	w.undoubled(c)
}

func ids(c *kafka.Cluster) []int32 {
	var ids []int32
	for _, b := range c.Brokers {
		ids = append(ids, int32(b.ID))
	}
	return ids
}

// testSlow has every answer of every broker take 200 ms longer. Nothing piles up.
func testSlow(t *testing.T, c *kafka.Cluster) {
	const rate = 3000
	line := kafka.NewLine(t)
	line.Delay(200 * time.Millisecond)
	w := write(t, c, func(o *recordlog.Options) { o.Dial = line.Dial })
	stop := w.load(rate)
	w.flows()
	most := uint64(0)
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		l := w.Ledger()
		most = max(most, l.Pending)
		if l.Spooled > 0 || !w.Status().Up {
			t.Fatalf("%+v, %+v", l, w.Status())
		}
	}
	stop()
	if most > 5*rate {
		t.Errorf("%d records were pending, of %d a second", most, rate)
	}
	t.Logf("at most %d records were pending", most)
	w.undoubled(c)
}

// testThrottled has the broker slow its clients down, as quotas do: it answers,
// and then hears nothing on that connection for a while.
func testThrottled(t *testing.T, c *kafka.Cluster) {
	clients := "muster" // by the name that they give themselves
	quota := func(op kadm.AlterClientQuotaOp) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		altered, err := c.Admin().AlterClientQuotas(ctx, []kadm.AlterClientQuotaEntry{{
			Entity: kadm.ClientQuotaEntity{{Type: "client-id", Name: &clients}}, Ops: []kadm.AlterClientQuotaOp{op},
		}})
		for _, a := range altered {
			err = errors.Join(err, a.Err)
		}
		if err != nil {
			t.Error(err)
		}
	}
	const rate, bytes = 500 << 10, 3 << 20
	quota(kadm.AlterClientQuotaOp{Key: "producer_byte_rate", Value: rate})
	defer quota(kadm.AlterClientQuotaOp{Key: "producer_byte_rate", Remove: true})
	w := write(t, c, nil)
	// The broker learns of the quota a while after the controller has it.
	var took time.Duration
	for try := 0; try < 4 && took < bytes/rate/2*time.Second; try++ {
		began := time.Now()
		for range bytes / (100 * len(padding)) {
			w.burst(10, 1, 10)
		}
		w.settle()
		took = time.Since(began)
		t.Logf("%d bytes took %s", bytes, took.Round(time.Millisecond))
	}
	if took < bytes/rate/2*time.Second {
		t.Error("they were not slowed down")
	}
	w.undoubled(c)
}
