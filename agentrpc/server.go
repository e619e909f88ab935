// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"muster/fleet"
	"muster/internal/agentpb"
	"muster/internal/grpccodec"
	"muster/internal/lifecycle"
	"muster/internal/rarelog"
)

const (
	maxMessageBytes = 10 << 20
	// Windows are fixed: what an agent can have in flight while its records
	// cannot be taken is memory, times the number of agents. That of the
	// connection is twice a stream's, so that an upload still moves then.
	streamWindowBytes = 64 << 10
	connWindowBytes   = 128 << 10
	// maxStreams is per connection: an agent has one stream, and uploads.
	maxStreams       = 16
	maxHeaderBytes   = 16 << 10
	ioBufferBytes    = 4 << 10
	pingAfter        = 20 * time.Second
	pingTimeout      = 10 * time.Second
	minClientPing    = 5 * time.Second
	idleWithoutCalls = 5 * time.Minute
	// flushTimeout bounds reporting to the store after the streams have ended.
	flushTimeout = 5 * time.Second
	// logEvery is how often what others do is logged: a misbehaving fleet cannot
	// fill the disk.
	logEvery = time.Second
)

// Server holds the streams of agents. Its methods are safe for concurrent use.
type Server struct {
	opts    Options
	metrics *metrics
	logs    *rarelog.Logger
	// agentLogs is for what agents can cause at will: it must not silence logs.
	agentLogs *rarelog.Logger
	grpc      *grpc.Server
	registry  registry
	parts     parts

	connections *connections
	messages    sync.Pool // of *message
	facts       map[string]bool
	seed        maphash.Seed

	drain chan struct{} // closed when no stream may go on
	workers
	// hard ends the appends that outlast DrainTimeout.
	hard     context.Context //nolint:containedctx // the lifetime of the receivers, which handlers start
	hardStop context.CancelFunc
}

// workers are the goroutines that sessions and uploads start.
type workers struct {
	receivers, senders sync.WaitGroup
}

// parts are what the sessions share.
type parts struct {
	pusher    *pusher
	marker    *marker
	results   *results
	inventory *inventory
	awaits    *awaits
	uploads   *uploads
	claims    *claims
	clock     *wallClock
	shedder   *shedder
	gate      *gate
}

// New checks the options and makes the upload directory. It serves nothing
// before Run.
func New(opts Options) (*Server, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	opts.Tuning.setDefaults()
	if err := os.MkdirAll(opts.UploadDir, 0o700); err != nil {
		return nil, fmt.Errorf("make upload directory: %w", err)
	}
	grpccodec.Register()
	s := &Server{
		opts:      opts,
		logs:      rarelog.New(opts.Logger, logEvery),
		agentLogs: rarelog.New(opts.Logger, logEvery),
		registry:  registry{limit: opts.Limit, clock: epochClock{wall: opts.Tuning.Clock}, byID: make(map[string]*session)},
		facts:     make(map[string]bool),
		seed:      maphash.MakeSeed(),
		drain:     make(chan struct{}),
	}
	// Some room for agents that come again before their old connection is gone.
	s.connections = newConnections(opts.Limit+opts.Limit/4+64, s.count)
	for _, f := range fleet.FactFields() {
		s.facts[f] = true
	}
	var err error
	if s.metrics, err = newMetrics(opts.Registerer, s); err != nil {
		return nil, err
	}
	s.messages.New = func() any { return &message{lane: s.metrics.traffic.lane()} }
	s.parts = parts{
		pusher:    newPusher(s),
		marker:    newMarker(opts.Tasks, opts.Node),
		results:   newResults(opts.Tasks, s.metrics, s.logs),
		inventory: newInventory(opts.Inventory, s.metrics, s.logs, inventoryLimit(opts.Limit)),
		awaits:    newAwaits(),
		uploads:   &uploads{slots: make(chan struct{}, opts.Tuning.MaxUploads)},
		claims:    newClaims(s),
		clock:     &wallClock{read: opts.Tuning.Clock},
		shedder:   new(shedder),
		gate:      newGate(opts.Tuning.HandshakeTimeout),
	}
	if err := s.removeLeftovers(); err != nil {
		return nil, err
	}
	s.hard, s.hardStop = context.WithCancel(context.Background())
	s.grpc = s.newGRPC()
	return s, nil
}

func (s *Server) newGRPC() *grpc.Server {
	pool := new(buffers)
	server := grpc.NewServer(
		grpc.Creds(newAgentCreds(&s.opts, s.parts.gate, s.metrics.handshakes, s.handshakeFailed)),
		grpc.ForceServerCodecV2(rawCodec{pool: pool}),
		experimental.BufferPool(pool),
		grpc.ConnectionTimeout(s.opts.Tuning.HandshakeTimeout),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.StaticStreamWindowSize(streamWindowBytes),
		grpc.StaticConnWindowSize(connWindowBytes),
		grpc.ReadBufferSize(ioBufferBytes),
		grpc.WriteBufferSize(ioBufferBytes), // shared between connections, by default
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: pingAfter, Timeout: pingTimeout, MaxConnectionIdle: idleWithoutCalls,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minClientPing, PermitWithoutStream: true}),
	)
	register := func(name, method string, handler grpc.StreamHandler, sends bool) {
		server.RegisterService(&grpc.ServiceDesc{
			ServiceName: name,
			Streams:     []grpc.StreamDesc{{StreamName: method, Handler: handler, ServerStreams: sends, ClientStreams: true}},
			Metadata:    "agent.proto",
		}, nil)
	}
	register(agentpb.Transfer_ServiceDesc.ServiceName, "Transfer", s.transfer, true)
	register(agentpb.FileExt_ServiceDesc.ServiceName, "Upload", s.upload, false)
	return server
}

// Run serves until ctx ends, or a listener or a part fails. Then it takes no new
// streams, lets each receiver finish the message that it has, for at most
// DrainTimeout, and reports results and disconnects. It is called once.
func (s *Server) Run(ctx context.Context) error {
	defer s.hardStop()
	work := lifecycle.NewGroup(context.WithoutCancel(ctx))
	for _, l := range s.opts.Listeners {
		limited := &limitedListener{Listener: l, all: s.connections}
		work.Go("serve agents", func(context.Context) error {
			err := s.grpc.Serve(limited)
			if errors.Is(err, grpc.ErrServerStopped) {
				return nil
			}
			return err
		})
	}
	work.Go("push", s.parts.pusher.run)
	work.Go("mark tasks", s.parts.marker.run)
	work.Go("results", s.parts.results.run)
	work.Go("inventory", s.parts.inventory.run)
	if s.opts.Peers != nil {
		work.Go("claim sessions", s.parts.claims.run)
	}

	select {
	case <-ctx.Done():
	case <-work.Context().Done(): // a part failed
	}
	s.stopStreams()
	work.Stop()
	err := work.Wait()
	s.flush()
	return err
}

// stopStreams ends every stream and waits for the receivers and senders.
func (s *Server) stopStreams() {
	close(s.drain)
	s.parts.shedder.stop()
	s.connections.closeFresh()
	var deadline sync.WaitGroup
	finished := make(chan struct{})
	deadline.Go(func() {
		timer := time.NewTimer(s.opts.Tuning.DrainTimeout)
		defer timer.Stop()
		select {
		case <-timer.C:
			s.hardStop()
			s.grpc.Stop()
		case <-finished:
		}
	})
	s.grpc.GracefulStop() // returns when every handler has
	s.receivers.Wait()    // so none is added any more
	s.senders.Wait()      // nor of these: a handler waits for its session's
	s.parts.shedder.work.Wait()
	close(finished)
	deadline.Wait()
	s.grpc.Stop()
}

// flush gives the store what is left to tell, while it takes it.
func (s *Server) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	s.parts.results.flush(ctx)
	s.parts.inventory.flush(ctx)
}

// refuse counts and makes the status that a stream ends with. The text goes to
// the agent.
func (s *Server) refuse(why reason, code codes.Code, text string) error {
	s.count(why)
	return status.Error(code, text)
}

func (s *Server) handshakeFailed(remote net.Addr, err error) {
	s.count(reasonHandshake)
	s.agentLogs.Warn("TLS handshake with an agent failed", "remote", remote.String(), "error", err)
}

// now is this node's wall clock in Unix seconds.
func (s *Server) now() int64 { return s.parts.clock.now().Unix() }

func (s *Server) count(why reason) { s.metrics.refused.WithLabelValues(string(why)).Inc() }
