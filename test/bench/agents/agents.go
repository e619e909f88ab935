// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"muster/test/bench/records"
)

const (
	serverName = "elkeid.com"
	retryWait  = 5 * time.Second
	// perAddress spreads connections over loopback addresses, so that ports last.
	perAddress = 5000
	// heldRecords is what a stock agent holds for sending; it drops the rest.
	heldRecords = 2048
	// variants of a message that is not numbered.
	variants = 4
	// endWait is how long the server may take to read what was sent.
	endWait = 90 * time.Second
)

// Agents is a running load.
type Agents struct {
	opts     Options
	packer   *records.Packer
	counters counters
	stopping chan struct{} // closed when nothing more is to be sent
	stopOnce sync.Once
	http     *http.Client // for SD

	mu       sync.Mutex
	gaps     []Gap
	toConfig []time.Duration
	toServed []time.Duration
	failure  error // the last one to connect
	ending   error // of the last stream that ended before its time
}

type counters struct {
	mostFailures                                     atomic.Int64
	connected, failures, ended                       atomic.Int64
	messages, records, numbered, heartbeats, skipped atomic.Int64
	bytes                                            atomic.Int64
	commands, lastCommand                            atomic.Int64
	passed, exits                                    atomic.Int64
}

// New checks the options.
func New(opts Options) (*Agents, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	opts.TLS = opts.TLS.Clone()
	opts.TLS.ServerName = serverName
	opts.TLS.NextProtos = []string{"h2"}
	opts.TLS.MinVersion = tls.VersionTLS12
	opts.TLS.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256} // what stock agents have; newer ones cost more
	opts.TLS.DynamicRecordSizingDisabled = true                          // as it is after the first 128 KiB
	lookups := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return &Agents{opts: opts, http: lookups, packer: records.NewPacker(), stopping: make(chan struct{})}, nil
}

// Run lives until ctx ends, or Stop was called and all streams have ended.
func (a *Agents) Run(ctx context.Context) {
	var all sync.WaitGroup
	for i := range a.opts.Agents {
		delay := a.opts.Ramp * time.Duration(i) / time.Duration(a.opts.Agents)
		all.Go(func() { newAgent(a, uint32(a.opts.First+i)).run(ctx, delay) }) //nolint:gosec // some thousands
	}
	all.Wait()
}

// Stop lets each agent end its stream when it has sent its message.
func (a *Agents) Stop() { a.stopOnce.Do(func() { close(a.stopping) }) }

// configured notes how long an agent waited for its first config, from its first
// heartbeat and from its first try to connect.
func (a *Agents) configured(after, served time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.toConfig, a.toServed = append(a.toConfig, after), append(a.toServed, served)
}

func (a *Agents) failed(err error) {
	a.counters.failures.Add(1)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failure = err
}

func (a *Agents) lost(err error) {
	a.counters.ended.Add(1)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ending = err
}

// agent is one of them. Its own goroutine sends; another one receives.
type agent struct {
	all    *Agents
	index  uint32
	dialer net.Dialer
	maker  *records.Maker
	frames []records.Frame
	turn   int // of frames
	sent   int // messages with data

	http     *http.Client // for SD
	began    time.Time    // the first try to connect
	link     link
	lasting  sync.WaitGroup // for the call that notes that a stream has settled
	lostAt   time.Time      // when the last stream ended that was settled
	lostFrom string

	beatAt     atomic.Int64 // when the first heartbeat was sent; Unix nanoseconds
	configured bool         // the receiver's own, as are:
	messages   messages
	nextBeat   time.Time
	nextData   time.Time
}

func newAgent(all *Agents, index uint32) *agent {
	g := &agent{all: all, index: index, maker: all.packer.NewMaker(index), http: all.http}
	g.dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+index/perAddress))}
	if all.opts.Source != nil {
		g.dialer.LocalAddr = &net.TCPAddr{IP: all.opts.Source(index)}
	}
	if all.opts.KeepLookups {
		g.http = &http.Client{Transport: &http.Transport{DialContext: g.dialer.DialContext, IdleConnTimeout: lookupKept}}
	}
	return g
}

func (g *agent) run(ctx context.Context, delay time.Duration) {
	if !g.wait(ctx, delay) {
		return
	}
	defer g.http.CloseIdleConnections()
	g.began = time.Now()
	for {
		err := g.session(ctx)
		if err == nil || ctx.Err() != nil || g.all.opts.Stay && errors.Is(err, errSession) {
			return
		}
		wait := retryWait
		if errors.Is(err, errGaveUp) {
			g.all.counters.exits.Add(1)
			wait = restartWait
		}
		if !g.wait(ctx, wait) {
			return
		}
	}
}

// wait is false when the agent is to end.
func (g *agent) wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-g.all.stopping:
	case <-ctx.Done():
	}
	return false
}

// errSession is what ends a stream that was open.
var errSession = errors.New("stream ended")

// session is one stream; nil means that all was sent and the server has ended it.
func (g *agent) session(ctx context.Context) error {
	c := &g.all.counters
	s, err := g.connect(ctx)
	if err != nil {
		if ctx.Err() == nil {
			g.all.failed(err)
		}
		return err
	}
	defer s.conn.NetConn().Close()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.NetConn().Close() })
	defer stop()
	g.messages = messages{}
	c.connected.Add(1)
	defer c.connected.Add(-1)
	defer g.opened()()
	var receiver sync.WaitGroup
	ended := make(chan struct{})
	receiver.Go(func() {
		defer close(ended)
		_ = s.receive(g.received)
	})
	defer receiver.Wait()
	defer s.conn.NetConn().Close()
	if err := g.serve(ctx, s, ended); err != nil {
		g.all.lost(err)
		return errors.Join(errSession, err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := s.closeSend(); err != nil {
		return errors.Join(errSession, err)
	}
	timer := time.NewTimer(endWait)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		c.ended.Add(1)
	}
	return nil
}

// serve sends until the agent is to stop (nil) or the stream ends.
func (g *agent) serve(ctx context.Context, s *stream, ended <-chan struct{}) error {
	if err := g.beat(s); err != nil {
		return err
	}
	o := &g.all.opts
	if o.Batch > 0 && o.Rate == 0 {
		return g.flood(s)
	}
	if o.Batch > 0 {
		g.nextData = time.Now().Add(time.Duration(rand.Float64() * float64(g.interval())))
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-g.all.stopping:
			return nil
		case <-ctx.Done():
			return nil
		case <-ended:
			return s.why()
		case <-timer.C:
		}
		now := time.Now()
		if !now.Before(g.nextBeat) {
			if err := g.beat(s); err != nil {
				return err
			}
		}
		if o.Batch > 0 && !now.Before(g.nextData) {
			if err := g.data(s); err != nil {
				return err
			}
			if err := s.flush(); err != nil {
				return err
			}
			g.advance()
		}
		due := g.nextBeat
		if o.Batch > 0 && g.nextData.Before(due) {
			due = g.nextData
		}
		timer.Reset(time.Until(due))
	}
}

// interval is the time between two messages of this agent.
func (g *agent) interval() time.Duration {
	o := &g.all.opts
	return time.Duration(float64(o.Batch) * float64(o.Agents) / o.Rate * float64(time.Second))
}

// advance sets the time of the next message. What a stock agent could not have
// held is left out.
func (g *agent) advance() {
	every := g.interval()
	g.nextData = g.nextData.Add(every)
	held := every * heldRecords / time.Duration(g.all.opts.Batch)
	if late := time.Since(g.nextData); late > held {
		n := (late - held) / every
		g.nextData = g.nextData.Add(n * every)
		g.all.counters.skipped.Add(int64(n) * int64(g.all.opts.Batch))
	}
}

// flood sends as fast as the server reads.
func (g *agent) flood(s *stream) error {
	for {
		select {
		case <-g.all.stopping:
			return s.flush()
		default:
		}
		if err := g.data(s); err != nil {
			return err
		}
	}
}

// data sends one message of records.
func (g *agent) data(s *stream) error {
	o, c := &g.all.opts, &g.all.counters
	var f records.Frame
	var err error
	numbered := o.Numbered > 0 && g.sent%o.Numbered == 0
	switch {
	case numbered:
		f, err = g.maker.Numbered(o.Batch, time.Now().UnixNano())
	case len(g.frames) < variants:
		f, err = g.maker.Events(o.Batch, time.Now().Unix())
		g.frames = append(g.frames, f)
	default:
		f = g.frames[g.turn%variants]
		g.turn++
	}
	if err != nil {
		return err
	}
	g.sent++
	if err := s.send(f); err != nil {
		return err
	}
	c.messages.Add(1)
	c.records.Add(int64(o.Batch))
	c.bytes.Add(int64(len(f)))
	if numbered {
		c.numbered.Add(int64(o.Batch))
	}
	return nil
}

// beat sends a heartbeat.
func (g *agent) beat(s *stream) error {
	now := time.Now()
	f, err := g.maker.Heartbeat(now.Unix())
	if err != nil {
		return err
	}
	if err := s.send(f); err != nil {
		return err
	}
	first := g.nextBeat.IsZero()
	if first {
		g.beatAt.Store(time.Now().UnixNano())
	}
	if err := s.flush(); err != nil {
		return err
	}
	every := g.all.opts.Heartbeat
	if first { // from now on at a moment of its own
		every = time.Duration(rand.Float64() * float64(every))
		g.nextBeat = now
	}
	g.nextBeat = g.nextBeat.Add(every)
	g.all.counters.heartbeats.Add(1)
	return nil
}

// received gets what the server sends. All messages are configs: nobody gives the
// benchmark's agents tasks.
func (g *agent) received(piece []byte) {
	n := g.messages.feed(piece)
	if n == 0 {
		return
	}
	now := time.Now()
	g.all.counters.commands.Add(int64(n))
	g.all.counters.lastCommand.Store(now.UnixNano())
	if !g.configured {
		g.configured = true
		g.all.configured(time.Duration(now.UnixNano()-g.beatAt.Load()), now.Sub(g.began))
	}
}
