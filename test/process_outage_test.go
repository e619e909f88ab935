// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"muster/internal/agentpb"
	"muster/internal/apiv1"
	"muster/test/process"
)

const (
	outageAgents = 40
	outageRate   = 100 // records a second and agent
	// enoughSpooled is some seconds of their records.
	enoughSpooled = 20_000
)

// outage is a lone node with agents, whose Kafka goes away.
type outage struct {
	*process.Cluster
	t      *testing.T
	node   *process.Node
	agents *process.Agents
}

func newOutage(t *testing.T, args ...string) *outage {
	t.Helper()
	return outageOf(t, process.NewCluster(t, 1, process.ClusterOptions{Args: args}))
}

func outageOf(t *testing.T, c *process.Cluster) *outage {
	t.Helper()
	c.Form()
	o := &outage{Cluster: c, t: t, node: c.Nodes[0]}
	o.agents = c.StartAgents(process.AgentOptions{Agents: outageAgents, Rate: outageRate})
	o.until("records are delivered", func(s apiv1.Status) bool { return s.Records.Delivered > outageAgents*outageRate })
	return o
}

// until waits for what the node says of itself, whose ledger balances each time.
func (o *outage) until(what string, is func(apiv1.Status) bool) (last apiv1.Status) {
	o.t.Helper()
	process.Eventually(o.t, time.Minute, what, func() (err error) {
		if last, err = o.node.Status(o.Token()); err != nil {
			return err
		}
		balanced(o.t, last.Records)
		if !is(last) {
			return fmt.Errorf("records %+v, kafka %+v", last.Records, last.Kafka)
		}
		return nil
	})
	return last
}

func balanced(t *testing.T, l apiv1.Ledger) {
	t.Helper()
	sum := l.Delivered + l.Pending + l.Spooled + l.Refused
	for _, n := range l.Dropped {
		sum += n
	}
	if sum != l.Received {
		t.Fatalf("the ledger does not balance: %+v", l)
	}
}

// ready waits until /readyz has that answer, and all these words in its reasons.
func (o *outage) ready(want bool, words ...string) {
	o.t.Helper()
	process.Eventually(o.t, 30*time.Second, "/readyz follows", func() error {
		ready, reasons, err := o.node.Ready()
		if err != nil {
			return err
		}
		text := strings.Join(reasons, "; ")
		for _, w := range words {
			if !strings.Contains(text, w) {
				return fmt.Errorf("ready %v: %q has no %q", ready, text, w)
			}
		}
		if ready != want {
			return fmt.Errorf("ready %v: %q", ready, text)
		}
		return nil
	})
}

// streaming waits until all agents have a stream.
func (o *outage) streaming() {
	o.t.Helper()
	process.Eventually(o.t, time.Minute, "all agents stream", func() error { return o.agents.Connected(outageAgents) })
}

// end lets everything be delivered, and returns how many records Kafka has of
// any kind, and the node's last ledger.
func (o *outage) end() (inKafka uint64, last apiv1.Ledger) {
	o.t.Helper()
	o.agents.Stop()
	settled(o.t, o.Cluster, o.node)
	o.Kafka.Read(func(*agentpb.MQData) { inKafka++ })
	return inKafka, o.until("nothing is left", func(s apiv1.Status) bool { return s.Records.Spooled == 0 }).Records
}

// whole wants the agents to have lost nothing but what was on its way when their
// streams ended, so many times, and Kafka to have nothing twice but what the node
// counted as possibly so: what an earlier life of it had sent and got no answer to.
func (o *outage) whole(streamsEnded int) (lost, twice uint64) {
	o.t.Helper()
	tally, ids := o.Tally(o.agents), o.agents.IDs()
	inOnePiece(o.t, tally, ids, slices.Repeat([][]string{ids}, streamsEnded)...)
	total := tally.Total()
	if may := o.duplicates(); total.Duplicates > may || total.OutOfOrder > 0 {
		o.t.Errorf("in Kafka: %+v; %d may be there twice", total, may)
	}
	if s := o.agents.Summary(); s.Records.Dropped > 0 {
		o.t.Errorf("agents had no room for %d records", s.Records.Dropped)
	}
	return total.Lost, total.Duplicates
}

// nothingLost wants all records of agents that kept their streams, each once.
func (o *outage) nothingLost() {
	o.t.Helper()
	if lost, twice := o.whole(0); lost+twice > 0 {
		o.t.Errorf("%d records are lost, %d are there twice", lost, twice)
	}
}

// A node that is stopped while Kafka is away keeps on its disk what it has, and
// delivers it in its next life.
func TestProcessOutageStop(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	o.Kafka.Away()
	o.until("records are on the disk", func(s apiv1.Status) bool { return s.Records.Spooled > enoughSpooled })
	o.ready(true, "kafka away")
	took, code := o.node.Stop()
	if code != 0 || took > 15*time.Second {
		t.Fatalf("the stop took %s, exit code %d", took, code)
	}
	first := stoppedWith(t, o.node)
	if first.Pending != 0 || first.Received != first.Delivered+first.Spooled || first.Spooled < enoughSpooled {
		t.Fatalf("stopped with %+v", first)
	}
	o.node.Start()
	found := o.until("the disk is read", func(s apiv1.Status) bool { return s.Records.Recovered > 0 }).Records
	// What Kafka acknowledged out of turn is sent again, and counted as doubtful.
	if found.Recovered < first.Spooled || found.Recovered > first.Spooled+found.PossibleDuplicates {
		t.Errorf("%d records were on the disk, %d are found, %d doubtful", first.Spooled, found.Recovered, found.PossibleDuplicates)
	}
	o.streaming()
	o.Kafka.Back()
	o.ready(true)
	inKafka, second := o.end()
	lost, twice := o.whole(1)
	want := first.Received + second.Received - second.Recovered
	if inKafka < want+twice || inKafka > want+second.PossibleDuplicates {
		t.Errorf("Kafka has %d records of %d that the node received; %d are there twice, %d may be", inKafka, want, twice, second.PossibleDuplicates)
	}
	t.Logf("stopped after %s with %d records on the disk; %d lost between agents and node", took.Round(time.Millisecond), first.Spooled, lost)
}

// kill -9 while Kafka is away costs at most what was in memory, the last moments.
func TestProcessOutageKill(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	o.Kafka.Away()
	first := o.until("records are on the disk", func(s apiv1.Status) bool { return s.Records.Spooled > enoughSpooled }).Records
	o.node.Kill()
	o.node.Start()
	found := o.until("the disk is read", func(s apiv1.Status) bool { return s.Records.Recovered > 0 }).Records
	if found.Recovered < first.Spooled {
		t.Errorf("%d records were on the disk, %d are found", first.Spooled, found.Recovered)
	}
	o.streaming()
	o.Kafka.Back()
	o.ready(true)
	inKafka, second := o.end()
	if want := first.Delivered + second.Received; inKafka < want {
		t.Errorf("Kafka has %d records; %d were delivered before, %d since", inKafka, first.Delivered, second.Received)
	}
	lost, twice := o.whole(1)
	t.Logf("killed with %d records on the disk and %d in memory; %d lost between agents and disk, %d twice in Kafka", first.Spooled, first.Pending, lost, twice)
}

// A Kafka that takes requests and answers nothing is away, too; agents notice nothing.
func TestProcessOutageSilent(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	o.Kafka.Silent()
	o.until("records are on the disk", func(s apiv1.Status) bool { return s.Records.Spooled > enoughSpooled })
	o.ready(true, "kafka away")
	o.Kafka.Back()
	o.until("the disk is empty", func(s apiv1.Status) bool { return s.Records.Spooled == 0 })
	o.ready(true)
	if s := o.agents.Summary(); s.Network.Reconnects > 0 {
		t.Errorf("agents lost their streams: %s", s)
	}
	o.end()
	o.nothingLost()
}

// When memory and spool are full agents wait, and nothing is dropped.
func TestProcessOutageFull(t *testing.T) {
	t.Parallel()
	o := newOutage(t, "--spool-max-bytes", strconv.Itoa(8<<20))
	o.Kafka.Away()
	o.ready(false, "kafka away", "full")
	full := o.until("records are on the disk", func(s apiv1.Status) bool { return s.Records.Spooled > 0 }).Records
	o.Kafka.Back()
	o.ready(true)
	if s := o.agents.Summary(); s.Network.Reconnects > 0 {
		t.Errorf("agents lost their streams: %s", s)
	}
	_, last := o.end()
	if last.Received != last.Delivered {
		t.Errorf("not all is delivered: %+v", last)
	}
	o.nothingLost()
	t.Logf("full with %+v", full)
}

var ledgerTerm = regexp.MustCompile(`(Received|Delivered|Pending|Spooled):(\d+)`)

// stoppedWith reads the ledger that a node logs last.
func stoppedWith(t *testing.T, n *process.Node) (l apiv1.Ledger) {
	t.Helper()
	log := n.Log.String()
	at := strings.LastIndex(log, "node has stopped")
	if at < 0 {
		t.Fatalf("the log of %s does not say that it stopped:\n%s", n.Name, n.Log.Tail(20))
	}
	for _, m := range ledgerTerm.FindAllStringSubmatch(log[at:], -1) {
		v, err := strconv.ParseUint(m[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		*map[string]*uint64{"Received": &l.Received, "Delivered": &l.Delivered, "Pending": &l.Pending, "Spooled": &l.Spooled}[m[1]] = v
	}
	return l
}
