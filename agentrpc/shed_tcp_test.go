// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"muster/agentrpc"
	"muster/internal/agentpb"
	"muster/internal/grpccodec"
	"muster/internal/quickconn"
)

// Over real connections, all that agents wrote before they saw the end arrives,
// however busy they are. What their own gRPC still held is theirs: it is counted
// for the log alone.
func TestShedOverTCP(t *testing.T) {
	const agents, perMessage = 20, 10
	l, err := quickconn.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, t.TempDir(), func(o *agentrpc.Options) { o.Listeners = []net.Listener{l} })
	grpccodec.Register()
	acked, wires := make([]atomic.Int64, agents), make([]wire, agents)
	config := w.clientTLS()
	var clients sync.WaitGroup
	for i := range agents {
		creds := tapped{TransportCredentials: credentials.NewTLS(config), wire: &wires[i]}
		conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(creds))
		if err != nil {
			t.Fatal(err)
		}
		w.clients = append(w.clients, conn)
		clients.Go(func() { sendUntilTheEnd(t, conn, fmt.Sprint("a", i), perMessage, &acked[i]) })
	}
	within(t, "all have sent", func() bool {
		for i := range acked {
			if acked[i].Load() < 20 {
				return false
			}
		}
		return w.srv.SessionCount() == agents
	})
	shed := 0
	within(t, "all are gone", func() bool {
		shed += w.srv.Shed(agents)
		return len(w.srv.SessionIDs()) == 0
	})
	if shed != agents {
		t.Errorf("shed %d of %d", shed, agents)
	}
	clients.Wait()
	sent, written, arrived := 0, 0, 0
	for i := range acked {
		sent += int(acked[i].Load())
		written += wires[i].messages()
		arrived += len(w.log.of(fmt.Sprint("a", i))) / perMessage
	}
	t.Logf("%d messages were sent, %d written, %d arrived", sent, written, arrived)
	if arrived < written || written == 0 {
		t.Errorf("%d of %d messages that were written did not arrive", written-arrived, written)
	}
	w.stop()
}

// sendUntilTheEnd sends a message each millisecond.
func sendUntilTheEnd(t *testing.T, conn *grpc.ClientConn, id string, records int, acked *atomic.Int64) {
	stream, err := agentpb.NewTransferClient(conn).Transfer(context.Background(), grpc.UseCompressor(grpccodec.Snappy), grpc.WaitForReady(true))
	if err != nil {
		t.Error(err)
		return
	}
	data := &agentpb.RawData{AgentId: id}
	for range records {
		data.Records = append(data.Records, record(59, "exe", "/usr/bin/something", "argv", id))
	}
	for stream.Send(data) == nil {
		acked.Add(1)
		<-time.After(time.Millisecond)
	}
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// tapped are credentials that keep what gRPC writes.
type tapped struct {
	credentials.TransportCredentials
	wire *wire
}

func (c tapped) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, raw)
	return tap{Conn: conn, wire: c.wire}, info, err
}

func (c tapped) Clone() credentials.TransportCredentials {
	return tapped{TransportCredentials: c.TransportCredentials.Clone(), wire: c.wire}
}

type tap struct {
	net.Conn
	wire *wire
}

func (c tap) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	c.wire.bytes = append(c.wire.bytes, p[:n]...)
	return n, err
}

// wire is what was written to a connection, as HTTP/2.
type wire struct {
	mu    sync.Mutex
	bytes []byte
}

// messages counts the gRPC messages that were written to their end.
func (w *wire) messages() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	const preface, frameHeader, dataFrame, messageHeader = 24, 9, 0, 5
	var data []byte
	for rest := w.bytes[min(preface, len(w.bytes)):]; len(rest) >= frameHeader; {
		size := frameHeader + int(rest[0])<<16 + int(rest[1])<<8 + int(rest[2])
		if size > len(rest) {
			break
		}
		if rest[3] == dataFrame {
			data = append(data, rest[frameHeader:size]...)
		}
		rest = rest[size:]
	}
	n := 0
	for len(data) >= messageHeader {
		size := messageHeader + int(binary.BigEndian.Uint32(data[1:]))
		if size > len(data) {
			break
		}
		data = data[size:]
		n++
	}
	return n
}
