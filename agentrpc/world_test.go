// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"muster/agentrpc"
	"muster/fleet"
	"muster/internal/agentpb"
	"muster/internal/grpccodec"
	"muster/internal/memnet"
	"muster/internal/pki"
)

const (
	serverIP  = "10.0.0.1"
	agentIP   = "10.0.1.1"
	agentPort = "6751"
	clusterID = "c1"
)

// world is a server with everything around it replaced, in a bubble.
type world struct {
	t     *testing.T
	net   *memnet.Network
	ca    *pki.CA
	reg   *prometheus.Registry
	log   *fakeLog
	store *fakeStore
	srv   *agentrpc.Server
	dir   string

	cancel  context.CancelFunc
	running sync.WaitGroup
	err     error
	clients []*grpc.ClientConn
}

// inBubble runs a test against a server that is stopped at the end.
func inBubble(t *testing.T, test func(t *testing.T, w *world), change ...func(o *agentrpc.Options)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir, change...)
		t.Cleanup(w.stop)
		test(t, w)
	})
}

func newWorld(t *testing.T, dir string, change ...func(o *agentrpc.Options)) *world {
	t.Helper()
	ca, err := pki.NewCA(clusterID, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, net: memnet.New(), ca: ca, reg: prometheus.NewRegistry(),
		log: &fakeLog{}, store: &fakeStore{}, dir: dir,
	}
	l, err := w.net.Host(serverIP).Listen("tcp", ":"+agentPort)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.IssuePair(pki.AgentServerRequest("n1"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	opts := agentrpc.Options{
		Logger: slog.New(slog.DiscardHandler), Registerer: w.reg, Node: "n1",
		Listeners: []net.Listener{l},
		TLS: pki.ServerTLS(func() (*tls.Certificate, error) { return cert, nil },
			func() (*x509.CertPool, error) { return pki.Pool(ca.Certificate()), nil }),
		Identify: func(state tls.ConnectionState) (string, bool, error) { return pki.PeerIdentity(state, clusterID) },
		Log:      w.log, Desired: w.store, Tasks: w.store, Inventory: w.store, Lookup: w.store,
		UploadDir: dir, Limit: 100,
	}
	for _, c := range change {
		c(&opts)
	}
	w.srv, err = agentrpc.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.running.Go(func() { w.err = w.srv.Run(ctx) })
	return w
}

// stop ends the server and fails the test if it did not end well.
func (w *world) stop() {
	w.t.Helper()
	w.cancel()
	w.running.Wait()
	if w.err != nil {
		w.t.Errorf("Run = %v, want nil", w.err)
	}
	for _, c := range w.clients {
		_ = c.Close()
	}
	w.clients = nil
}

func (w *world) certificate(r pki.Request) *tls.Certificate {
	w.t.Helper()
	pair, err := w.ca.IssuePair(r, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		w.t.Fatal(err)
	}
	return cert
}

func (w *world) clientTLS() *tls.Config {
	return pki.ClientTLS(w.certificate(pki.FleetRequest("fleet")), pki.Pool(w.ca.Certificate()), pki.StockServerName)
}

// dial connects with the given TLS settings, nil meaning a fleet certificate.
func (w *world) dial(config *tls.Config) *grpc.ClientConn { return w.dialFrom(agentIP, config) }

func (w *world) dialFrom(ip string, config *tls.Config) *grpc.ClientConn {
	w.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(serverIP, agentPort), w.dialOptions(ip, config)...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.clients = append(w.clients, conn)
	return conn
}

func (w *world) dialOptions(ip string, config *tls.Config) []grpc.DialOption {
	w.t.Helper()
	grpccodec.Register()
	if config == nil {
		config = w.clientTLS()
	}
	return []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return w.net.Host(ip).DialContext(ctx, "tcp", addr)
		}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{encoding.GetCodecV2("proto")})),
	}
}

// bytesCodec sends []byte as it is.
type bytesCodec struct{ encoding.CodecV2 }

func (c bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// agent is one open stream and what came on it.
type agent struct {
	t      *testing.T
	id     string
	conn   *grpc.ClientConn
	stream agentpb.Transfer_TransferClient
	cancel context.CancelFunc

	mu       sync.Mutex
	commands []*agentpb.Command
	at       []time.Time
	err      error
	ended    chan struct{}
}

// open opens a stream and reads it; it sends nothing.
func (w *world) open(id string, conn *grpc.ClientConn, opts ...grpc.CallOption) *agent {
	w.t.Helper()
	if conn == nil {
		conn = w.dial(nil)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := agentpb.NewTransferClient(conn).Transfer(ctx, opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	a := &agent{t: w.t, id: id, conn: conn, stream: stream, cancel: cancel, ended: make(chan struct{})}
	w.running.Go(a.read)
	return a
}

// openUnread opens a stream that nobody reads.
func (w *world) openUnread(id string, opts ...grpc.CallOption) *agent {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := agentpb.NewTransferClient(w.dial(nil)).Transfer(ctx, opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	return &agent{t: w.t, id: id, stream: stream, cancel: cancel}
}

func (a *agent) read() {
	defer close(a.ended)
	for {
		c, err := a.stream.Recv()
		a.mu.Lock()
		if err != nil {
			a.err = err
			a.mu.Unlock()
			return
		}
		a.commands, a.at = append(a.commands, c), append(a.at, time.Now())
		a.mu.Unlock()
	}
}

func (a *agent) got() []*agentpb.Command {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]*agentpb.Command(nil), a.commands...)
}

func (a *agent) send(records ...*agentpb.Record) {
	a.t.Helper()
	if err := a.stream.Send(&agentpb.RawData{AgentId: a.id, Hostname: "host-" + a.id, Version: "1.9", Product: "elkeid-agent", Records: records}); err != nil {
		a.t.Fatalf("send: %v", err)
	}
	synctest.Wait()
}

// beat sends a heartbeat.
func (a *agent) beat() {
	a.t.Helper()
	a.send(heartbeat("kernel_version", "6.1", "state", "running"))
}

// code waits for the end of the stream.
func (a *agent) code() codes.Code {
	a.t.Helper()
	select {
	case <-a.ended:
		return status.Code(a.err)
	case <-time.After(2 * time.Minute):
		a.t.Fatal("the stream did not end")
		return codes.OK
	}
}

func record(dataType fleet.DataType, pairs ...string) *agentpb.Record {
	item := &agentpb.Item{Fields: make(map[string]string)}
	for i := 0; i < len(pairs); i += 2 {
		item.Fields[pairs[i]] = pairs[i+1]
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(item)
	if err != nil {
		panic(err)
	}
	return &agentpb.Record{DataType: int32(dataType), Timestamp: time.Now().Unix(), Body: body}
}

func heartbeat(pairs ...string) *agentpb.Record { return record(fleet.DataTypeHeartbeat, pairs...) }

// metric reads a counter or gauge; labels are name, value.
func (w *world) metric(name string, label ...string) float64 {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "muster_agentrpc_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			if len(label) == 2 && (len(m.GetLabel()) != 1 || m.GetLabel()[0].GetValue() != label[1]) {
				continue
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	w.t.Fatalf("no metric %s %v", name, label)
	return 0
}

// eventually waits for a condition in the bubble's time.
func (w *world) eventually(what string, within time.Duration, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		synctest.Wait()
		if ok() {
			return
		}
		if !time.Now().Before(end) {
			w.t.Fatalf("%s: not within %v", what, within)
		}
	}
}

// pass lets time go by in the bubble.
func pass(d time.Duration) { time.Sleep(d) }

var errAway = errors.New("away")
