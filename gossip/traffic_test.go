// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip_test

import (
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/gossip"
	"muster/internal/memnet"
)

const (
	// headerBytes are those of IPv4 and UDP, which are not counted below.
	headerBytes = 20 + 8

	// reportOverhead is what a load report's packet holds beside the report and the
	// node's name: kind and length of the name (2), memberlist's type (1), version,
	// nonce and tag of AES-GCM (1 + 12 + 16).
	reportOverhead = 2 + 1 + 29
)

// meter counts what all nodes send.
type meter struct {
	packets, packetBytes atomic.Uint64
	reports, reportBytes atomic.Uint64 // those of the packets that are as long as a load report
	streams, streamBytes atomic.Uint64
}

func (m *meter) reset() {
	for _, n := range []*atomic.Uint64{&m.packets, &m.packetBytes, &m.reports, &m.reportBytes, &m.streams, &m.streamBytes} {
		n.Store(0)
	}
}

type meteredPackets struct {
	net.PacketConn
	meter *meter
	name  string
}

func (p meteredPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	p.meter.packets.Add(1)
	p.meter.packetBytes.Add(uint64(len(b)))
	if len(b) == fleet.LoadBytes+reportOverhead+len(p.name) {
		p.meter.reports.Add(1)
		p.meter.reportBytes.Add(uint64(len(b)))
	}
	return p.PacketConn.WriteTo(b, to)
}

type meteredConn struct {
	net.Conn
	meter *meter
}

func (c meteredConn) Write(b []byte) (int, error) {
	c.meter.streamBytes.Add(uint64(len(b)))
	return c.Conn.Write(b)
}

type meteredListener struct {
	net.Listener
	meter *meter
}

func (l meteredListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return meteredConn{c, l.meter}, nil
}

// metered is an option of startNode.
func metered(m *meter) func(*gossip.Options) {
	return func(o *gossip.Options) {
		dial := o.Dial
		o.Packets = meteredPackets{o.Packets, m, o.Self.NodeID}
		o.Listener = meteredListener{o.Listener, m}
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			m.streams.Add(1)
			return meteredConn{c, m}, nil
		}
	}
}

// TestTraffic measures what a node sends while nothing happens, for the table in
// docs/operations.md. MUSTER_TEST_GOSSIP_NODES adds a number of nodes and measures
// for longer: 200 take minutes.
func TestTraffic(t *testing.T) {
	sizes, window := []int{5, 50}, 20*time.Second
	if text := os.Getenv("MUSTER_TEST_GOSSIP_NODES"); text != "" {
		more, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		sizes, window = append(sizes, more), 2*time.Minute // each of 200 nodes compares once
	}
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { measureTraffic(t, size, window) })
		})
	}
}

func measureTraffic(t *testing.T, size int, window time.Duration) {
	n, m := memnet.New(), new(meter)
	nodes := make([]*testNode, size)
	for i := range nodes {
		nodes[i] = startNode(t, n, i+1, metered(m))
		time.Sleep(50 * time.Millisecond)
	}
	await(t, 3*time.Minute, "all nodes know the load of all", func() bool {
		for _, node := range nodes {
			if node.heard() != size {
				return false
			}
		}
		return true
	})
	time.Sleep(10 * time.Second) // the news of who is there
	m.reset()
	time.Sleep(window)
	each := float64(size) * window.Seconds()
	packets, reports := float64(m.packets.Load())/each, float64(m.reports.Load())/each
	t.Logf("a node of %d sends in a second: %.1f packets of %.0f B (%.0f B with headers), of these %.1f load reports of %.0f B; %.3f streams of %.0f B in all",
		size, packets, float64(m.packetBytes.Load())/each, float64(m.packetBytes.Load())/each+headerBytes*packets,
		reports, float64(m.reportBytes.Load())/each, float64(m.streams.Load())/each, float64(m.streamBytes.Load())/each)
	if want := float64(size - 1); math.Abs(reports-want) > 0.02*want+0.1 { // some have news with them
		t.Errorf("%.2f load reports a second, want one to each of the %d others", reports, size-1)
	}
	if rest := packets - reports; rest > 3 {
		t.Errorf("%.2f other packets a second, want a probe, its answer, and little else", rest)
	}
	if bytes := float64(m.streamBytes.Load()) / each; bytes > 20*float64(size)+100 {
		t.Errorf("%.0f B a second in streams", bytes)
	}
	var group sync.WaitGroup
	for _, node := range nodes {
		group.Go(node.stop)
	}
	group.Wait()
}
