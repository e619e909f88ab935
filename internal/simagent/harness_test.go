// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/proto"

	"muster/internal/agentpb"
	"muster/internal/memnet"
	"muster/internal/simagent"
)

const (
	agentHost = "10.9.0.1"
	sdHost    = "10.8.0.1"
	acPort    = "6751"
	sdURL     = "http://" + sdHost + ":8088"
)

// world is a network with a CA, for use inside one synctest bubble.
type world struct {
	t     *testing.T
	net   *memnet.Network
	ca    *x509.Certificate
	caKey *ecdsa.PrivateKey
	roots *x509.CertPool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, net: memnet.New(), caKey: newKey(t), roots: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	w.ca = w.sign(template, w.caKey, template)
	w.roots.AddCert(w.ca)
	return w
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (w *world) sign(template *x509.Certificate, key *ecdsa.PrivateKey, parent *x509.Certificate) *x509.Certificate {
	w.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), w.caKey)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// certificate is for a DNS name, which may be empty.
func (w *world) certificate(name string) tls.Certificate {
	w.t.Helper()
	key := newKey(w.t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: w.ca.NotBefore, NotAfter: w.ca.NotAfter}
	if name != "" {
		template.DNSNames = []string{name}
	}
	c := w.sign(template, key, w.ca)
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

// message is what came in one Transfer message.
type message struct {
	at     time.Time
	stream int // from 1
	raw    *agentpb.RawData
}

func (m message) types() map[int32]int {
	types := make(map[int32]int)
	for _, r := range m.raw.GetRecords() {
		types[r.GetDataType()]++
	}
	return types
}

// center is a scripted AgentCenter.
type center struct {
	agentpb.UnimplementedTransferServer
	agentpb.UnimplementedFileExtServer

	// Set before start.
	serve  func(stream int, s agentpb.Transfer_TransferServer) error // after the stream is noted
	upload func(s agentpb.FileExt_UploadServer) error

	server *grpc.Server

	mu        sync.Mutex
	opened    []time.Time
	messages  []message
	encodings []string
	sends     map[int]agentpb.Transfer_TransferServer
}

// center starts an AgentCenter at this host whose certificate is for name.
func (w *world) center(ip, name string, c *center) *center {
	w.t.Helper()
	if c == nil {
		c = &center{}
	}
	l, err := w.net.Host(ip).Listen("tcp", ":"+acPort)
	if err != nil {
		w.t.Fatal(err)
	}
	conf := &tls.Config{
		Certificates: []tls.Certificate{w.certificate(name)},
		ClientCAs:    w.roots, ClientAuth: tls.RequireAndVerifyClientCert,
	}
	c.sends = make(map[int]agentpb.Transfer_TransferServer)
	c.server = grpc.NewServer(grpc.Creds(credentials.NewTLS(conf)), grpc.MaxRecvMsgSize(10<<20), grpc.StatsHandler(headers{c}))
	agentpb.RegisterTransferServer(c.server, c)
	agentpb.RegisterFileExtServer(c.server, c)
	var wg sync.WaitGroup
	wg.Go(func() { _ = c.server.Serve(l) })
	w.t.Cleanup(func() {
		c.server.Stop()
		wg.Wait()
	})
	return c
}

// headers notes how streams are compressed.
type headers struct{ c *center }

func (headers) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (headers) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (headers) HandleConn(context.Context, stats.ConnStats)                       {}

func (h headers) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InHeader); ok {
		h.c.mu.Lock()
		defer h.c.mu.Unlock()
		h.c.encodings = append(h.c.encodings, in.FullMethod+" "+in.Compression)
	}
}

func (c *center) Transfer(s agentpb.Transfer_TransferServer) error {
	c.mu.Lock()
	c.opened = append(c.opened, time.Now())
	n := len(c.opened)
	c.sends[n] = s
	c.mu.Unlock()
	if c.serve != nil {
		return c.serve(n, s)
	}
	return c.readAll(n, s)
}

// readAll notes messages until the agent closes its side.
func (c *center) readAll(n int, s agentpb.Transfer_TransferServer) error {
	for {
		raw, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		c.note(n, raw)
	}
}

func (c *center) note(n int, raw *agentpb.RawData) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.messages = append(c.messages, message{at: time.Now(), stream: n, raw: raw})
}

func (c *center) Upload(s agentpb.FileExt_UploadServer) error { return c.upload(s) }

func (c *center) got() []message {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]message(nil), c.messages...)
}

func (c *center) streams() []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]time.Time(nil), c.opened...)
}

// send sends a command on the newest stream.
func (c *center) send(t *testing.T, command *agentpb.Command) {
	t.Helper()
	c.mu.Lock()
	s := c.sends[len(c.opened)]
	c.mu.Unlock()
	if s == nil {
		t.Fatal("no stream to send on")
	}
	if err := s.Send(command); err != nil {
		t.Fatal(err)
	}
}

// records returns those of one data type, over all messages.
func (c *center) records(dataType int32) []*agentpb.Record {
	var out []*agentpb.Record
	for _, m := range c.got() {
		for _, r := range m.raw.GetRecords() {
			if r.GetDataType() == dataType {
				out = append(out, r)
			}
		}
	}
	return out
}

func fields(t *testing.T, r *agentpb.Record) map[string]string {
	t.Helper()
	var item agentpb.Item
	if err := proto.Unmarshal(r.GetBody(), &item); err != nil {
		t.Fatal(err)
	}
	return item.GetFields()
}

// lookups counts the questions to an SD.
type lookups struct {
	mu    sync.Mutex
	times []time.Time
	uris  []string
}

func (l *lookups) all() []time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]time.Time(nil), l.times...)
}

func (l *lookups) requests() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.uris...)
}

// sd starts a service discovery at this host.
func (w *world) sd(ip string, handler http.HandlerFunc) *lookups {
	w.t.Helper()
	l, err := w.net.Host(ip).Listen("tcp", ":8088")
	if err != nil {
		w.t.Fatal(err)
	}
	asked := &lookups{}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked.mu.Lock()
		asked.times = append(asked.times, time.Now())
		asked.uris = append(asked.uris, r.Method+" "+r.URL.RequestURI())
		asked.mu.Unlock()
		handler(rw, r)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	w.t.Cleanup(func() {
		_ = server.Close()
		wg.Wait()
	})
	return asked
}

// lists is a handler that answers with these servers' IPs.
func lists(ips ...string) http.HandlerFunc {
	body := `{"msg":"ok","data":[`
	for i, ip := range ips {
		if i > 0 {
			body += ","
		}
		body += `{"name":"hids_svr_grpc","ip":"` + ip + `","port":` + acPort + `,"status":0,"weight":3,"extra":{}}`
	}
	return says(http.StatusOK, body+"]}")
}

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// options are for one agent that asks the SD.
func (w *world) options() simagent.Options {
	host := w.net.Host(agentHost)
	transport := &http.Transport{DialContext: host.DialContext}
	w.t.Cleanup(transport.CloseIdleConnections)
	return simagent.Options{
		SD: []string{sdURL}, Agents: 1, Seed: 7,
		TLS:    &tls.Config{Certificates: []tls.Certificate{w.certificate("")}, RootCAs: w.roots, MinVersion: tls.VersionTLS12},
		Dial:   func(ctx context.Context, addr string) (net.Conn, error) { return host.DialContext(ctx, "tcp", addr) },
		HTTP:   transport,
		Logger: slog.New(slog.DiscardHandler),
	}
}

// started is a fleet that runs.
type started struct {
	*simagent.Fleet
	t      *testing.T
	cancel context.CancelFunc
	done   chan error
}

func (w *world) start(opts simagent.Options) *started {
	w.t.Helper()
	f, err := simagent.New(opts)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &started{Fleet: f, t: w.t, cancel: cancel, done: make(chan error, 1)}
	var wg sync.WaitGroup
	wg.Go(func() { s.done <- f.Run(ctx) })
	w.t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return s
}

// wait waits for the fleet's own end.
func (s *started) wait() error {
	s.t.Helper()
	select {
	case err := <-s.done:
		return err
	case <-time.After(24 * time.Hour):
		s.t.Fatal("the fleet does not end")
		return nil
	}
}
