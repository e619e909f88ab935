// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// raftStream is what node wraps around a RaftLayer.
type raftStream struct {
	net.Listener
	dial func(serverID string, timeout time.Duration) (net.Conn, error)
}

func (s raftStream) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.dial(string(addr), timeout)
}

// Raft itself runs over the port, addressing servers by their IDs, while they
// move to other addresses.
func TestRaftOverThePort(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		rafts := map[string]*raft.Raft{}
		stop := map[string]func(){}
		var servers []raft.Server
		logs := map[string]*raft.InmemStore{}
		run := func(n *node) {
			layer := n.port.Raft()
			trans := raft.NewNetworkTransport(raftStream{layer, layer.Dial}, 3, time.Second, io.Discard)
			c := raft.DefaultConfig()
			c.LocalID, c.Logger = raft.ServerID(n.id), hclog.NewNullLogger()
			c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = 500*time.Millisecond, 500*time.Millisecond, 250*time.Millisecond
			if logs[n.id] == nil {
				logs[n.id] = raft.NewInmemStore()
			}
			r, err := raft.NewRaft(c, &raft.MockFSM{}, logs[n.id], logs[n.id], raft.NewInmemSnapshotStore(), trans)
			if err != nil {
				t.Fatal(err)
			}
			rafts[n.id] = r
			stop[n.id] = func() {
				if err := r.Shutdown().Error(); err != nil {
					t.Error(err)
				}
				_ = trans.Close()
			}
		}
		for i, name := range []string{"a", "b", "c"} {
			n := w.start(name, fmt.Sprintf("10.0.0.%d", i+1))
			servers = append(servers, raft.Server{ID: raft.ServerID(n.id), Address: raft.ServerAddress(n.id)})
			run(n)
		}
		if err := rafts[serverID("a")].BootstrapCluster(raft.Configuration{Servers: servers}).Error(); err != nil {
			t.Fatal(err)
		}
		leader := func() (n *node) {
			eventually(t, "a leader", 10*time.Second, func() bool {
				for id, r := range rafts {
					if r.State() == raft.Leader && r.VerifyLeader().Error() == nil {
						n = w.nodes[id]
					}
				}
				return n != nil
			})
			return n
		}
		first := leader()
		if err := rafts[first.id].Apply([]byte("x"), time.Second).Error(); err != nil {
			t.Fatal(err)
		}
		stop[first.id]()
		delete(rafts, first.id)
		first.stop()
		<-first.done
		start := time.Now()
		second := leader()
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("a new leader after %v", took)
		}
		if err := rafts[second.id].Apply([]byte("y"), time.Second).Error(); err != nil {
			t.Fatal(err)
		}
		first.move("10.0.0.11")
		run(first)
		eventually(t, "the moved node follows", 10*time.Second, func() bool {
			return rafts[first.id].AppliedIndex() >= rafts[second.id].AppliedIndex()
		})
		for _, end := range stop {
			end()
		}
		for _, n := range w.nodes {
			n.stop()
		}
	})
}
