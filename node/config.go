// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"muster/fleet"
	"muster/raftstore"
)

// Config is what an operator says about a node. The tags name the command
// line's flags; docs/operations.md explains each.
type Config struct {
	NodeID    string `name:"node-id" placeholder:"ID" help:"Name of this node (default: the host name)."`
	DataDir   string `name:"data-dir" default:"./muster-data" placeholder:"DIR" help:"Where this node keeps its state."`
	Bind      string `default:"0.0.0.0" placeholder:"IP" help:"Host part of the addresses below that give none."`
	Advertise string `placeholder:"IP" help:"What other nodes and agents are told (default: the address of the route to the first of --join, else of the default route)."`
	Zone      string `placeholder:"NAME" help:"Failure zone of this node."`
	Profile   string `default:"lan" enum:"lan,wan" help:"Timing of gossip and Raft: lan or wan."`

	Listen  ListenConfig  `embed:""`
	Agents  AgentConfig   `embed:""`
	Proxy   ProxyConfig   `embed:""`
	Cluster ClusterConfig `embed:""`
	Kafka   KafkaConfig   `embed:""`
	Log     LogConfig     `embed:""`

	// AdminPassword of the first user; empty: a random one is made.
	AdminPassword string `kong:"-"`
	// Small sizes the files on disk for a trial on a laptop.
	Small bool `kong:"-"`
	// State tunes the replicated state, for tests.
	State raftstore.Tuning `kong:"-"`
}

// ListenConfig holds the HTTP and node-to-node addresses.
type ListenConfig struct {
	SD             []string `name:"sd-addr" default:":8088" placeholder:"HOST:PORT" help:"Plain HTTP: service discovery, health and metrics; repeatable."`
	HTTP           []string `name:"http-addr" default:"127.0.0.1:6701" placeholder:"HOST:PORT" help:"Plain HTTP: API, console and service discovery; repeatable."`
	HTTPS          string   `name:"https-addr" default:":6752" placeholder:"HOST:PORT" help:"The same over TLS."`
	HTTPCert       string   `name:"http-tls-cert" placeholder:"FILE" help:"Certificate of --https-addr (default: one of the cluster's CA)."`
	HTTPKey        string   `name:"http-tls-key" placeholder:"FILE" help:"Key of --http-tls-cert."`
	AllowPlainHTTP bool     `name:"allow-plain-http" help:"Take credentials of /v1 and the console over plain HTTP from other hosts too."`
	Node           string   `name:"node-addr" default:":6760" placeholder:"HOST:PORT" help:"Raft and peers, mutual TLS."`
	Gossip         string   `name:"gossip-addr" default:":7946" placeholder:"HOST:PORT" help:"Gossip between nodes."`
}

// AgentConfig says how agents are served.
type AgentConfig struct {
	Addr      string `name:"agent-addr" default:":6751" placeholder:"HOST:PORT" help:"gRPC for agents."`
	Cert      string `name:"agent-cert" placeholder:"FILE" help:"Existing server certificate for agents (default: one of the cluster's CA)."`
	Key       string `name:"agent-key" placeholder:"FILE" help:"Key of --agent-cert."`
	ClientCA  string `name:"agent-client-ca" placeholder:"FILE" help:"CA of existing agent certificates; one without a URI SAN is good for any agent ID."`
	Advertise string `name:"agent-advertise" placeholder:"HOST:PORT" help:"What service discovery answers (default: --advertise with the port of --agent-addr)."`
	Limit     int    `name:"agent-limit" placeholder:"N" help:"Agents at most (default: 20000, or 2000 less than the open-file limit)."`
	ShedRate  int    `name:"shed-rate" default:"50" placeholder:"N" help:"Agents a second, at most, that are sent to less loaded nodes."`
}

// ClusterConfig says how nodes find and trust each other.
type ClusterConfig struct {
	Join            []string `placeholder:"HOST:PORT" help:"Gossip addresses of any members."`
	BootstrapExpect int      `name:"bootstrap-expect" default:"-1" placeholder:"N" help:"New nodes that found the cluster together (default: 1 without --join, 0 with it: only join)."`
	Recover         bool     `help:"Start once as the only voter from this node's state, after the majority is lost for good; needs --yes."`
	Yes             bool     `help:"Do what --recover warns of."`
	Secret          string   `name:"cluster-secret" placeholder:"STRING" help:"Secret that all nodes share, at least 16 bytes."`
	SecretFile      string   `name:"cluster-secret-file" placeholder:"FILE" help:"File that holds the secret."`
}

// KafkaConfig says where records go.
type KafkaConfig struct {
	Brokers        []string `name:"kafka" placeholder:"HOST:PORT,...|embedded[@NODE]" help:"Brokers, or the embedded broker of a node (default: embedded on a lone node)."`
	Topic          string   `name:"kafka-topic" default:"hids_svr" placeholder:"NAME" help:"Topic of agent records."`
	RetentionBytes int64    `name:"kafka-retention-bytes" default:"1073741824" placeholder:"N" help:"Disk that the embedded broker may use."`
	SASL           string   `name:"kafka-sasl" placeholder:"MECHANISM" help:"plain, scram-sha-256 or scram-sha-512."`
	User           string   `name:"kafka-user" placeholder:"NAME" help:"User of --kafka-sasl."`
	PasswordFile   string   `name:"kafka-password-file" placeholder:"FILE" help:"File with the password of --kafka-user."`
	TLS            bool     `name:"kafka-tls" help:"Speak TLS to the brokers."`
	TLSCA          string   `name:"kafka-tls-ca" placeholder:"FILE" help:"CA of the brokers' certificates, PEM (default: those of the system)."`
	TLSCert        string   `name:"kafka-tls-cert" placeholder:"FILE" help:"Certificate that the brokers are shown, PEM."`
	TLSKey         string   `name:"kafka-tls-key" placeholder:"FILE" help:"Key of --kafka-tls-cert."`
	Compression    string   `name:"kafka-compression" default:"none" enum:"none,snappy,lz4,zstd" help:"none, snappy, lz4 or zstd."`
	SpoolMaxBytes  int64    `name:"spool-max-bytes" default:"4294967296" placeholder:"N" help:"Disk that records may take while Kafka is away."`
}

// LogConfig says how the node logs.
type LogConfig struct {
	Format string `name:"log-format" default:"text" enum:"text,json" help:"text or json."`
	Level  string `name:"log-level" default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error."`
}

const (
	// stopWithin is the one deadline of a clean stop.
	stopWithin = 25 * time.Second
	// leaveWait is how long the other nodes get to hear that this one stops.
	leaveWait = 200 * time.Millisecond
)

// minPasswordBytes is what the API asks of new passwords, too.
const minPasswordBytes = 8

const (
	// embeddedKafka is the value of --kafka for the broker inside.
	embeddedKafka = "embedded"
	// maxExpect is more than anybody founds a cluster with.
	maxExpect = 99
)

// validate fills what was left open and names the flags of all that is wrong, one
// in each line.
func (c *Config) validate() error {
	return errors.Join(
		c.checkName(),
		check(c.AdminPassword == "" || len(c.AdminPassword) >= minPasswordBytes,
			"MUSTER_ADMIN_PASSWORD", "has %d bytes, at least %d are needed", len(c.AdminPassword), minPasswordBytes),
		c.Cluster.validate(),
		c.Kafka.validate(c.NodeID, c.Cluster.several()),
		c.Proxy.validate(),
		check((c.Agents.Cert == "") == (c.Agents.Key == ""), "--agent-cert", "and --agent-key go together"),
		check(c.Agents.ShedRate >= 0, "--shed-rate", "%d is negative", c.Agents.ShedRate),
		check((c.Listen.HTTPCert == "") == (c.Listen.HTTPKey == ""), "--http-tls-cert", "and --http-tls-key go together"),
		c.resolveAddresses(),
	)
}

// check is nil if it is good, else what is wrong with the flag.
func check(good bool, flag, format string, args ...any) error {
	if good {
		return nil
	}
	return fleet.Invalid(flag, format, args...)
}

func (c *Config) checkName() error {
	if c.NodeID == "" {
		host, err := os.Hostname()
		if err != nil {
			return fleet.Invalid("--node-id", "the host name cannot be read (%v): give one", err)
		}
		c.NodeID = host
	}
	return check(len(c.NodeID) <= 64 && !strings.ContainsAny(c.NodeID, "~ /\t\n"),
		"--node-id", "%q must be at most 64 bytes without spaces, slashes and ~", c.NodeID)
}

// several tells whether the node is to be one of several.
func (c *ClusterConfig) several() bool { return len(c.Join) > 0 || c.BootstrapExpect > 1 }

func (c *ClusterConfig) validate() error {
	var wrong []error
	for _, seed := range c.Join {
		_, _, err := net.SplitHostPort(seed)
		wrong = append(wrong, check(err == nil, "--join", "%q is no HOST:PORT (the port is that of --gossip-addr, 7946 unless it was changed)", seed))
	}
	wrong = append(wrong,
		check(c.Secret == "" || c.SecretFile == "", "--cluster-secret", "give the secret or its file, not both"),
		check(!c.Recover || c.Yes, "--recover", "makes this node the only voter and shuts the other nodes' data directories out for good. "+
			"Give --yes too, on one node only (the one whose log goes furthest, which its /readyz tells), if the others are lost: empty their data directories and start them again as usual"),
		c.resolveExpect())
	return errors.Join(wrong...)
}

func (c *ClusterConfig) resolveExpect() error {
	switch {
	case c.BootstrapExpect < -1 || c.BootstrapExpect > maxExpect:
		return fleet.Invalid("--bootstrap-expect", "%d is not between 0 and %d", c.BootstrapExpect, maxExpect)
	case c.BootstrapExpect == 1 && len(c.Join) > 0:
		return fleet.Invalid("--bootstrap-expect", "1 with --join would make a cluster of this node alone: leave it out to join, or give the number of new nodes that found a cluster together")
	case c.BootstrapExpect == 0 && len(c.Join) == 0:
		return fleet.Invalid("--bootstrap-expect", "0 means to join a cluster: say where with --join")
	case c.BootstrapExpect == -1 && len(c.Join) > 0:
		c.BootstrapExpect = 0
	case c.BootstrapExpect == -1:
		c.BootstrapExpect = 1
	}
	return nil
}

// validate checks the settings of a node with a name, which may be one of several.
func (k *KafkaConfig) validate(nodeID string, several bool) error {
	mechanisms := []string{"", "plain", "scram-sha-256", "scram-sha-512"}
	return errors.Join(
		k.resolveBrokers(nodeID, several),
		check(slices.Contains(mechanisms, k.SASL), "--kafka-sasl", "%q is none of plain, scram-sha-256, scram-sha-512", k.SASL),
		check(k.SASL == "" || (k.User != "" && k.PasswordFile != ""), "--kafka-sasl", "needs --kafka-user and --kafka-password-file"),
		check(k.TLS || (k.TLSCA == "" && k.TLSCert == ""), "--kafka-tls", "is needed with --kafka-tls-ca and --kafka-tls-cert"),
		check(k.RetentionBytes >= 64<<20, "--kafka-retention-bytes", "%d is less than 64 MiB", k.RetentionBytes),
		check(k.SpoolMaxBytes == 0 || k.SpoolMaxBytes >= 1<<20, "--spool-max-bytes", "%d is less than 1 MiB", k.SpoolMaxBytes), // 0: the default
	)
}

func (k *KafkaConfig) resolveBrokers(nodeID string, several bool) error {
	if len(k.Brokers) == 0 && several {
		return fleet.Invalid("--kafka", "a node of a cluster must be told: give brokers as HOST:PORT,..., or on every node the same embedded@NODE, for one broker inside that node (a trial: not replicated)")
	}
	if len(k.Brokers) == 0 {
		k.Brokers = []string{embeddedKafka}
	}
	for _, b := range k.Brokers {
		host, named := strings.CutPrefix(b, embeddedKafka+"@")
		switch {
		case (b == embeddedKafka || named) && len(k.Brokers) > 1:
			return fleet.Invalid("--kafka", "%s is a broker of its own: it stands alone", b)
		case b == embeddedKafka && several:
			return fleet.Invalid("--kafka", "the nodes of a cluster must agree on one broker: give embedded@NODE, for example embedded@%s", nodeID)
		case b == embeddedKafka:
		case named:
			if host == "" {
				return fleet.Invalid("--kafka", "embedded@ lacks the name of a node")
			}
		default:
			if _, _, err := net.SplitHostPort(b); err != nil {
				return fleet.Invalid("--kafka", "%q is no HOST:PORT", b)
			}
		}
	}
	if strings.HasPrefix(k.Brokers[0], embeddedKafka) && (k.SASL != "" || k.TLS) {
		return fleet.Invalid("--kafka", "the embedded broker takes neither SASL nor TLS: it listens on loopback only")
	}
	return nil
}

// embeddedAt returns the name of the node whose embedded broker is used, which
// may be the given one itself; "" if brokers stand elsewhere.
func (k *KafkaConfig) embeddedAt(nodeID string) string {
	if k.Brokers[0] == embeddedKafka {
		return nodeID
	}
	at, _ := strings.CutPrefix(k.Brokers[0], embeddedKafka+"@")
	if at == k.Brokers[0] {
		return ""
	}
	return at
}

// resolveAddresses gives every address its host part.
func (c *Config) resolveAddresses() error {
	wrong := []error{check(net.ParseIP(c.Bind) != nil, "--bind", "%q is no IP address", c.Bind)}
	type flagAddr struct {
		flag string
		addr *string
	}
	single := []flagAddr{
		{"--https-addr", &c.Listen.HTTPS},
		{"--node-addr", &c.Listen.Node},
		{"--gossip-addr", &c.Listen.Gossip},
		{"--agent-addr", &c.Agents.Addr},
	}
	for i := range c.Listen.SD {
		single = append(single, flagAddr{"--sd-addr", &c.Listen.SD[i]})
	}
	for i := range c.Listen.HTTP {
		single = append(single, flagAddr{"--http-addr", &c.Listen.HTTP[i]})
	}
	for _, a := range single {
		host, port, err := net.SplitHostPort(*a.addr)
		if err != nil {
			wrong = append(wrong, fleet.Invalid(a.flag, "%q is no HOST:PORT", *a.addr))
			continue
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			wrong = append(wrong, fleet.Invalid(a.flag, "%q is no port", port))
		}
		if host == "" {
			*a.addr = net.JoinHostPort(c.Bind, port)
		}
	}
	wrong = append(wrong, check(c.Advertise == "" || net.ParseIP(c.Advertise) != nil, "--advertise", "%q is no IP address", c.Advertise))
	if a := c.Agents.Advertise; a != "" {
		_, _, err := net.SplitHostPort(a)
		wrong = append(wrong, check(err == nil, "--agent-advertise", "%q is no HOST:PORT", a))
	}
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	if c.Advertise == "" {
		c.Advertise = advertiseFor(c.Agents.Addr, c.Cluster.Join)
	}
	return nil
}

// advertiseFor chooses the address that others are told when none is given:
// the one bound to, if that is one, else the source of the route to the first
// node to join, else that of the default route.
func advertiseFor(bound string, join []string) string {
	host, _, _ := net.SplitHostPort(bound)
	if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
		return host
	}
	// No packet is sent: connecting a UDP socket only asks the routing table.
	for _, to := range append(slices.Clone(join[:min(len(join), 1)]), "192.0.2.1:9") {
		if conn, err := net.Dial("udp", to); err == nil {
			defer conn.Close()
			return conn.LocalAddr().(*net.UDPAddr).IP.String()
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err == nil {
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				return n.IP.String()
			}
		}
	}
	return "127.0.0.1"
}
