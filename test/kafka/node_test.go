// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"muster/internal/agentpb"
	"muster/internal/simagent"
	"muster/test/kafka"
	"muster/test/process"
)

// testNode has a whole node and agents, with SCRAM over TLS. A broker is killed,
// the password is changed, there and in the node's file, and no broker answers
// when the agents are done and the node ends and starts again.
func testNode(t *testing.T, c *kafka.Cluster) {
	const agents, rate = 20, 50
	topic := topicOf(t)
	c.CreateTopic(topic, partitions)
	password, ca := filepath.Join(t.TempDir(), "password"), filepath.Join(t.TempDir(), "ca.pem")
	put(t, password, kafka.Password+"\n")
	put(t, ca, string(c.Authority.CA()))
	n := process.New(t, "--kafka", strings.Join(c.Addrs(kafka.SASLTLS), ","), "--kafka-topic", topic,
		"--kafka-sasl", "scram-sha-512", "--kafka-user", kafka.User, "--kafka-password-file", password,
		"--kafka-tls", "--kafka-tls-ca", ca, "--kafka-compression", "zstd")
	n.Start()
	tokenFile := n.Token()
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	fleet, end := startAgents(t, n, tokenFile, agents, rate)
	process.Eventually(t, settleWithin, "records flow", func() error { return ready(n, "") })

	c.Brokers[0].Kill()
	<-time.After(2 * time.Second)
	c.Brokers[0].Start()

	t.Cleanup(func() {
		if err := c.SetPassword(context.Background(), kafka.Password); err != nil {
			t.Error(err)
		}
	})
	if err := c.SetPassword(t.Context(), "another-password"); err != nil {
		t.Fatal(err)
	}
	process.Eventually(t, settleWithin, "/readyz says that Kafka is away", func() error { return ready(n, "kafka away") })
	process.Eventually(t, 10*time.Second, "the node's log says what to do about the password", func() error {
		for line := range strings.Lines(n.Log.String()) {
			if strings.Contains(line, "level=WARN") && strings.Contains(line, "check Kafka's user and password") {
				return nil
			}
		}
		return errors.New("it does not")
	})
	put(t, password, "another-password\n")
	process.Eventually(t, settleWithin, "the new password is good", func() error { return ready(n, "") })

	for _, b := range c.Brokers {
		b.Pause()
	}
	<-time.After(2 * time.Second)
	end()
	if took, code := n.Stop(); code != 0 || took > 15*time.Second {
		t.Errorf("SIGTERM without a broker: exit code %d after %s", code, took)
	}
	n.Start()
	for _, b := range c.Brokers {
		b.Resume()
	}
	twice := emptied(t, n, strings.TrimSpace(string(token)))
	n.Stop()
	tally := simagent.NewTally(fleet.RunID())
	for _, r := range c.ReadAll(t, topic) {
		var m agentpb.MQData
		if err := proto.Unmarshal(r.Value, &m); err != nil || m.GetAgentId() != string(r.Key) {
			t.Fatalf("a record of key %s is of agent %q: %v", r.Key, m.GetAgentId(), err)
		}
		tally.Add(m.GetAgentId(), m.GetBody())
	}
	for _, id := range fleet.IDs() {
		tally.Expect(id, fleet.SentBy(id))
	}
	total := tally.Total()
	t.Logf("in Kafka: %+v; %d may be double", total, twice)
	if total.Lost+total.OutOfOrder > 0 || total.Duplicates > twice || total.Received < agents*rate {
		t.Errorf("records are missing, out of order or double: agents %v", tally.Missing(5))
	}
}

// doubles is how many records a node says may be double.
var doubles = regexp.MustCompile(`(?m)^muster_recordlog_possible_duplicate_records_total (\d+)$`)

// emptied waits until a node that was started anew holds nothing, and returns
// how many records may be double.
func emptied(t *testing.T, n *process.Node, token string) uint64 {
	t.Helper()
	process.Eventually(t, settleWithin, "all is delivered", func() error {
		s, err := n.Status(token)
		if err != nil {
			return err
		}
		r := s.Records
		if r.Pending+r.Spooled > 0 || r.Recovered == 0 || r.Delivered != r.Received {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	_, metrics, err := n.Try("GET", "/metrics", "", "")
	if err != nil {
		t.Fatal(err)
	}
	found := doubles.FindSubmatch(metrics)
	if found == nil {
		t.Fatal("/metrics does not say how many records may be double")
	}
	count, err := strconv.ParseUint(string(found[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return count
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ready wants the node to be ready, with a reason for complaint that begins so;
// "" is none.
func ready(n *process.Node, complaint string) error {
	up, reasons, err := n.Ready()
	if err != nil {
		return err
	}
	has := complaint == "" && len(reasons) == 0 ||
		complaint != "" && slices.ContainsFunc(reasons, func(r string) bool { return strings.HasPrefix(r, complaint) })
	if !up || !has {
		return fmt.Errorf("ready %v, %q", up, reasons)
	}
	return nil
}

// startAgents connects agents to a node until end is called, which lets them
// send what they hold.
func startAgents(t *testing.T, n *process.Node, tokenFile string, agents int, rate float64) (fleet *simagent.Fleet, end func()) {
	t.Helper()
	bundle := n.Bundle(tokenFile)
	certs, err := simagent.LoadTLS(filepath.Join(bundle, "client.crt"), filepath.Join(bundle, "client.key"), filepath.Join(bundle, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	fleet, err = simagent.New(simagent.Options{
		Addrs: []string{n.Agent}, TLS: certs, Agents: agents, Seed: 1,
		Load: simagent.Load{Rate: rate, Ramp: time.Second}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- fleet.Run(ctx) })
	end = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	return fleet, end
}
