// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"log/slog"
	"time"

	"github.com/hashicorp/memberlist"
)

// config is memberlist's own for the profile, with our parts in it. How soon a
// silent node counts as dead stays near memberlist's defaults, so that a slow
// node is not given up; agents are sent elsewhere after fleet.MaxLoadAge.
func (g *Mesh) config() *memberlist.Config {
	config := memberlist.DefaultLANConfig()
	if g.opts.Profile == ProfileWAN {
		config = memberlist.DefaultWANConfig()
	}
	d := delegate{g}
	config.Name = g.opts.Self.NodeID
	config.Transport = g.transport
	config.BindPort = int(g.transport.advertise.Port())
	config.AdvertisePort = config.BindPort
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
	if g.opts.Profile == ProfileWAN {
		return 3 * time.Second
	}
	return 1500 * time.Millisecond
}
