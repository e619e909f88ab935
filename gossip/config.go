// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"log/slog"
	"time"

	"github.com/hashicorp/memberlist"
)

// config is memberlist's own for a LAN, slower by the profile's factor, with our
// parts in it. How soon a silent node counts as dead stays as memberlist has it, so
// that a slow node is not given up; agents are sent elsewhere after
// fleet.MaxLoadAge. docs/operations.md has the times.
func (g *Mesh) config() *memberlist.Config {
	config := memberlist.DefaultLANConfig()
	for _, d := range []*time.Duration{
		&config.ProbeInterval, &config.ProbeTimeout, &config.GossipInterval, &config.GossipToTheDeadTime,
		&config.PushPullInterval, &config.TCPTimeout,
	} {
		*d = g.opts.Profile.scale(*d)
	}
	d := delegate{g}
	config.Name = g.opts.Self.NodeID
	config.Transport = g.transport
	config.BindPort = int(g.transport.advertise.Port())
	config.AdvertisePort = config.BindPort
	// Load reports, nearly all that is sent, do not get smaller, and trying costs
	// five times the CPU of the rest.
	config.EnableCompression = false
	config.SecretKey = g.opts.Key
	config.Delegate = d
	config.Events = d
	config.Alive = d
	config.Conflict = d
	// A node that came back under its name with another address takes the place
	// of the dead one.
	config.DeadNodeReclaimTime = 10 * time.Second
	config.Logger = slog.NewLogLogger(libraryLog{g.logger.Handler(), g}, slog.LevelDebug)
	return config
}

// goodbyeTimeout is enough for memberlist to tell some peer that this node
// leaves: four packets, one each gossip interval.
func (g *Mesh) goodbyeTimeout() time.Duration {
	return g.opts.Profile.scale(1500 * time.Millisecond)
}
