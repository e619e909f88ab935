// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"muster/internal/lifecycle"
	"muster/internal/simagent"
	"muster/node"
)

// devStopWithin bounds the end of a trial; it takes a fraction of it.
const devStopWithin = 4500 * time.Millisecond

// devCmd runs everything on this machine.
type devCmd struct {
	Nodes   int     `default:"1" placeholder:"N" help:"Nodes (this version: 1)."`
	Agents  int     `default:"20" placeholder:"N" help:"Simulated agents."`
	Rate    float64 `default:"10" placeholder:"N" help:"Records a second of each agent."`
	DataDir string  `name:"data-dir" placeholder:"DIR" help:"Keep the data here (default: a temporary directory)."`
	Verbose bool    `short:"v" help:"Show the log of the node."`
}

// Run starts the node and its agents, says what to type, then what happens.
func (c *devCmd) Run(a *app) error {
	if c.Nodes != 1 {
		return usage("--nodes %d: this version runs one node; clusters come with the next release", c.Nodes)
	}
	if c.Agents < 0 || c.Rate < 0 {
		return usage("--agents and --rate must not be negative")
	}
	dir, remove, err := c.directory()
	if err != nil {
		return err
	}
	defer remove()
	level := "warn"
	if c.Verbose {
		level = "info"
	}
	logger := newLogger(a.err, node.LogConfig{Format: "text", Level: level})
	n, err := node.New(devConfig(dir), node.Env{Logger: logger, Build: buildInfo()})
	if err != nil {
		return devNeeds(err)
	}
	parts := lifecycle.NewStack()
	parts.Start("node", n.Run)
	err = c.show(a, n, parts, dir)
	if err = errors.Join(err, parts.Stop(devStopWithin)); err == nil {
		a.printf("\nstopped%s\n", c.farewell(dir))
	}
	return err
}

// show waits for the node, starts the agents, and reports until the end.
func (c *devCmd) show(a *app, n *node.Node, parts *lifecycle.Stack, dir string) error {
	select {
	case <-n.Ready():
	case err := <-parts.Failed():
		return devNeeds(err)
	case <-a.ctx.Done():
		return nil
	}
	if c.Agents > 0 {
		sim, err := c.agents(n)
		if err != nil {
			return err
		}
		parts.Start("simulated agents", sim.Run)
	}
	a.printf("%s", c.welcome(n, dir))
	return a.live(n, parts.Failed())
}

// devNeeds says which ports a trial takes, if one of them is taken: it has no
// flags for others.
func devNeeds(err error) error {
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		return err
	}
	return fmt.Errorf("%w: muster dev needs ports 6701 6751 6752 7946 8088 free; muster server takes other addresses", err)
}

// directory is where the data goes, and what to do about it at the end.
func (c *devCmd) directory() (dir string, remove func(), err error) {
	if c.DataDir != "" {
		return c.DataDir, func() {}, nil
	}
	dir, err = os.MkdirTemp("", "muster-dev-")
	return dir, func() { _ = os.RemoveAll(dir) }, err
}

func (c *devCmd) farewell(dir string) string {
	if c.DataDir == "" {
		return ", its data is removed"
	}
	return ", its data stays in " + dir
}

// devConfig is a node on loopback with the ports that the documents name.
func devConfig(dir string) node.Config {
	return node.Config{
		NodeID: "dev-1", DataDir: dir, Bind: "127.0.0.1", Advertise: "127.0.0.1", Profile: "lan",
		Listen: node.ListenConfig{
			SD: []string{":8088"}, HTTP: []string{":6701"}, HTTPS: ":6752", Node: ":6760", Gossip: ":7946",
		},
		Agents:        node.AgentConfig{Addr: ":6751"},
		Cluster:       node.ClusterConfig{BootstrapExpect: -1},
		Kafka:         node.KafkaConfig{Topic: "hids_svr", RetentionBytes: 256 << 20, Compression: "none"},
		AdminPassword: os.Getenv("MUSTER_ADMIN_PASSWORD"),
		Small:         true,
	}
}

// agents makes agents with a certificate of the node's CA.
func (c *devCmd) agents(n *node.Node) (*simagent.Fleet, error) {
	bundle, err := n.IssueFleet("dev")
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(bundle.Cert, bundle.Key)
	if err != nil {
		return nil, fmt.Errorf("read the agents' certificate: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle.CA)
	return simagent.New(simagent.Options{
		SD:      []string{"http://" + n.Addrs().SD[0]},
		TLS:     &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12},
		Agents:  c.Agents,
		Load:    simagent.Load{Rate: c.Rate, Ramp: time.Second},
		Seed:    1,
		Systemd: true,
		Plugins: simPlugins(),
		Logger:  newLogger(os.Stderr, node.LogConfig{Level: "error"}),
	})
}

// welcome says where everything is and what to type.
func (c *devCmd) welcome(n *node.Node, dir string) string {
	return welcomeText(c.Agents, "http://"+n.Addrs().HTTP[0], n.PasswordFile(), os.Args[0], filepath.Join(dir, "token"))
}

// welcomeText holds nothing that must be filled in: each line works as it is
// typed, in this order.
func welcomeText(agents int, url, password, program, token string) string {
	return fmt.Sprintf(`
Muster runs on this machine: one node, an embedded Kafka, %d simulated agents.

  URL        %[2]s
  user       admin
  password   in %[3]s

Log in:
  curl --location --request POST %[2]s/api/v1/user/login --data-raw '{"username":"admin","password":"'"$(cat %[3]s)"'"}'
or with this program, which keeps the token in a file:
  %[4]s token new --user admin --password-file %[3]s --out %[5]s
then ask with that token:
  curl --location --request GET '%[2]s/api/v1/agent/getStatus?page_size=3' -H "token: $(cat %[5]s)"
  %[4]s agent list --token-file %[5]s

Ctrl-C ends it.

`, agents, url, password, program, token)
}

// live prints one line a second until a signal comes or a part fails.
func (a *app) live(n *node.Node, failed <-chan error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var last uint64
	for {
		select {
		case <-a.ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-tick.C:
		}
		ledger := n.Ledger()
		a.printf("agents %d  records in %s (+%s/s)  delivered to Kafka %s  pending %s\n",
			n.Sessions(), count(ledger.Received), count(ledger.Received-last), count(ledger.Delivered), count(ledger.Pending))
		last = ledger.Received
	}
}
