// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// Options say who connects where and sends what.
type Options struct {
	// Addr is where all agents connect; or, as stock agents do, they ask one of SD
	// (base URLs), by chance, at every connect, and take the first address that works.
	Addr string
	SD   []string
	// KeepLookups has each agent keep the connection of its look-up for 90 s, as Go's
	// HTTP client, and so a stock agent, does.
	KeepLookups bool
	// Source, if given, is the address of an agent.
	Source func(index uint32) net.IP
	TLS    *tls.Config // with client certificate and CA; New sets the rest
	// First is the index of the first agent: several generators may share a run.
	First, Agents int
	// Ramp spreads the agents' connects evenly; 0: all at once.
	Ramp time.Duration
	// Batch is how many records a message has; 0: heartbeats only.
	Batch int
	// Rate is records a second of all agents; 0: as fast as the server takes them.
	Rate float64
	// Numbered gives numbers to the records of every n-th message; 0: to none.
	Numbered int
	// Heartbeat is the time between two heartbeats of an agent; the first one is
	// its first message.
	Heartbeat time.Duration
	// Stay keeps agents away whose stream has ended; others come again after 5 s.
	Stay bool
}

func (o *Options) validate() error {
	switch {
	case o.Addr == "" && len(o.SD) == 0:
		return errors.New("Addr and SD are empty")
	case o.TLS == nil:
		return errors.New("TLS is nil")
	case o.Agents < 1 || o.First < 0:
		return fmt.Errorf("Agents is %d and First is %d", o.Agents, o.First)
	case o.Batch < 0 || o.Rate < 0 || o.Numbered < 0:
		return errors.New("Batch, Rate and Numbered must not be negative")
	case o.Heartbeat <= 0:
		return fmt.Errorf("Heartbeat is %s", o.Heartbeat)
	}
	return nil
}
