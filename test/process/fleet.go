// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"muster/internal/agentpb"
)

// Token makes an API token with the command line and returns its file.
func (n *Node) Token() string {
	n.t.Helper()
	file := filepath.Join(n.t.TempDir(), "token")
	n.MustRun("token", "new", "--user", "admin", "--password-file", filepath.Join(n.Dir, "admin-password"), "--out", file)
	return file
}

// MustRun is Run for commands that have to succeed; it returns what was printed.
func (n *Node) MustRun(args ...string) string {
	n.t.Helper()
	out, errs, code := n.Run(args...)
	if code != 0 {
		n.t.Fatalf("muster %v: exit code %d: %s", args, code, errs)
	}
	return out
}

// Bundle makes a fleet certificate with the command line and returns its directory.
func (n *Node) Bundle(tokenFile string) string {
	n.t.Helper()
	dir := filepath.Join(n.t.TempDir(), "bundle")
	n.MustRun("pki", "agent-bundle", "--name", "fleet", "--out", dir, "--token-file", tokenFile)
	return dir
}

// SimArgs are the arguments of `muster sim` that lead to this node.
func (n *Node) SimArgs(bundle string, more ...string) []string {
	return append([]string{
		"sim", "--sd", n.SD, "--cert", filepath.Join(bundle, "client.crt"),
		"--key", filepath.Join(bundle, "client.key"), "--ca", filepath.Join(bundle, "ca.crt"), "--json",
	}, more...)
}

// Brokers asks the node for its Kafka.
func (n *Node) Brokers(token string) []string {
	n.t.Helper()
	var status struct {
		Kafka struct{ Brokers []string }
	}
	n.Call("GET", "/v1/status", token, "", &status)
	return status.Kafka.Brokers
}

// Ledger asks the node for its ledger.
func (n *Node) Ledger(token string) (received, delivered uint64, balanced bool) {
	n.t.Helper()
	var status struct {
		Records struct {
			Received, Delivered, Pending, Spooled, Refused uint64
			Dropped                                        map[string]uint64
		}
	}
	n.Call("GET", "/v1/status", token, "", &status)
	r := status.Records
	sum := r.Delivered + r.Pending + r.Spooled + r.Refused
	for _, d := range r.Dropped {
		sum += d
	}
	return r.Received, r.Delivered, sum == r.Received
}

// ReadTopic reads the topic of agent records from its beginning, with another
// client than the one that wrote it, until want says that it has seen enough
// or the time is over.
func ReadTopic(t testing.TB, brokers []string, within time.Duration, want func(*agentpb.MQData) (enough bool)) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics("hids_svr"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		for _, r := range fetches.Records() {
			var data agentpb.MQData
			if err := proto.Unmarshal(r.Value, &data); err != nil {
				t.Fatalf("partition %d offset %d is no MQData: %v", r.Partition, r.Offset, err)
			}
			if string(r.Key) != data.GetAgentId() {
				t.Fatalf("key %q of a record of agent %q", r.Key, data.GetAgentId())
			}
			if want(&data) {
				return
			}
		}
	}
}
