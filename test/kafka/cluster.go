// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package kafka

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"muster/test/process"
)

// Listener is one of the ways into a broker. Each broker has all of them, on
// ports that follow each other.
type Listener string

// The listeners of a broker.
const (
	Plain   Listener = "PLAINTEXT" // no TLS, no log-in
	SASL    Listener = "SASL"      // PLAIN and SCRAM, without TLS
	TLS     Listener = "TLS"       // TLS; no log-in
	MTLS    Listener = "MTLS"      // TLS, for those who show a certificate of the cluster's CA
	SASLTLS Listener = "SASLTLS"   // PLAIN and SCRAM, over TLS

	controller Listener = "CONTROLLER"
)

// User may log in at the SASL listeners by every mechanism. PLAIN's password does
// not change.
const (
	User     = "muster"
	Password = "right-password"
)

// startWithin bounds the wait for a broker: generous, because machines are slow.
const startWithin = 5 * time.Minute

// Options say what a cluster is like.
type Options struct {
	Brokers int // default 1
	// Settings are lines of server.properties for every broker, behind all others.
	Settings map[string]string
	// Dir is where the data goes; default: a directory that is deleted with the test.
	Dir string
}

// Cluster is an Apache Kafka of brokers that are controllers, too. It ends with
// the test.
type Cluster struct {
	Brokers   []*Broker
	Authority *Authority // of the certificates at TLS and MTLS

	t      testing.TB
	client *kgo.Client
	admin  *kadm.Client
}

// Start starts a cluster and waits until all its brokers answer.
func Start(t testing.TB, opts Options) *Cluster {
	t.Helper()
	began := time.Now()
	if opts.Brokers == 0 {
		opts.Brokers = 1
	}
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	c := &Cluster{t: t, Authority: NewAuthority(t)}
	base := freePorts(t, opts.Brokers*len(listeners))
	for i := range opts.Brokers {
		c.Brokers = append(c.Brokers, newBroker(t, i+1, base+i*len(listeners), filepath.Join(opts.Dir, strconv.Itoa(i+1))))
	}
	for _, b := range c.Brokers {
		b.configure(c, opts)
	}
	var wg sync.WaitGroup
	for _, b := range c.Brokers {
		wg.Go(b.format)
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	c.StartAll()
	t.Logf("%d brokers answer after %s", opts.Brokers, time.Since(began).Round(time.Millisecond))
	c.connect()
	c.addUser()
	return c
}

// StartAll starts the brokers that do not run and waits until they answer.
func (c *Cluster) StartAll() {
	c.t.Helper()
	for _, b := range c.Brokers {
		if !b.Running() {
			b.StartOnly()
		}
	}
	for _, b := range c.Brokers {
		b.WaitReady()
	}
}

// Addrs are the brokers' addresses at a listener, as --kafka takes them.
func (c *Cluster) Addrs(l Listener) []string {
	var addrs []string
	for _, b := range c.Brokers {
		addrs = append(addrs, b.Addr(l))
	}
	return addrs
}

// Admin is a client of another library than the one that writes records.
func (c *Cluster) Admin() *kadm.Client { return c.admin }

func (c *Cluster) connect() {
	c.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs(Plain)...), kgo.MetadataMinAge(100*time.Millisecond))
	if err != nil {
		c.t.Fatal(err)
	}
	c.client, c.admin = client, kadm.NewClient(client)
	c.t.Cleanup(client.Close)
}

// Controller is the broker that leads the controllers.
func (c *Cluster) Controller() *Broker {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req := kmsg.NewPtrDescribeQuorumRequest()
	topic := kmsg.NewDescribeQuorumRequestTopic()
	topic.Topic = "__cluster_metadata"
	topic.Partitions = append(topic.Partitions, kmsg.NewDescribeQuorumRequestTopicPartition())
	req.Topics = append(req.Topics, topic)
	answer, err := req.RequestWith(ctx, c.client)
	if err != nil {
		c.t.Fatal(err)
	}
	if len(answer.Topics) != 1 || len(answer.Topics[0].Partitions) != 1 {
		c.t.Fatalf("who leads the controllers: %+v", answer)
	}
	return c.Brokers[answer.Topics[0].Partitions[0].LeaderID-1]
}

// SetPassword changes the password of User for both SCRAM mechanisms.
func (c *Cluster) SetPassword(ctx context.Context, password string) error {
	upserts := []kadm.UpsertSCRAM{
		{User: User, Mechanism: kadm.ScramSha256, Iterations: 4096, Password: password},
		{User: User, Mechanism: kadm.ScramSha512, Iterations: 4096, Password: password},
	}
	for _, u := range upserts { // the brokers take one mechanism of a user at a time
		altered, err := c.admin.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{u})
		if err == nil {
			err = altered.Error()
		}
		if err != nil {
			return fmt.Errorf("set the password: %w", err)
		}
	}
	return nil
}

func (c *Cluster) addUser() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.SetPassword(ctx, Password); err != nil {
		c.t.Fatal(err)
	}
}

// script is the path of deploy/kafka/kafka, from any directory of the repository.
func script() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "deploy", "kafka", "kafka"), nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod above the test's directory")
		}
		dir = up
	}
}

// Missing says why no Kafka can be started here, "" if one can. It fetches what
// Kafka is made of, once.
var Missing = sync.OnceValue(func() string {
	path, err := script()
	if err != nil {
		return err.Error()
	}
	if out, err := exec.Command(path, "fetch").CombinedOutput(); err != nil {
		return strings.TrimSpace(string(out))
	}
	return ""
})

// freePorts returns the first of n ports of the loopback that are free. They are
// below those that the system gives to clients: nothing takes the port of a
// broker that is down for a while.
func freePorts(t testing.TB, n int) int {
	t.Helper()
	for range 100 {
		first := 12000 + rand.N(18000)
		free := true
		for port := first; port < first+n && free; port++ {
			l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
			if err != nil {
				free = false
				continue
			}
			_ = l.Close()
		}
		if free {
			return first
		}
	}
	t.Fatalf("no %d free ports in a row", n)
	return 0
}

// WaitInSync waits until every partition of a topic has a leader and all its
// replicas are in sync.
func (c *Cluster) WaitInSync(topic string) {
	c.t.Helper()
	process.Eventually(c.t, startWithin, "replicas of "+topic+" are in sync", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		topics, err := c.admin.ListTopics(ctx, topic)
		if err != nil {
			return err
		}
		for _, p := range topics[topic].Partitions {
			if p.Err != nil {
				return fmt.Errorf("partition %d: %w", p.Partition, p.Err)
			}
			if p.Leader < 0 || len(p.ISR) < len(p.Replicas) {
				return fmt.Errorf("partition %d: leader %d, %d of %d in sync", p.Partition, p.Leader, len(p.ISR), len(p.Replicas))
			}
		}
		return topics[topic].Err
	})
}
