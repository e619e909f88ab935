// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
	"muster/internal/lifecycle"
)

const (
	// reportInterval is how often a node tells its load, whatever the profile. A
	// report that is lost is asked for, see ask.
	reportInterval = time.Second

	// sweepReports is how many reports lie between two sweeps for services and
	// nodes that have been gone for long.
	sweepReports = 15

	// wanFactor is how much slower ProfileWAN is to leave out a silent node.
	wanFactor = 3

	updateTimeout = 5 * time.Second

	keyBytes = 32
)

// Linger is how long goroutines of memberlist may outlive Run: it ends them, but
// does not let anybody wait for a probe that is under way. A test in a synctest
// bubble sleeps as long before it ends.
const Linger = 15 * time.Second

// Profile chooses the timing for the network between the nodes.
type Profile string

// The profiles.
const (
	ProfileLAN Profile = "lan" // the default
	ProfileWAN Profile = "wan" // nodes in several regions: slower to judge
)

// scale makes a time of the profile lan one of this profile: wan is wanFactor
// times slower.
func (p Profile) scale(d time.Duration) time.Duration {
	if p == ProfileWAN {
		return wanFactor * d
	}
	return d
}

// Options of a Mesh. Either BindAddr or both Listener and Packets are given.
type Options struct {
	// Self is what the others are told: NodeID and the other facts. Its Load is
	// not used.
	Self fleet.Member
	// Key encrypts all traffic, 32 bytes, the same on every node.
	Key []byte
	// BindAddr is IP:PORT for TCP and UDP; port 0 takes a free one.
	BindAddr string
	// Listener and Packets replace BindAddr; the Mesh closes them.
	Listener net.Listener
	Packets  net.PacketConn
	// Advertise is the address that others are told; it may be left zero when
	// the listener is bound to one address. Port 0 means the listener's.
	Advertise netip.AddrPort
	// Join lists HOST:PORT of any members, possibly this one too.
	Join []string
	// Load is asked for this node's load each second; it must not block.
	Load func() fleet.Load
	// Dial and Resolve default to those of package net.
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	Profile Profile

	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are counted, not exported
}

func (o *Options) validate() error {
	switch {
	case len(o.Key) != keyBytes:
		return fmt.Errorf("options: Key has %d bytes, want %d", len(o.Key), keyBytes)
	case (o.Listener == nil) != (o.Packets == nil):
		return fmt.Errorf("options: Listener and Packets belong together")
	case o.Listener == nil && o.BindAddr == "":
		return fmt.Errorf("options: BindAddr is empty")
	case o.Load == nil:
		return fmt.Errorf("options: Load is nil")
	case o.Logger == nil:
		return fmt.Errorf("options: Logger is nil")
	}
	switch o.Profile {
	case "":
		o.Profile = ProfileLAN
	case ProfileLAN, ProfileWAN:
	default:
		return fmt.Errorf("options: Profile %q, want %q or %q", o.Profile, ProfileLAN, ProfileWAN)
	}
	for _, seed := range o.Join {
		if _, _, err := net.SplitHostPort(seed); err != nil {
			return fmt.Errorf("options: Join %q, want HOST:PORT: %w", seed, err)
		}
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	if o.Resolve == nil {
		o.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	return nil
}

// Mesh is this node's part in the gossip. It is safe for concurrent use.
type Mesh struct {
	opts      Options
	logger    *slog.Logger
	metrics   *metrics
	view      *view
	registry  *registry
	transport *transport
	queue     *memberlist.TransmitLimitedQueue // registrations on their way
	meta      atomic.Pointer[[]byte]
	list      atomic.Pointer[memberlist.Memberlist] // nil before Run
	warnings

	tried chan struct{} // closed after the first attempt to join
	hurry chan struct{} // a token asks for a report now
	// questions of other nodes; see maxQuestions.
	questions chan question
	names
}

// warnings are the lines of the log that come once a minute at most.
type warnings struct{ conflicts, foreign, strangers seldom }

// names is about other nodes with this one's name.
type names struct {
	rivals chan fleet.Member
	yields atomic.Bool // what this node says would be taken for the other's word
}

// New binds the sockets and starts nothing.
func New(opts Options) (*Mesh, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	meta, err := opts.Self.EncodeMeta()
	if err != nil {
		return nil, fmt.Errorf("options: Self: %w", err)
	}
	if opts.Listener == nil {
		if opts.Listener, opts.Packets, err = Listen(opts.BindAddr); err != nil {
			return nil, fmt.Errorf("gossip address %s: %w", opts.BindAddr, err)
		}
	}
	advertise, err := advertised(opts.Advertise, opts.Listener.Addr())
	if err != nil {
		_ = opts.Listener.Close()
		_ = opts.Packets.Close()
		return nil, err
	}
	g := &Mesh{
		opts:     opts,
		logger:   opts.Logger,
		metrics:  newMetrics(opts.Registerer),
		view:     newView(opts.Self, opts.Profile),
		registry: newRegistry(opts.Self.NodeID, time.Now),
		tried:    make(chan struct{}),
		hurry:    make(chan struct{}, 1),

		questions: make(chan question, maxQuestions),

		names: names{rivals: make(chan fleet.Member, 1)},
	}
	g.meta.Store(&meta)
	g.transport = newTransport(opts.Listener, opts.Packets, opts.Dial, advertise, opts.Logger)
	g.queue = &memberlist.TransmitLimitedQueue{NumNodes: g.view.countAlive, RetransmitMult: 4}
	return g, nil
}

// Close frees the sockets of a Mesh whose Run is never called.
func (g *Mesh) Close() error { return g.transport.Shutdown() }

// Addr is the address that the other nodes are told.
func (g *Mesh) Addr() netip.AddrPort { return g.transport.advertise }

// Run takes part until ctx ends, then says goodbye (for a few seconds at most) and
// closes the sockets. It is called once. See Linger for what may be left.
func (g *Mesh) Run(ctx context.Context) error {
	g.transport.start()
	list, err := memberlist.Create(g.config())
	if err != nil {
		_ = g.transport.Shutdown()
		return fmt.Errorf("start gossip: %w", err)
	}
	g.list.Store(list)
	group := lifecycle.NewGroup(ctx)
	group.Go("report", func(ctx context.Context) error { return g.report(ctx, list) })
	group.Go("ask", func(ctx context.Context) error { return g.ask(ctx, list) })
	group.Go("recall", func(ctx context.Context) error { return g.recall(ctx, list) })
	group.Go("join", func(ctx context.Context) error { return g.join(ctx, list) })
	stop := context.AfterFunc(group.Context(), g.transport.stopDialing)
	err = group.Wait()
	stop()
	g.leave(list)
	return err
}

// leave says goodbye, unless all others are leaving too, and ends memberlist.
func (g *Mesh) leave(list *memberlist.Memberlist) {
	if len(g.view.peers()) > 0 && !g.yields.Load() {
		g.send(list, append([]byte{kindLeaving}, g.opts.Self.NodeID...))
		if err := list.Leave(g.goodbyeTimeout()); err != nil {
			g.logger.Warn("could not tell the other nodes that this one leaves", "error", err)
		}
	}
	if err := list.Shutdown(); err != nil {
		g.logger.Warn("could not close the gossip sockets", "error", err)
	}
}

// Members returns all known nodes by NodeID, this one and those that died lately
// included. The slice is shared and must not be changed.
func (g *Mesh) Members() []fleet.Member { return g.view.members() }

// Pick returns up to count nodes (0: all) in the order in which an agent should
// try them, and counts the first as handed out. It waits for nobody. The members are shared and must not be changed.
func (g *Mesh) Pick(count int) []*fleet.Member { return g.view.pick(count, time.Now()) }

// Subscribe returns a channel that holds a token after any change of which
// nodes there are, which are alive, or their facts (not their load), and a
// function that ends the subscription. A slow reader misses no change: it finds
// one token and reads the latest Members.
func (g *Mesh) Subscribe() (<-chan struct{}, func()) { return g.view.subscribe() }

// Tried is closed once Run has called every node of Options.Join for the first
// time, whether it answered or not.
func (g *Mesh) Tried() <-chan struct{} { return g.tried }

// Rivals returns a channel of nodes elsewhere that claim this one's name, as the
// others know them. They hear of this node only when the rival is gone. The
// channel holds one; while a conflict lasts there are more.
func (g *Mesh) Rivals() <-chan fleet.Member { return g.rivals }

// Yield has this node keep quiet, because another one has its name and stays:
// what this one says of itself, a goodbye too, would be taken for the other's word.
func (g *Mesh) Yield() { g.yields.Store(true) }

// RivalGone ends what Yield began.
func (g *Mesh) RivalGone() { g.yields.Store(false) }

// Hurry has the load reported at once, for a change that cannot wait.
func (g *Mesh) Hurry() {
	select {
	case g.hurry <- struct{}{}:
	default: // it is about to be
	}
}

// Update tells the others new facts about this node, such as the ID of the
// cluster that it now belongs to. NodeID must stay. It returns when they are on
// their way, within seconds.
func (g *Mesh) Update(self fleet.Member) error {
	if self.NodeID != g.opts.Self.NodeID {
		return fmt.Errorf("update the facts of node %q: its name cannot become %q", g.opts.Self.NodeID, self.NodeID)
	}
	meta, err := self.EncodeMeta()
	if err != nil {
		return fmt.Errorf("update the facts of node %q: %w", self.NodeID, err)
	}
	g.meta.Store(&meta)
	g.view.setFacts(self)
	list := g.list.Load()
	if list == nil {
		return nil
	}
	if err := list.UpdateNode(updateTimeout); err != nil {
		// They are queued, and part of every full comparison from now on.
		g.logger.Warn("the other nodes may hear late of what is new about this one", "error", err)
	}
	return nil
}

// report tells this node's load to itself and to every live node, each second.
func (g *Mesh) report(ctx context.Context, list *memberlist.Memberlist) error {
	ticker := time.NewTicker(reportInterval)
	defer ticker.Stop()
	var sequence uint64
	for count := 1; ; count++ {
		now := time.Now()
		load := g.opts.Load()
		// The clock makes it grow over restarts too, unless it is set back; then
		// the new start in the facts tells the runs apart.
		sequence = max(sequence+1, uint64(now.UnixMilli()))
		load.Sequence, load.HandedOut = sequence, g.view.handedOut()
		g.view.setLoad(g.opts.Self.NodeID, load, now)
		if !g.yields.Load() {
			g.send(list, encodeLoad(g.opts.Self.NodeID, load))
		}
		for _, node := range g.view.bury(now) {
			g.tellDead(node.Name, node.Addr)
		}
		if count%sweepReports == 0 {
			g.registry.sweep(now)
			g.view.sweep(now)
		}
		g.metrics.members.Set(float64(g.view.countAlive()))
		g.metrics.services.Set(float64(g.registry.len()))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		case <-g.hurry:
		}
	}
}

// send sends one packet to each other live node.
func (g *Mesh) send(list *memberlist.Memberlist, message []byte) {
	g.sendTo(list, message, g.view.peers()...)
}

func (g *Mesh) sendTo(list *memberlist.Memberlist, message []byte, peers ...memberlist.Address) {
	for _, peer := range peers {
		if err := list.SendToAddress(peer, message); err != nil {
			g.metrics.sendFailures.Inc()
		}
	}
}
