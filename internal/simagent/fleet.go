// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/stats"

	"muster/internal/agentpb"
	"muster/internal/grpccodec"
)

// durationGrace is how long after Load.Duration an agent that has no stream may
// still try to send what it holds.
const durationGrace = 30 * time.Second

// retryBufferBytes is what gRPC may keep of a stream's messages.
const retryBufferBytes = 8 << 10

// Fleet is a number of simulated agents. New makes it, Run runs it once. All
// other methods are safe at any time.
type Fleet struct {
	opts        Options
	run         string
	agents      []*agent
	byID        map[string]*agent
	templates   *templates
	discovery   *discovery
	dialOptions []grpc.DialOption
	callOptions []grpc.CallOption
	counters    counters
	batches     sync.Pool // of *batch
	gaveUp      surrenders
}

// surrenders counts how often agents ended for want of a server, and remembers
// why the latest did. It is safe for concurrent use.
type surrenders struct {
	mu    sync.Mutex
	count int
	last  error
}

func (s *surrenders) add(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	s.last = err
}

// New makes a fleet that does nothing yet.
func New(opts Options) (*Fleet, error) {
	if opts.Compression == "" {
		opts.Compression = grpccodec.Snappy
	}
	if err := opts.validate(); err != nil {
		return nil, fmt.Errorf("simulated agents: %w", err)
	}
	grpccodec.Register()
	if opts.HTTP == nil {
		opts.HTTP = &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second}
	}
	f := &Fleet{
		opts: opts,
		run:  strconv.FormatInt(time.Now().UnixNano(), 36),
		byID: make(map[string]*agent, opts.Agents),
	}
	f.batches.New = func() any { return &batch{} }
	f.templates = newTemplates(f.run)
	f.discovery = &discovery{bases: opts.SD, random: opts.RandomSD, client: &http.Client{Transport: opts.HTTP}, counters: &f.counters}
	f.dialOptions = f.newDialOptions()
	// Until the server's first answer gRPC keeps what was sent, to be able to send
	// it again on another connection: 256 KiB a stream, too much for thousands.
	f.callOptions = []grpc.CallOption{grpc.MaxRetryRPCBufferSize(retryBufferBytes)}
	if opts.Compression != grpccodec.None {
		f.callOptions = append(f.callOptions, grpc.UseCompressor(opts.Compression))
	}
	for i := range opts.Agents {
		a := newAgent(f, newIdentity(opts.Seed, i))
		f.agents = append(f.agents, a)
		f.byID[a.id] = a
	}
	return f, nil
}

// newDialOptions are a stock agent's, with smaller buffers: thousands of
// connections live in one process here.
func (f *Fleet) newDialOptions() []grpc.DialOption {
	conf := f.opts.TLS.Clone()
	conf.ServerName = ServerName
	dial := f.opts.Dial
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	//nolint:staticcheck // see link.dial
	return []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(conf)),
		grpc.WithContextDialer(dial),
		grpc.WithStatsHandler(&traffic{counters: &f.counters}),
		grpc.WithBlock(), grpc.WithReturnConnectionError(), grpc.FailOnNonTempDialError(true),
		grpc.WithReadBufferSize(4 << 10), grpc.WithWriteBufferSize(16 << 10), grpc.WithSharedWriteBuffer(true),
		grpc.WithDisableServiceConfig(),
	}
}

// RunID is in every data record (field sim_run), so that runs over the same
// topic can be told apart.
func (f *Fleet) RunID() string { return f.run }

// IDs returns the agents' IDs in the order of their starts.
func (f *Fleet) IDs() []string {
	ids := make([]string, len(f.agents))
	for i, a := range f.agents {
		ids[i] = a.id
	}
	return ids
}

// Summary returns the counts since New, up to this moment. It takes every
// agent's lock once: ask each second, not each millisecond.
func (f *Fleet) Summary() Summary {
	now := time.Now()
	for _, a := range f.agents {
		a.mu.Lock()
		if a.process.alive {
			a.advance(now)
		}
		a.mu.Unlock()
	}
	return f.counters.summary(len(f.agents))
}

// SentBy returns how many data records an agent has handed to gRPC, which is
// also the highest number that it used, unless its stream broke under a message.
func (f *Fleet) SentBy(agentID string) uint64 {
	a := f.byID[agentID]
	if a == nil {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sent
}

// ConfigOf returns the last whole config that an agent was sent, which the caller
// must not change, and how many it was sent in all.
func (f *Fleet) ConfigOf(agentID string) (items []*agentpb.ConfigItem, received int) {
	a := f.byID[agentID]
	if a == nil {
		return nil, 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.config, a.configs
}

// PluginsOf returns the plugins that run on an agent now, sorted by name.
func (f *Fleet) PluginsOf(agentID string) []Plugin {
	a := f.byID[agentID]
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pluginList()
}

// SettingsOf returns what the last 1051 task set, and the version that the agent
// runs now.
func (f *Fleet) SettingsOf(agentID string) (idc, region, version string) {
	a := f.byID[agentID]
	if a == nil {
		return "", "", ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.idc, a.region, a.version
}

// Run starts the agents and blocks until each of them has finished or ended for
// good, or ctx is done: then each sends what it holds and closes its stream, for
// at most a second. It returns an error only when agents gave up and none ever
// had a stream.
func (f *Fleet) Run(ctx context.Context) error {
	defer f.discovery.client.CloseIdleConnections()
	var wg sync.WaitGroup
	for i, a := range f.agents {
		delay := time.Duration(float64(f.opts.Load.Ramp) * float64(i) / float64(len(f.agents)))
		wg.Go(func() { a.run(ctx, delay) })
	}
	wg.Wait()
	f.gaveUp.mu.Lock()
	defer f.gaveUp.mu.Unlock()
	if f.gaveUp.count > 0 && f.counters.streams.Load() == 0 {
		return fmt.Errorf("no agent ever had a stream; the last of %d that gave up after %d failures: %w", f.gaveUp.count, maxFailures, f.gaveUp.last)
	}
	return nil
}

// traffic counts the bytes of gRPC messages.
type traffic struct{ counters *counters }

// TagRPC adds nothing.
func (*traffic) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// TagConn adds nothing.
func (*traffic) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn counts nothing.
func (*traffic) HandleConn(context.Context, stats.ConnStats) {}

// HandleRPC counts payloads.
func (t *traffic) HandleRPC(_ context.Context, s stats.RPCStats) {
	switch s := s.(type) {
	case *stats.OutPayload:
		t.counters.bytesOut.Add(int64(s.WireLength))
	case *stats.InPayload:
		t.counters.bytesIn.Add(int64(s.WireLength))
	}
}
