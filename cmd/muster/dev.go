// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"muster/internal/lifecycle"
	"muster/internal/pki"
	"muster/internal/simagent"
	"muster/node"
)

const (
	// devStopWithin bounds the end of a trial; it takes a fraction of it.
	devStopWithin = 4500 * time.Millisecond
	// devMaxNodes: the HTTP port of a sixth would be the first one's for agents.
	devMaxNodes = 5
	// devPortStep is from a node's ports to those of the next.
	devPortStep = 10
	// devPatience is how long the start may take before it says what it waits for.
	devPatience = 10 * time.Second
	// devSilent is above every level.
	devSilent = slog.LevelError + 1
)

// devCmd runs everything on this machine.
type devCmd struct {
	Nodes   int     `default:"1" placeholder:"N" help:"Nodes, 1 to 5; several form a cluster."`
	Agents  int     `default:"20" placeholder:"N" help:"Simulated agents."`
	Rate    float64 `default:"10" placeholder:"N" help:"Records a second of each agent."`
	DataDir string  `name:"data-dir" placeholder:"DIR" help:"Keep the data here (default: a temporary directory)."`
	Verbose bool    `short:"v" help:"Show the log of the nodes."`
}

// Run starts the nodes and the agents, says what to type, then what happens.
func (c *devCmd) Run(a *app) error {
	switch {
	case c.Nodes < 1 || c.Nodes > devMaxNodes:
		return usage("--nodes %d: from 1 to %d fit on the ports of one machine", c.Nodes, devMaxNodes)
	case c.Agents < 0 || c.Rate < 0:
		return usage("--agents and --rate must not be negative")
	}
	dir, remove, err := c.directory()
	if err != nil {
		return err
	}
	defer remove()
	t, err := c.open(a, dir)
	if err != nil {
		return c.needs(err)
	}
	t.start()
	err = c.show(a, t)
	if !c.Verbose { // that nodes miss each other now is no news
		t.level.Set(devSilent)
	}
	if err = errors.Join(err, t.parts.Stop(devStopWithin)); err == nil {
		a.printf("\nstopped%s\n", c.farewell(dir))
	}
	return err
}

// trial is what runs.
type trial struct {
	dir     string        // of all data
	level   slog.LevelVar // of the nodes' log
	configs []node.Config
	nodes   []*node.Node
	parts   *lifecycle.Stack
}

// open makes the nodes; nothing runs yet. After an error the process ends, so
// that the nodes made before it need no closing.
func (c *devCmd) open(a *app, dir string) (*trial, error) {
	t := &trial{dir: dir, parts: lifecycle.NewStack(), configs: devConfigs(dir, c.Nodes)}
	if c.Nodes > 1 {
		_, err := pki.NewSecretFile(t.configs[0].Cluster.SecretFile)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	t.level.Set(slog.LevelWarn)
	if c.Verbose {
		t.level.Set(slog.LevelInfo)
	}
	logger := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: &t.level}))
	for _, config := range t.configs {
		log := logger
		if c.Nodes > 1 {
			log = logger.With("on", config.NodeID)
		}
		n, err := node.New(config, node.Env{Logger: log, Build: buildInfo()})
		if err != nil {
			return nil, err
		}
		t.nodes = append(t.nodes, n)
	}
	return t, nil
}

// start runs the nodes. They stop side by side, the one with the broker after
// all others, which deliver to it what they still hold.
func (t *trial) start() {
	t.parts.Start(t.configs[0].NodeID, t.nodes[0].Run)
	if len(t.nodes) == 1 {
		return
	}
	t.parts.Start("the other nodes", func(ctx context.Context) error {
		g := lifecycle.NewGroup(ctx)
		for i, n := range t.nodes[1:] {
			g.Go(t.configs[i+1].NodeID, n.Run)
		}
		return g.Wait()
	})
}

// show waits for the nodes, starts the agents, and reports until the end.
func (c *devCmd) show(a *app, t *trial) error {
	if ready, err := t.await(a); !ready {
		return c.needs(err)
	}
	if c.Agents > 0 {
		sim, err := c.agents(t)
		if err != nil {
			return err
		}
		t.parts.Start("simulated agents", sim.Run)
	}
	a.printf("%s", t.welcome(c.Agents))
	return a.live(t)
}

// await returns true once all nodes are ready, and false if the trial ends
// before, with an error unless that was asked for.
func (t *trial) await(a *app) (ready bool, err error) {
	if len(t.nodes) > 1 {
		a.printf("%d nodes start and form a cluster ...\n", len(t.nodes))
	}
	slow := time.NewTicker(devPatience)
	defer slow.Stop()
	for i := 0; i < len(t.nodes); {
		select {
		case <-t.nodes[i].Ready():
			i++
		case err := <-t.parts.Failed():
			return false, err
		case <-a.ctx.Done():
			return false, nil
		case <-slow.C:
			a.printf("still waiting for %s; why: curl http://%s/readyz\n", t.configs[i].NodeID, t.nodes[i].Addrs().HTTP[0])
		}
	}
	return true, nil
}

// needs says which ports a trial takes, if one of them is taken: it has no
// flags for others.
func (c *devCmd) needs(err error) error {
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		return err
	}
	var ports []string
	for _, config := range devConfigs("", c.Nodes) {
		l := config.Listen
		for _, addr := range slices.Concat(l.SD, l.HTTP, []string{l.HTTPS, l.Node, l.Gossip, config.Agents.Addr}) {
			ports = append(ports, strings.TrimPrefix(addr, ":"))
		}
	}
	slices.Sort(ports)
	return fmt.Errorf("%w: muster dev needs ports %s free; muster server takes other addresses", err, strings.Join(ports, " "))
}

// directory is where the data goes, and what to do about it at the end.
func (c *devCmd) directory() (dir string, remove func(), err error) {
	if c.DataDir == "" {
		dir, err = os.MkdirTemp("", "muster-dev-")
		return dir, func() { _ = os.RemoveAll(dir) }, err
	}
	if err := c.fits(c.DataDir); err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return "", nil, fmt.Errorf("make --data-dir: %w", err)
	}
	return c.DataDir, func() {}, nil
}

// fits refuses a directory of an earlier trial that this one would not find
// its data in, or not find a majority of.
func (c *devCmd) fits(dir string) error {
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	}
	before := 0
	for exists(devName(before)) {
		before++
	}
	switch {
	case c.Nodes > 1 && exists("state"):
		return usage("--data-dir %s holds the data of one node: give another directory, or --nodes 1", dir)
	case before > c.Nodes || before > 0 && c.Nodes == 1:
		return usage("--data-dir %s holds the data of a cluster: give --nodes %d, or another directory", dir, max(before, 2))
	}
	return nil
}

func (c *devCmd) farewell(dir string) string {
	if c.DataDir == "" {
		return ", its data is removed"
	}
	return ", its data stays in " + dir
}

// devName names nodes, counted from 0.
func devName(i int) string { return "dev-" + strconv.Itoa(i+1) }

// devConfigs are nodes on loopback with the ports that the documents name for
// the first, and each of its successors further on.
func devConfigs(dir string, nodes int) []node.Config {
	configs := make([]node.Config, nodes)
	for i := range configs {
		port := func(first int) string { return ":" + strconv.Itoa(first+i*devPortStep) }
		configs[i] = node.Config{
			NodeID: devName(i), DataDir: dir, Bind: "127.0.0.1", Advertise: "127.0.0.1", Profile: "lan",
			Listen: node.ListenConfig{
				SD: []string{port(8088)}, HTTP: []string{port(6701)}, HTTPS: port(6752), Node: port(6760), Gossip: port(7946),
			},
			Agents:        node.AgentConfig{Addr: port(6751)},
			Cluster:       node.ClusterConfig{BootstrapExpect: -1},
			Kafka:         node.KafkaConfig{Topic: "hids_svr", RetentionBytes: 256 << 20, Compression: "none"},
			AdminPassword: os.Getenv("MUSTER_ADMIN_PASSWORD"),
			Small:         true,
		}
	}
	if nodes == 1 {
		return configs
	}
	var seeds []string
	for _, config := range configs {
		seeds = append(seeds, net.JoinHostPort(config.Bind, strings.TrimPrefix(config.Listen.Gossip, ":")))
	}
	for i := range configs {
		config := &configs[i]
		config.DataDir = filepath.Join(dir, config.NodeID)
		config.Profile = "wan" // patience: they share a disk and a few processors
		config.Cluster = node.ClusterConfig{Join: seeds, BootstrapExpect: nodes, SecretFile: filepath.Join(dir, "cluster-secret")}
		config.Kafka.Brokers = []string{"embedded@" + devName(0)}
	}
	return configs
}

// agents makes agents with a certificate of the cluster's CA. Each asks any node.
func (c *devCmd) agents(t *trial) (*simagent.Fleet, error) {
	bundle, err := t.nodes[0].IssueFleet("dev")
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(bundle.Cert, bundle.Key)
	if err != nil {
		return nil, fmt.Errorf("read the agents' certificate: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle.CA)
	var discovery []string
	for _, n := range t.nodes {
		discovery = append(discovery, "http://"+n.Addrs().SD[0])
	}
	return simagent.New(simagent.Options{
		SD:       discovery,
		RandomSD: true,
		TLS:      &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12},
		Agents:   c.Agents,
		Load:     simagent.Load{Rate: c.Rate, Ramp: time.Second},
		Seed:     1,
		Systemd:  true,
		Plugins:  simPlugins(),
		Logger:   newLogger(os.Stderr, node.LogConfig{Level: "error"}),
	})
}
