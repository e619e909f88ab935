// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	"muster/agentrpc"
	"muster/fleet"
	"muster/gossip"
	"muster/httpapi"
	"muster/internal/password"
	"muster/internal/pki"
)

// openGossip binds the gossip port and writes down what others are told.
func (n *Node) openGossip() error {
	key, err := pki.GossipKey(n.trust.secret)
	if err != nil {
		return err
	}
	advertise, err := netip.ParseAddr(n.cfg.Advertise)
	if err != nil {
		return fmt.Errorf("--advertise: %w", err)
	}
	bound, _, _ := net.SplitHostPort(n.cfg.Agents.Addr)
	if ip := net.ParseIP(bound); advertise.IsLoopback() && n.cfg.Agents.Advertise == "" && !ip.IsLoopback() {
		n.log.Warn("agents are told a loopback address, which only those on this machine can reach: give --advertise", "address", advertise)
	}
	opts := gossip.Options{
		Self:       n.self(),
		Key:        key,
		Listener:   n.sockets.gossip,
		Packets:    n.sockets.gossipPackets,
		Advertise:  netip.AddrPortFrom(advertise, 0),
		Join:       n.cfg.Cluster.Join,
		Load:       n.load,
		Dial:       n.env.Dial,
		Profile:    gossip.Profile(n.cfg.Profile),
		Logger:     n.log.With("part", "gossip"),
		Registerer: n.metrics,
	}
	n.members, err = gossip.New(opts)
	return err
}

// self is what the other nodes are told about this one.
func (n *Node) self() fleet.Member {
	at := func(l net.Listener) string {
		bound, ok := l.Addr().(*net.TCPAddr)
		if ok && !bound.IP.IsUnspecified() {
			return bound.String()
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		return net.JoinHostPort(n.cfg.Advertise, port)
	}
	first := func(list []net.Listener) string {
		if len(list) == 0 {
			return ""
		}
		return at(list[0])
	}
	agents := n.cfg.Agents.Advertise
	if agents == "" {
		_, port, _ := net.SplitHostPort(n.sockets.agent.Addr().String())
		agents = net.JoinHostPort(n.cfg.Advertise, port)
	}
	m := fleet.Member{
		NodeID: n.cfg.NodeID, ServerID: n.trust.serverID, ClusterID: n.trust.clusterID(),
		Version: n.env.Build.Version, Format: n.store.HandleState().Format, Zone: n.cfg.Zone, Started: n.started,
		AgentAddr: agents, HTTPAddr: first(n.sockets.http), HTTPSAddr: at(n.sockets.https), SDAddr: first(n.sockets.sd),
		NodeAddr: at(n.sockets.node),
	}
	if m.ClusterID == "" {
		m.Expect = n.cfg.Cluster.BootstrapExpect
	}
	return m
}

// openAgents prepares the server that agents connect to.
func (n *Node) openAgents() error {
	var err error
	if n.limit, err = n.agentLimit(); err != nil {
		return err
	}
	n.agents, err = agentrpc.New(agentrpc.Options{
		Logger:     n.log.With("part", "agents"),
		Registerer: n.metrics,
		Node:       n.cfg.NodeID,
		Listeners:  []net.Listener{n.sockets.agent},
		TLS:        n.trust.agentTLS(),
		Identify:   n.trust.identify,
		Log:        n.records,
		Desired:    n.store,
		Tasks:      n.store,
		Inventory:  n.store,
		Lookup:     n.store,
		Peers:      n.others(),
		UploadDir:  filepath.Join(n.cfg.DataDir, "uploads"),
		Limit:      n.limit,
	})
	return err
}

// openAPI prepares the HTTP routes.
func (n *Node) openAPI() error {
	b := n.env.Build
	var err error
	n.api, err = httpapi.New(httpapi.Options{
		Logger:     n.log.With("part", "http"),
		Registerer: n.metrics,
		Gatherer:   n.metrics,
		State: httpapi.State{
			Users: n.store, Tokens: n.store, Keys: n.store, Config: n.store, Tags: n.store,
			Agents: n.store, Tasks: n.store, TaskControl: n.store, Status: n.store,
		},
		Live:           httpapi.Live{Sessions: n.agents, Streams: n.agents},
		Directory:      httpapi.Directory{Members: n.members, Services: n.members},
		Native:         httpapi.Native{Report: n.report, AgentCertificates: n.trust},
		Passwords:      password.New(),
		Health:         n.health,
		Starting:       n.unreadable,
		Others:         httpapi.Others{Cluster: n.store, NodeState: n.nodeState, Fleet: n.others().Peers, Drains: n},
		Node:           httpapi.NodeInfo{Name: n.cfg.NodeID, Version: b.Version, Commit: b.Commit, BuiltAt: b.BuiltAt},
		AllowPlainHTTP: n.cfg.Listen.AllowPlainHTTP,
		Limits:         httpapi.Limits{Busy: func() bool { return n.agents.Crowded() || n.usage.short() }},
	})
	return err
}

// abandon gives back what New took and no part has given back.
func (n *Node) abandon() error {
	errs := []error{n.closeSockets()}
	if n.store != nil && !n.storeRuns.Load() {
		errs = append(errs, n.store.Close())
	}
	return errors.Join(errs...)
}

// closeSockets closes what no part has closed: all after a refused start,
// those of parts that were never started after a failed one.
func (n *Node) closeSockets() error {
	var errs []error
	s := n.sockets
	closers := []io.Closer{s.https, s.agent, s.node, s.gossip, s.gossipPackets}
	for _, l := range slices.Concat(s.sd, s.http) {
		closers = append(closers, l)
	}
	for _, c := range closers {
		if c == nil {
			continue
		}
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if n.broker != nil {
		errs = append(errs, n.broker.Close())
	}
	if n.records != nil {
		errs = append(errs, n.records.Close())
	}
	return errors.Join(errs...)
}
