// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"muster/internal/agentpb"
	"muster/internal/grpccodec"
)

// serverName is what a stock agent wants in the server's certificate.
const serverName = "elkeid.com"

// Data types of the agent's protocol.
const (
	Execve          = 59
	Heartbeat       = 1000
	PluginHeartbeat = 1001
)

// Agent is one stream of an agent that does nothing by itself: it shares no
// code with the simulated ones, and can send anything at all.
type Agent struct {
	// Says is what each message says of the agent.
	Says *agentpb.RawData

	n      *Node
	id     string
	stream agentpb.Transfer_TransferClient
	cancel context.CancelFunc
	ended  chan struct{}

	mu       sync.Mutex
	received []Received
	err      error
}

// Received is a command and when it came.
type Received struct {
	*agentpb.Command
	At time.Time
}

// FleetTLS returns the settings of a stock agent with a fleet certificate that
// the node makes.
func (n *Node) FleetTLS() *tls.Config {
	n.T.Helper()
	bundle, err := n.Node.IssueFleet("fleet")
	if err != nil {
		n.T.Fatal(err)
	}
	pair, err := tls.X509KeyPair(bundle.Cert, bundle.Key)
	if err != nil {
		n.T.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle.CA) {
		n.T.Fatal("the bundle's CA is no PEM")
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS12}
}

// Connect makes a connection to the agents' port, which is dialled at first
// use; nil means FleetTLS.
func (n *Node) Connect(conf *tls.Config) *grpc.ClientConn {
	n.T.Helper()
	grpccodec.Register()
	if conf == nil {
		conf = n.FleetTLS()
	}
	conn, err := grpc.NewClient("passthrough:///"+n.at(agentPort),
		grpc.WithTransportCredentials(credentials.NewTLS(conf)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return n.Net.Host(AgentIP).DialContext(ctx, "tcp", addr)
		}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire{encoding.GetCodecV2("proto")})))
	if err != nil {
		n.T.Fatal(err)
	}
	n.later(func() { _ = conn.Close() })
	return conn
}

// wire sends []byte as it is.
type wire struct{ encoding.CodecV2 }

// Marshal implements encoding.CodecV2.
func (c wire) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// Open opens a stream on a connection of its own, and sends nothing.
func (n *Node) Open(id string, opts ...grpc.CallOption) *Agent {
	n.T.Helper()
	return n.OpenOn(n.Connect(nil), id, opts...)
}

// OpenOn opens a stream, and sends nothing.
func (n *Node) OpenOn(conn *grpc.ClientConn, id string, opts ...grpc.CallOption) *Agent {
	n.T.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := agentpb.NewTransferClient(conn).Transfer(ctx, opts...)
	a := &Agent{n: n, id: id, stream: stream, cancel: cancel, ended: make(chan struct{}), Says: &agentpb.RawData{
		AgentId: id, IntranetIpv4: []string{"192.168.1.2"}, Hostname: "host-" + id, Version: "1.9.1.145", Product: "elkeid-agent",
	}}
	if err != nil {
		a.err = err
		close(a.ended)
		cancel()
		return a
	}
	n.seen.opened(id, a)
	n.running.Go(a.read)
	n.later(a.Cut)
	return a
}

func (a *Agent) read() {
	defer close(a.ended)
	for {
		c, err := a.stream.Recv()
		a.mu.Lock()
		if err != nil {
			a.err = err
			a.mu.Unlock()
			return
		}
		a.n.seen.command(a.id, a, c)
		a.received = append(a.received, Received{Command: c, At: time.Now()})
		a.mu.Unlock()
	}
}

// Send sends one message with these records, and waits until everybody rests.
func (a *Agent) Send(records ...*agentpb.Record) {
	a.n.T.Helper()
	if err := a.TrySend(records...); err != nil {
		a.n.T.Fatalf("%s: send: %v", a.Says.GetAgentId(), err)
	}
	synctest.Wait()
}

// TrySend is Send for streams that may have ended (io.EOF); it does not wait.
func (a *Agent) TrySend(records ...*agentpb.Record) error {
	message, ok := proto.Clone(a.Says).(*agentpb.RawData)
	if !ok {
		return errors.New("the clone of a message is another message")
	}
	message.Records = records
	return a.stream.Send(message)
}

// SendBytes sends a message as it is on the wire, not compressed.
func (a *Agent) SendBytes(raw []byte) {
	a.n.T.Helper()
	if err := a.stream.SendMsg(raw); err != nil && !errors.Is(err, io.EOF) {
		a.n.T.Fatalf("%s: send bytes: %v", a.Says.GetAgentId(), err)
	}
	synctest.Wait()
}

// Beat sends a heartbeat.
func (a *Agent) Beat(pairs ...string) {
	a.n.T.Helper()
	a.Send(NewRecord(Heartbeat, append([]string{"kernel_version", "6.1.0", "state", "running"}, pairs...)...))
}

// Reply answers a task as a plugin does.
func (a *Agent) Reply(dataType int32, token, outcome, text string) {
	a.n.T.Helper()
	a.Send(NewRecord(dataType, "token", token, "status", outcome, "msg", text))
}

// Commands returns what came on the stream so far.
func (a *Agent) Commands() []Received {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.received)
}

// Tasks returns the tasks that came so far.
func (a *Agent) Tasks() []*agentpb.Task {
	var tasks []*agentpb.Task
	for _, c := range a.Commands() {
		if c.GetTask() != nil {
			tasks = append(tasks, c.GetTask())
		}
	}
	return tasks
}

// Configs returns the configs that came so far.
func (a *Agent) Configs() []Received {
	return slices.DeleteFunc(a.Commands(), func(c Received) bool { return c.GetTask() != nil })
}

// Ended tells whether the stream has ended.
func (a *Agent) Ended() bool {
	select {
	case <-a.ended:
		return true
	default:
		return false
	}
}

// End waits for the end of the stream, at most so long, and returns its code
// and text.
func (a *Agent) End(within time.Duration) (codes.Code, string) {
	a.n.T.Helper()
	select {
	case <-a.ended:
	case <-time.After(within):
		a.n.T.Fatalf("%s: the stream did not end within %s", a.Says.GetAgentId(), within)
	}
	return status.Code(a.err), status.Convert(a.err).Message()
}

// Leave ends the agent's side and waits for the node to end the stream.
func (a *Agent) Leave() {
	a.n.T.Helper()
	if err := a.stream.CloseSend(); err != nil {
		a.n.T.Fatal(err)
	}
	<-a.ended
	a.cancel()
	synctest.Wait()
}

// Cut breaks the stream off.
func (a *Agent) Cut() {
	a.cancel()
	<-a.ended
	synctest.Wait()
}

// NewRecord makes a record whose body holds pairs of key and value.
func NewRecord(dataType int32, pairs ...string) *agentpb.Record {
	item := &agentpb.Item{Fields: make(map[string]string)}
	for i := 0; i+1 < len(pairs); i += 2 {
		item.Fields[pairs[i]] = pairs[i+1]
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(item)
	if err != nil {
		panic(err) // the test's own strings are not UTF-8
	}
	return &agentpb.Record{DataType: dataType, Timestamp: time.Now().Unix(), Body: body}
}
