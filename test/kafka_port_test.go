// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"muster/fleet"
	"muster/internal/memnet"
	"muster/internal/pki"
	"muster/peerrpc"
	"muster/recordlog"
)

const (
	kafkaPortBroker = "10.0.0.1"
	kafkaPortWriter = "10.0.0.2"
	kafkaPortTopic  = "hids_svr"
)

// kafkaPort is two members of a cluster on a network in memory: one has the
// embedded broker, the other writes to it through the port for nodes.
type kafkaPort struct {
	t   *testing.T
	dir string
	net *memnet.Network
	ca  *pki.CA

	brokers []string // of the broker's last start, on its loopback
	stop    func()   // ends the broker's node and waits for it
}

func newKafkaPort(t *testing.T) *kafkaPort {
	t.Helper()
	ca, err := pki.NewCA("c1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	k := &kafkaPort{t: t, dir: filepath.Join(t.TempDir(), "kafka"), net: memnet.New(), ca: ca}
	k.startBroker()
	t.Cleanup(func() { k.stop() })
	return k
}

// run runs parts until stop is called, which waits for them.
func (k *kafkaPort) run(parts ...func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, run := range parts {
		all.Go(func() {
			if err := run(ctx); err != nil {
				k.t.Errorf("Run = %v", err)
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// port makes the port of one of the two nodes.
func (k *kafkaPort) port(name, ip string) *peerrpc.Port {
	k.t.Helper()
	id, host := name+"~00000001", k.net.Host(ip)
	pair, err := k.ca.IssuePair(pki.NodeRequest("c1", id), time.Now())
	if err != nil {
		k.t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		k.t.Fatal(err)
	}
	listener, err := host.Listen("tcp", ip+":6760")
	if err != nil {
		k.t.Fatal(err)
	}
	p, err := peerrpc.New(peerrpc.Options{
		Listener: listener, Dial: host.DialContext, ServerID: id, JoinKey: []byte("unused here"),
		Membership: func() *peerrpc.Membership {
			return &peerrpc.Membership{ClusterID: "c1", CA: k.ca.Certificate(), Certificate: cert}
		},
		Resolve: func(string) string { return kafkaPortBroker + ":6760" },
		Handler: noCalls{}, Issuer: noCalls{}, Promiser: noCalls{},
		Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return p
}

// noCalls answers nothing.
type noCalls struct{}

func (noCalls) Propose(context.Context, []byte) ([]byte, uint64, error) {
	return nil, 0, fleet.ErrUnavailable
}
func (noCalls) ReadIndex(context.Context) (uint64, error) { return 0, fleet.ErrUnavailable }
func (noCalls) NodeState(context.Context) (fleet.NodeState, error) {
	return fleet.NodeState{}, fleet.ErrUnavailable
}

func (noCalls) IssueNode(context.Context, string, crypto.PublicKey) (peerrpc.Issued, error) {
	return peerrpc.Issued{}, fleet.ErrUnavailable
}
func (noCalls) Promise(context.Context, peerrpc.Candidate) error { return fleet.ErrUnavailable }

// startBroker starts the broker's node, on the data that is there.
func (k *kafkaPort) startBroker() {
	k.t.Helper()
	host := k.net.Host(kafkaPortBroker)
	broker, err := recordlog.NewEmbedded(recordlog.EmbeddedOptions{
		Dir: k.dir, Topics: map[string]int{kafkaPortTopic: 4}, RetentionBytes: 64 << 20,
		Listen: host.Listen, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		k.t.Fatal(err)
	}
	k.brokers = broker.Addrs()
	port := k.port("broker", kafkaPortBroker)
	port.ServeKafka(func(ctx context.Context) (net.Conn, error) { return host.DialContext(ctx, "tcp", broker.Addrs()[0]) })
	k.stop = k.run(broker.Run, port.Run)
}

// startWriter runs the other node's log; its Dial knows no address but the node.
func (k *kafkaPort) startWriter(maxPending int64) *recordlog.Log {
	k.t.Helper()
	port := k.port("writer", kafkaPortWriter)
	l, err := recordlog.New(recordlog.Options{
		Brokers: []string{"broker:9092"}, OneBroker: true, Topic: kafkaPortTopic,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return port.DialKafka(ctx, "broker~00000001")
		},
		MaxPendingBytes: maxPending, MaxRecordBytes: 64 << 10,
		Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(k.run(l.Run, port.Run))
	return l
}

// read returns the topic's values by key, in order, as the broker's node has them.
func (k *kafkaPort) read() map[string][]string {
	k.t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(k.brokers...), kgo.ConsumeTopics(kafkaPortTopic),
		kgo.Dialer(k.net.Host(kafkaPortBroker).DialContext), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		k.t.Fatal(err)
	}
	defer c.Close()
	values := map[string][]string{}
	for more := true; more; {
		ctx, cancel := context.WithTimeout(k.t.Context(), 20*time.Second) // of quiet
		fetches := c.PollFetches(ctx)
		cancel()
		more = !fetches.Empty()
		fetches.EachRecord(func(r *kgo.Record) { values[string(r.Key)] = append(values[string(r.Key)], string(r.Value)) })
	}
	return values
}

// Records of a node without a broker get through the port for nodes to the
// embedded one, each once and in order, whatever happens to the way and to the
// broker's node meanwhile; what is held in memory stays bounded.
func TestRecordsThroughThePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const room = 256 << 10
		k := newKafkaPort(t)
		l := k.startWriter(room)
		want := map[string][]string{}
		appendSome := func(ctx context.Context, n, size int) error {
			for i := range n {
				key := fmt.Sprint("agent-", i%20)
				value := fmt.Sprintf("%s-%04d %s", key, len(want[key]), strings.Repeat("x", size))
				if err := l.Append(ctx, key, [][]byte{[]byte(value)}, nil); err != nil {
					return err
				}
				want[key] = append(want[key], value)
			}
			return nil
		}
		settled := func(when string) {
			t.Helper()
			for start := time.Now(); l.Ledger().Pending > 0 || !l.Status().Up; time.Sleep(100 * time.Millisecond) {
				if time.Since(start) > 30*time.Second {
					t.Fatalf("%s: still pending, or away: %+v, %+v", when, l.Ledger(), l.Status())
				}
			}
			if s := l.Status(); s.Partitions != 4 || !slices.Equal(s.Brokers, []string{"broker:9092"}) {
				t.Errorf("%s: %+v", when, s)
			}
		}
		if err := appendSome(t.Context(), 500, 10); err != nil {
			t.Fatal(err)
		}
		settled("at first")

		// The way is cut while much is under way: answers are lost.
		if err := appendSome(t.Context(), 500, 100); err != nil {
			t.Fatal(err)
		}
		k.net.Partition(kafkaPortWriter, kafkaPortBroker)
		time.Sleep(45 * time.Second)
		if s := l.Status(); s.Up {
			t.Errorf("cut off: %+v", s)
		}
		k.net.Heal()
		settled("after the cut")

		// The broker's node ends; it comes back at another address of its loopback.
		before := k.brokers[0]
		k.stop()
		full, cancel := context.WithTimeout(t.Context(), time.Minute)
		err := appendSome(full, 10000, 1000)
		cancel()
		if ledger := l.Ledger(); !errors.Is(err, context.DeadlineExceeded) || ledger.PendingBytes > room || !ledger.Balanced() {
			t.Errorf("without a broker: %v, %+v", err, ledger)
		}
		if s := l.Status(); s.Up || s.LastError == "" {
			t.Errorf("without a broker: %+v", s)
		}
		k.startBroker()
		if k.brokers[0] == before {
			t.Fatalf("the broker is at %s again", before)
		}
		settled("after the restart")
		if err := appendSome(t.Context(), 100, 10); err != nil {
			t.Fatal(err)
		}
		settled("at last")

		got := k.read()
		for key, values := range want {
			if !slices.Equal(got[key], values) {
				t.Errorf("%s: %d records of %d are in Kafka, or their order is another", key, len(got[key]), len(values))
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d keys in Kafka, want %d", len(got), len(want))
		}
	})
}
