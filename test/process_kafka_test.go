// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"testing"
	"time"

	"muster/internal/apiv1"
	"muster/test/process"
)

// duplicates is how many records the node counts as possibly twice in Kafka, in
// its present life.
func (o *outage) duplicates() uint64 {
	o.t.Helper()
	n, err := o.node.Metric("muster_recordlog_possible_duplicate_records_total")
	if err != nil {
		o.t.Fatal(err)
	}
	return uint64(n)
}

// Agents send as fast as they can to a node without Kafka, which is killed. What
// it said to be on its disk is delivered by its next life, and with what each
// agent lost it lost one piece: what was in memory, and what had not been read
// from its stream.
func TestProcessKafkaKillAtSaturation(t *testing.T) {
	t.Parallel()
	const agents, each = 12, 40_000
	c := process.NewCluster(t, 1, process.ClusterOptions{Args: []string{"--kafka-compression", "snappy"}})
	c.Form()
	o := &outage{Cluster: c, t: t, node: c.Nodes[0]}
	o.until("Kafka is there", func(s apiv1.Status) bool { return s.Kafka.State == "ok" })
	o.Kafka.Away()
	o.agents = c.StartAgents(process.AgentOptions{Agents: agents, Records: each})
	// All that was received at one moment is on the disk at a later one, while
	// more comes: what a kill costs is what came last.
	looked := o.until("records come", func(s apiv1.Status) bool { return s.Records.Received > agents*each/20 })
	began := time.Now()
	synced := o.until("they are on the disk", func(s apiv1.Status) bool {
		return s.Records.Delivered+s.Records.Spooled >= looked.Records.Received
	})
	t.Logf("what had been received was on the disk at most %s later", time.Since(began).Round(time.Millisecond))
	o.node.Kill()
	first := synced.Records
	o.node.Start()
	found := o.until("the disk is read", func(s apiv1.Status) bool { return s.Records.Recovered > 0 }).Records
	if found.Recovered < first.Spooled {
		t.Errorf("%d records were on the disk, %d are found", first.Spooled, found.Recovered)
	}
	o.Kafka.Back()
	process.Eventually(t, 2*time.Minute, "the agents have sent all", o.agents.Finished)
	inKafka, second := o.end()
	if want := first.Delivered + second.Received; inKafka < want {
		t.Errorf("Kafka has %d records; %d were delivered before, %d since", inKafka, first.Delivered, second.Received)
	}
	lost, _ := o.whole(1)
	t.Logf("killed with %+v; the disk had %d; %d lost: %d of them had been in memory at the last look",
		first, found.Recovered, lost, int64(first.Received)-int64(first.Delivered+found.Recovered))
}

// A network that loses what goes to Kafka, what comes from there, or both, keeps
// connections open and says nothing. Agents notice nothing, and what Kafka had
// taken without the node hearing of it is not there twice.
func TestProcessKafkaPartition(t *testing.T) {
	for _, cut := range []struct {
		name              string
		requests, answers bool
	}{
		{"both", true, true},
		{"requests", true, false},
		{"answers", false, true},
	} {
		t.Run(cut.name, func(t *testing.T) {
			network := process.NewNetwork(t)
			o := outageOf(t, process.NewCluster(t, 1, process.ClusterOptions{Network: network}))
			network.CutKafka(o.node, cut.requests, cut.answers)
			o.until("records are on the disk", func(s apiv1.Status) bool { return s.Records.Spooled > enoughSpooled })
			o.ready(true, "kafka away")
			network.Heal()
			o.until("the disk is empty", func(s apiv1.Status) bool { return s.Records.Spooled == 0 })
			o.ready(true)
			if err := o.agents.Connected(outageAgents); err != nil {
				t.Error(err)
			}
			if s := o.agents.Summary(); s.Network.Reconnects > 0 {
				t.Errorf("agents lost their streams: %s", s)
			}
			inKafka, last := o.end()
			if inKafka != last.Received || o.duplicates() != 0 {
				t.Errorf("Kafka has %d records of %d; %d may be there twice", inKafka, last.Received, o.duplicates())
			}
			o.nothingLost()
		})
	}
}

// A Kafka that takes 200 ms for each answer is no Kafka that is away: records go
// there, in larger batches.
func TestProcessKafkaSlow(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	before := o.until("records are delivered", func(apiv1.Status) bool { return true }).Records.Delivered
	o.Kafka.Slow(200 * time.Millisecond)
	o.until("many more are", func(s apiv1.Status) bool { return s.Records.Delivered > before+5*outageAgents*outageRate })
	process.Eventually(t, 30*time.Second, "/readyz complains of nothing", func() error {
		if ready, reasons, err := o.node.Ready(); err != nil || !ready || len(reasons) > 0 {
			return fmt.Errorf("ready %v, %q, %w", ready, reasons, err)
		}
		return nil
	})
	if s := o.agents.Summary(); s.Network.Reconnects > 0 {
		t.Errorf("agents lost their streams: %s", s)
	}
	o.Kafka.Back()
	o.end()
	o.nothingLost()
}
