// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"muster/fleet"
	"muster/internal/pki"
	"muster/raftstore"
	"muster/recordlog"
)

const (
	// kafkaPartitions is what the topic gets when it has to be created.
	kafkaPartitions = 8
	// filesReserved are the open files that agents may not take.
	filesReserved  = 2000
	maxAgentsLimit = 20000
)

// bind takes every port. It comes first, so that a port in use changes nothing.
func (n *Node) bind() error {
	listen := func(flag, addr string) (net.Listener, error) {
		l, err := n.env.Listen("tcp", addr)
		return l, explainBind(flag, addr, err)
	}
	several := func(flag string, addrs []string, into *[]net.Listener) error {
		for _, addr := range addrs {
			l, err := listen(flag, addr)
			if err != nil {
				return err
			}
			*into = append(*into, l)
		}
		return nil
	}
	if err := several("--sd-addr", n.cfg.Listen.SD, &n.sockets.sd); err != nil {
		return err
	}
	if err := several("--http-addr", n.cfg.Listen.HTTP, &n.sockets.http); err != nil {
		return err
	}
	var err error
	if n.sockets.https, err = listen("--https-addr", n.cfg.Listen.HTTPS); err != nil {
		return err
	}
	if n.sockets.agent, err = listen("--agent-addr", n.cfg.Agents.Addr); err != nil {
		return err
	}
	if n.sockets.node, err = listen("--node-addr", n.cfg.Listen.Node); err != nil {
		return err
	}
	n.sockets.gossip, n.sockets.gossipPackets, err = n.env.GossipSockets(n.cfg.Listen.Gossip)
	return explainBind("--gossip-addr", n.cfg.Listen.Gossip, err)
}

func explainBind(flag, addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s %s: address already in use: stop the process that has it (ss -lntup shows which) or give another address", flag, addr)
	case err != nil:
		return fmt.Errorf("%s %s: %w", flag, addr, err)
	}
	return nil
}

// readFiles reads every file that a flag names, before anything is written.
func (n *Node) readFiles() error {
	var err error
	if n.trust, err = newTrust(&n.cfg, n.log.With("part", "trust")); err != nil {
		return err
	}
	if n.kafka.SASL, err = n.cfg.Kafka.sasl(); err != nil {
		return err
	}
	n.kafka.TLS, err = n.cfg.Kafka.tls()
	return err
}

// openStore opens the replicated state. The directory's lock comes first, so
// that nothing is written to one that another process uses. Then the secret has
// to open what is there already, before Raft writes anything.
func (n *Node) openStore() error {
	if err := os.MkdirAll(n.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	tuning := n.cfg.State
	if n.cfg.Small {
		tuning.SegmentBytes, tuning.MmapBytes = 4<<20, 1<<30
	}
	seal := &lateSealer{}
	store, err := raftstore.New(raftstore.Options{
		Dir:          filepath.Join(n.cfg.DataDir, "state"),
		NodeName:     n.cfg.NodeID,
		Sealer:       seal,
		Logger:       n.log.With("part", "state"),
		Registerer:   n.metrics,
		Fatal:        n.env.Fatal,
		Profile:      n.cfg.Profile,
		Transport:    n.raftTransport,
		Peers:        statePeers{n},
		Recover:      n.cfg.Cluster.Recover,
		PeersApplied: func() uint64 { return n.applied.due(time.Now()) },
		Tuning:       tuning,
	})
	if err != nil {
		return err
	}
	n.store = store
	if err := n.trust.unlock(store.Status().ServerID); err != nil {
		return err
	}
	seal.sealer = n.trust.sealer
	if ca, ok := n.store.Meta(raftstore.MetaCA); ok {
		return n.trust.open(n.store.Status().ClusterID, ca)
	}
	return nil
}

// lateSealer gives the store the cluster secret's key, which is read only once
// the store holds the data directory's lock.
type lateSealer struct{ sealer *pki.Sealer }

const keyPurpose = "access key secret"

// Seal encrypts an access key's secret.
func (s *lateSealer) Seal(plain []byte) ([]byte, error) { return s.sealer.Seal(keyPurpose, plain), nil }

// Open decrypts what Seal made.
func (s *lateSealer) Open(sealed []byte) ([]byte, error) { return s.sealer.Open(keyPurpose, sealed) }

// openKafka prepares the way to the brokers, and the one inside if that is it.
func (n *Node) openKafka() error {
	k := n.cfg.Kafka
	opts := n.kafka
	opts.Brokers, opts.Topic, opts.Partitions = k.Brokers, k.Topic, kafkaPartitions
	opts.Compression = recordlog.Compression(k.Compression)
	opts.SpoolDir, opts.SpoolMaxBytes = filepath.Join(n.cfg.DataDir, "spool"), k.SpoolMaxBytes
	opts.Dial, opts.Logger, opts.Registerer = n.env.Dial, n.log.With("part", "kafka"), n.metrics
	var err error
	switch at := k.embeddedAt(n.cfg.NodeID); at {
	case "": // brokers stand elsewhere
	case n.cfg.NodeID:
		n.broker, err = recordlog.NewEmbedded(recordlog.EmbeddedOptions{
			Dir:            filepath.Join(n.cfg.DataDir, "kafka"),
			Topics:         map[string]int{k.Topic: kafkaPartitions},
			RetentionBytes: k.RetentionBytes,
			Listen:         n.env.Listen,
			Logger:         n.log.With("part", "embedded kafka"),
		})
		if err != nil {
			return err
		}
		opts.Brokers = n.broker.Addrs()
		n.serveBroker()
	default:
		opts.Brokers = []string{net.JoinHostPort(at, "9092")} // a name: the port for nodes is dialled
		opts.Dial, opts.OneBroker = n.dialBrokerOf(at), true
	}
	n.records, err = recordlog.New(opts)
	return err
}

// serveBroker lets the other nodes reach the broker inside this one.
func (n *Node) serveBroker() {
	addr := n.broker.Addrs()[0]
	n.port.ServeKafka(func(ctx context.Context) (net.Conn, error) { return n.env.Dial(ctx, "tcp", addr) })
}

// dialBrokerOf reaches the broker inside the named node, whatever address the
// broker says that it has: it listens on that node's loopback only.
func (n *Node) dialBrokerOf(name string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		for _, m := range n.members.Members() {
			if m.NodeID == name && m.Alive {
				return n.port.DialKafka(ctx, m.ServerID)
			}
		}
		return nil, fmt.Errorf("the embedded Kafka is on node %s, which is not seen: start it, or correct --kafka: %w", name, fleet.ErrUnavailable)
	}
}

func (k *KafkaConfig) sasl() (*recordlog.SASL, error) {
	if k.SASL == "" {
		return nil, nil
	}
	if _, err := k.password(); err != nil {
		return nil, err
	}
	return &recordlog.SASL{Mechanism: k.SASL, User: k.User, ReadPassword: k.password}, nil
}

// password reads the file: at each log-in, so that a new one needs no restart.
func (k *KafkaConfig) password() (string, error) {
	password, err := os.ReadFile(k.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("--kafka-password-file: %w", err)
	}
	return strings.TrimRight(string(password), "\r\n"), nil
}

func (k *KafkaConfig) tls() (*tls.Config, error) {
	if !k.TLS {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if k.TLSCA != "" {
		certs, err := pki.LoadCertificates(k.TLSCA)
		if err != nil {
			return nil, fmt.Errorf("--kafka-tls-ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		for _, c := range certs {
			cfg.RootCAs.AddCert(c)
		}
	}
	if k.TLSCert != "" {
		// Read at each handshake, too, so that a renewed one needs no restart.
		read := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := pki.LoadPair(k.TLSCert, k.TLSKey)
			if err != nil {
				return nil, fmt.Errorf("--kafka-tls-cert: %w", err)
			}
			return pair, nil
		}
		if _, err := read(nil); err != nil {
			return nil, err
		}
		cfg.GetClientCertificate = read
	}
	return cfg, nil
}

// agentLimit is how many sessions the node takes.
func (n *Node) agentLimit() (int, error) {
	files := maxAgentsLimit + filesReserved
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil && limit.Cur < uint64(files) {
		files = int(limit.Cur)
	}
	most := files - filesReserved
	switch {
	case n.cfg.Agents.Limit == 0 && most <= 0:
		return 0, fmt.Errorf("the open-file limit is %d: raise it above %d (ulimit -n), or set --agent-limit", files, filesReserved)
	case n.cfg.Agents.Limit == 0:
		return most, nil
	case n.cfg.Agents.Limit < 0:
		return 0, fmt.Errorf("--agent-limit: %d is negative", n.cfg.Agents.Limit)
	}
	return n.cfg.Agents.Limit, nil
}
