// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	firstRetry = time.Second
	lastRetry  = 10 * time.Second // while this node is alone although it has seeds

	// rejoinInterval is how often nodes that should be there are called again:
	// seeds, and members that died. It heals a cluster whose halves have each
	// given up the other.
	rejoinInterval = 30 * time.Second

	resolveTimeout = 5 * time.Second
	warnInterval   = time.Minute
	// firstWarning is how long a new node may find nobody: others may start later.
	firstWarning = 10 * time.Second
)

// join calls whoever is missing, for as long as the node runs.
func (g *Mesh) join(ctx context.Context, list *memberlist.Memberlist) error {
	retry := firstRetry
	var warned time.Time
	for first := true; ; first = false {
		missing := g.missing(ctx)
		if len(missing) > 0 && ctx.Err() == nil {
			n, err := list.Join(missing)
			if n == 0 {
				g.metrics.joinFailures.Inc()
			}
			alone := g.view.countAlive() < 2
			if n == 0 && alone && ctx.Err() == nil && time.Since(warned) >= warnInterval {
				warned = time.Now()
				if first {
					g.logger.Info("no other node answers yet", "join", g.opts.Join)
					warned = warned.Add(firstWarning - warnInterval)
				} else {
					g.logger.Warn("no other node could be joined; trying again: "+
						"check that they run, that their gossip ports are open for TCP and UDP, and that all have the same cluster secret",
						"join", g.opts.Join, "error", err)
				}
			}
		}
		if first {
			close(g.tried)
		}
		wait := rejoinInterval
		if len(g.opts.Join) > 0 && g.view.countAlive() < 2 {
			wait = retry
			retry = min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// recallInterval is how often dead nodes that report all the same are called.
const recallInterval = time.Second

// recall calls dead nodes as soon as they report again. After a time in which it
// was not heard, a node may have objected to its death already, in vain: it does
// not again, and would stay dead here until the next comparison.
func (g *Mesh) recall(ctx context.Context, list *memberlist.Memberlist) error {
	ticker := time.NewTicker(recallInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		nodes := g.view.revenants(time.Now())
		if len(nodes) == 0 {
			continue
		}
		if n, _ := list.Join(nodes); n == 0 {
			g.metrics.joinFailures.Inc()
		}
	}
}

// missing returns the addresses of seeds and dead members that are no live ones.
func (g *Mesh) missing(ctx context.Context) []string {
	alive, wanted := g.view.addresses()
	for _, seed := range g.opts.Join {
		for _, addr := range g.resolve(ctx, seed) {
			wanted[addr] = struct{}{}
		}
	}
	delete(wanted, g.transport.advertise)
	var missing []string
	for addr := range wanted {
		if _, ok := alive[addr]; !ok {
			missing = append(missing, addr.String())
		}
	}
	return missing
}

func (g *Mesh) resolve(ctx context.Context, seed string) []netip.AddrPort {
	host, portText, err := net.SplitHostPort(seed)
	if err != nil {
		return nil // validate has seen to it
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		g.logger.Warn("a port to join is no number", "join", seed)
		return nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), uint16(port))}
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := g.opts.Resolve(ctx, host)
	if err != nil && ctx.Err() == nil {
		g.logger.Warn("a name to join has no address", "join", seed, "error", err)
	}
	addrs := make([]netip.AddrPort, 0, len(ips))
	for _, ip := range ips {
		addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return addrs
}
