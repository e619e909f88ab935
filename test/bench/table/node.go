// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"muster/internal/apiclient"
	"muster/internal/apiv1"
	"muster/test/bench/control"
)

const (
	password    = "a password of the benchmark"
	readyWithin = 60 * time.Second
)

// node is how a Muster node is started and reached.
type node struct {
	dir                    string
	args                   []string
	sd, http, agent, pprof string
	token                  string
	process                *control.Process
}

// muster starts a lone node, and makes its agents' certificates and config.
func (e *Env) muster(ctx context.Context, b *brokerChild) (*server, error) {
	n := &node{dir: filepath.Join(e.dir, e.name("node"))}
	addrs, err := freeAddrs(7)
	if err != nil {
		return nil, err
	}
	n.sd, n.http, n.agent, n.pprof = addrs[0], addrs[1], addrs[2], addrs[6]
	n.args = []string{
		"--data-dir", n.dir, "--node-id", "bench", "--bind", "127.0.0.1", "--advertise", "127.0.0.1", "--log-format", "json",
		"--sd-addr", n.sd, "--http-addr", n.http, "--agent-addr", n.agent, "--https-addr", addrs[3],
		"--node-addr", addrs[4], "--gossip-addr", addrs[5], "--kafka", b.Addr,
	}
	if err := e.startNode(ctx, n); err != nil {
		return nil, err
	}
	bundle, err := n.prepare(ctx)
	if err != nil {
		return nil, err
	}
	return &server{Process: n.process, addr: n.agent, bundle: bundle, pprof: n.pprof, node: n}, nil
}

// startNode starts the process, again if it was ended, and waits until it is ready.
func (e *Env) startNode(ctx context.Context, n *node) error {
	if err := e.launch(n); err != nil {
		return err
	}
	return n.ready(ctx)
}

// launch starts the process.
func (e *Env) launch(n *node) error {
	program, args := e.opts.Muster, append([]string{"server"}, n.args...)
	if e.opts.Profile != "" {
		program, args = e.opts.Self, append([]string{"node", "--pprof", n.pprof}, n.args...)
	}
	cmd := exec.Command(program, args...) //nolint:gosec // the program under test
	cmd.Env = append(os.Environ(), "MUSTER_ADMIN_PASSWORD="+password)
	p, err := control.Start(e.dir, filepath.Base(n.dir), cmd)
	if err != nil {
		return err
	}
	n.process = p
	e.ending = append(e.ending, p.End)
	return nil
}

// ready waits until the node is, or has ended.
func (n *node) ready(ctx context.Context) error {
	return await(ctx, readyWithin, func() error {
		if _, err := n.process.CPU(); err != nil {
			return err
		}
		if err := get(ctx, "http://"+n.sd+"/readyz", nil); err != nil {
			return notYet("the node is not ready: %v", err)
		}
		return nil
	})
}

// freeAddrs are loopback addresses that nobody uses now, below the ports that
// the kernel gives to the connections of thousands of agents.
func freeAddrs(n int) ([]string, error) {
	const lowest, highest, tries = 20_000, 32_000, 1000
	var addrs []string
	for range tries {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(lowest+rand.IntN(highest-lowest)))
		if isFree(addr) && !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
		if len(addrs) == n {
			return addrs, nil
		}
	}
	return nil, fmt.Errorf("no %d free ports were found between %d and %d", n, lowest, highest)
}

func isFree(addr string) bool {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer l.Close()
	p, err := net.ListenPacket("udp", addr) // gossip uses both
	if err != nil {
		return false
	}
	_ = p.Close()
	return true
}

// prepare logs in, makes a certificate for all agents and sets their config.
func (n *node) prepare(ctx context.Context) ([]string, error) {
	var login struct{ Data struct{ Token string } }
	if err := n.call(ctx, http.MethodPost, "/api/v1/user/login", map[string]string{"username": "admin", "password": password}, &login); err != nil {
		return nil, fmt.Errorf("log in: %w", err)
	}
	n.token = login.Data.Token
	var pem apiv1.AgentBundle
	if err := n.call(ctx, http.MethodPost, "/v1/pki/agent-bundles", apiv1.NewAgentBundle{Kind: "fleet", Name: "bench"}, &pem); err != nil {
		return nil, fmt.Errorf("make the agents' certificate: %w", err)
	}
	if err := n.setConfig(ctx, "1.7.0.24"); err != nil {
		return nil, err
	}
	return writeBundle(n.dir+"-agents", []byte(pem.CA), []byte(pem.Cert), []byte(pem.Key))
}

// setConfig sets the config of all agents, with a driver of that version.
func (n *node) setConfig(ctx context.Context, driver string) error {
	sum := strings.Repeat("3f", 32)
	config := apiv1.DefaultConfig{Config: []apiv1.ConfigItem{
		{Name: "driver", Type: "tar.gz", Version: driver, SHA256: sum, Signature: sum, DownloadURL: []string{"http://127.0.0.1/agent/driver-" + driver + ".tar.gz"}},
		{Name: "collector", Type: "tar.gz", Version: "1.0.0.140", SHA256: sum, Signature: sum, DownloadURL: []string{"http://127.0.0.1/agent/collector-1.0.0.140.tar.gz"}},
	}}
	if err := n.call(ctx, http.MethodPut, "/v1/config/default", config, nil); err != nil {
		return fmt.Errorf("set the agents' config: %w", err)
	}
	return nil
}

func (n *node) call(ctx context.Context, method, path string, in, out any) error {
	c, err := apiclient.New(apiclient.Options{Addr: "http://" + n.http, Token: n.token})
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Do(ctx, method, path, in, out)
}

// ledger is what a node knows of its records.
type ledger struct {
	Received  int64            `json:"received"`
	Delivered int64            `json:"delivered"`
	Pending   int64            `json:"pending"`
	Spooled   int64            `json:"spooled"`
	Refused   int64            `json:"refused"`
	Dropped   map[string]int64 `json:"dropped"`
	Recovered int64            `json:"recovered"`
	Doubled   int64            `json:"possible_duplicates"`
}

func (l ledger) dropped() (sum int64) {
	for _, n := range l.Dropped {
		sum += n
	}
	return sum
}

// balanced is the law that every ledger keeps.
func (l ledger) balanced() bool {
	return l.Received == l.Delivered+l.Pending+l.Spooled+l.Refused+l.dropped()
}

// status asks the running node for its ledger.
func (n *node) status(ctx context.Context) (ledger, error) {
	var s struct{ Records ledger }
	err := n.call(ctx, http.MethodGet, "/v1/status", nil, &s)
	return s.Records, err
}

// lastLedger reads what a node that has ended wrote last.
func (n *node) lastLedger() (ledger, error) {
	f, err := os.Open(n.process.Log)
	if err != nil {
		return ledger{}, fmt.Errorf("open the node's log: %w", err)
	}
	defer f.Close()
	var last *ledger
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Msg    string
			Ledger *ledger
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Ledger != nil && line.Msg == "node has stopped" {
			last = line.Ledger
		}
	}
	if err := lines.Err(); err != nil {
		return ledger{}, fmt.Errorf("read the node's log: %w", err)
	}
	if last == nil {
		return ledger{}, errors.New("the node's log has no ledger: it did not stop cleanly")
	}
	return *last, nil
}
