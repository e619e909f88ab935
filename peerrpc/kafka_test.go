// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/internal/pki"
)

const protoKafka = "muster-kafka/1"

// broker gives a node an embedded broker on its loopback that serves each
// connection so.
func broker(serve func(net.Conn)) func(*node) {
	return func(n *node) {
		host := n.w.net.Host(strings.TrimSuffix(n.addr, ":6760"))
		l, err := host.Listen("tcp", "127.0.0.1:9092")
		if err != nil {
			n.w.t.Fatal(err)
		}
		n.kafka = func(ctx context.Context) (net.Conn, error) { return host.DialContext(ctx, "tcp", l.Addr().String()) }
		n.w.closers = append(n.w.closers, l.Close)
		n.w.wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				n.w.wg.Go(func() {
					defer c.Close()
					serve(c)
				})
			}
		})
	}
}

func echoing(c net.Conn) { _, _ = io.Copy(c, c) }

func (n *node) dialKafka(to *node) net.Conn {
	n.w.t.Helper()
	c, err := n.port.DialKafka(n.w.t.Context(), to.id)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return c
}

// wantPipes checks how many connections with the broker both sides have open.
func wantPipes(t *testing.T, want float64, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		if got := n.count("open_connections", "protocol", protoKafka); got != want {
			t.Errorf("%s: %v connections with the broker are open, want %v", n.id, got, want)
		}
	}
}

func TestKafkaPipes(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2", broker(echoing))
		big := strings.Repeat("records ", 100<<10)
		var open []net.Conn
		for range 9 {
			c := a.dialKafka(b)
			echo(t, c, "produce")
			open = append(open, c)
		}
		w.wg.Go(func() { _, _ = open[0].Write([]byte(big)) })
		if got, err := io.ReadAll(io.LimitReader(open[0], int64(len(big)))); err != nil || string(got) != big {
			t.Errorf("%d bytes came back of %d: %v", len(got), len(big), err)
		}
		wantPipes(t, 9, a, b)
		for _, c := range open {
			_ = c.Close()
		}
		wantPipes(t, 0, a, b)
		for n, side := range map[*node]string{a: "dialled", b: "accepted"} {
			if got := n.count("connections_total", "side", side, "protocol", protoKafka); got != 9 {
				t.Errorf("%s counts %v connections", n.id, got)
			}
		}
	})
}

// Whoever has no broker for others says so in words, on both nodes, and counts it.
func TestKafkaRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		change  func(w *world, n *node)
		before  func(a, b *node) // b's refusal
		dialled string           // in the error of a, who dials b
		logged  string           // by b
		reason  string
	}{
		"no broker": {
			dialled: "it has no embedded kafka; --kafka must name the same node on all of them",
			logged:  "this node has no embedded kafka", reason: "no_broker",
		},
		"broker down": {
			change: func(_ *world, n *node) {
				n.kafka = func(context.Context) (net.Conn, error) { return nil, errors.New("nobody listens") }
			},
			dialled: "its embedded kafka does not answer", logged: "does not answer: nobody listens", reason: "broker_down",
		},
		"broker stuck": {
			change: func(_ *world, n *node) {
				n.kafka = func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
			},
			dialled: "its embedded kafka does not answer", logged: "deadline exceeded", reason: "broker_down",
		},
		"too many": {
			change:  func(_ *world, n *node) { n.opts.Tuning.Pipes = 3; broker(echoing)(n) },
			before:  func(a, b *node) { a.dialKafka(b); a.dialKafka(b); a.dialKafka(b) },
			dialled: "too many connections with its embedded kafka are open", logged: "3 connections", reason: "too_many_connections",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2", func(n *node) {
					if tt.change != nil {
						tt.change(w, n)
					}
				})
				if tt.before != nil {
					tt.before(a, b)
				}
				start := time.Now()
				_, err := a.port.DialKafka(t.Context(), b.id)
				if !errors.Is(err, fleet.ErrUnavailable) || !strings.Contains(err.Error(), tt.dialled) {
					t.Errorf("dialled: %v", err)
				}
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("it took %v", took)
				}
				if b.count("refused_total", "side", "accepted", "reason", tt.reason) != 1 || a.count("refused_total", "side", "dialled", "reason", tt.reason) != 1 {
					t.Error("not counted on both sides")
				}
				if a.log.lines("connection to a node refused", tt.dialled, protoKafka) != 1 || b.log.lines("connection from a node refused", tt.logged) != 1 {
					t.Errorf("logs:\n%s%s", a.log, b.log)
				}
			})
		})
	}
}

// Who is no member never gets as far as the broker.
func TestKafkaForMembersOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var reached atomic.Int32
		b := w.start("b", "10.0.0.2", broker(func(net.Conn) { reached.Add(1) }))
		other, err := pki.NewCA("c2", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		removed := w.start("a", "10.0.0.1")
		b.removed.Store(removed.id, true)
		for _, n := range []*node{
			removed,
			w.prepareAs("x", "10.0.0.3", other, "c2"),
			w.prepareAs("y", "10.0.0.4", other, clusterID),
		} {
			if c, err := n.port.DialKafka(t.Context(), b.id); err == nil {
				t.Errorf("%s got to the broker", n.id)
				_ = c.Close()
			}
		}
		if none, err := w.newcomer("z", "10.0.0.5").port.DialKafka(t.Context(), b.id); err == nil || !strings.Contains(err.Error(), "not a member") {
			t.Errorf("without a certificate: %v, %v", none, err)
		}
		synctest.Wait()
		if n := reached.Load(); n != 0 {
			t.Errorf("the broker got %d connections", n)
		}
	})
}

// prepareAs starts a node with a certificate of that authority.
func (w *world) prepareAs(name, ip string, ca *pki.CA, cluster string) *node {
	w.t.Helper()
	return w.start(name, ip, func(n *node) {
		m := w.member(ca, pki.NodeRequest(cluster, n.id))
		m.ClusterID = cluster
		n.membership.Store(m)
	})
}

// Each way in which a connection with the broker ends, ends both halves and
// frees its place.
func TestKafkaPipesEnd(t *testing.T) {
	silent := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	endless := func(c net.Conn) {
		for buf := make([]byte, 64<<10); ; {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}
	chatty := func(c net.Conn) {
		for ; ; time.Sleep(time.Second) {
			if _, err := c.Write([]byte("more")); err != nil {
				return
			}
		}
	}
	for name, tt := range map[string]struct {
		serve  func(net.Conn)
		client func(t *testing.T, w *world, a, b *node, c net.Conn)
		within time.Duration
	}{
		"client closes": {silent, func(_ *testing.T, _ *world, _, _ *node, c net.Conn) { _ = c.Close() }, 0},
		"client half-closes": {silent, func(_ *testing.T, _ *world, _, _ *node, c net.Conn) {
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
		}, 0},
		"broker closes":    {func(net.Conn) {}, func(*testing.T, *world, *node, *node, net.Conn) {}, 0},
		"client stalls":    {endless, func(*testing.T, *world, *node, *node, net.Conn) {}, 16 * time.Second},
		"both say nothing": {silent, func(*testing.T, *world, *node, *node, net.Conn) {}, 6 * time.Minute},
		"broker stalls": {func(c net.Conn) { <-time.After(time.Minute) }, func(_ *testing.T, w *world, _, _ *node, c net.Conn) {
			w.wg.Go(func() {
				for buf := make([]byte, 64<<10); ; {
					if _, err := c.Write(buf); err != nil {
						return
					}
				}
			})
		}, 16 * time.Second},
		"client is removed": {chatty, func(_ *testing.T, w *world, a, b *node, c net.Conn) {
			w.wg.Go(func() { silent(c) })
			b.removed.Store(a.id, true)
		}, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2",
					func(n *node) { n.opts.Tuning.Pipes = 1 },
					broker(tt.serve))
				c := a.dialKafka(b)
				start := time.Now()
				tt.client(t, w, a, b, c)
				eventually(t, "the pipe ends", tt.within+time.Second, func() bool {
					return b.count("open_connections", "protocol", protoKafka) == 0
				})
				if took := time.Since(start); took < tt.within/2 {
					t.Errorf("it ended after %v already", took)
				}
				_ = c.Close()
				b.removed.Clear()
				if again, err := a.port.DialKafka(t.Context(), b.id); err != nil {
					t.Errorf("its place is not free: %v", err)
				} else {
					_ = again.Close()
				}
			})
		})
	}
}

// The end of either node's Run ends the connections at once.
func TestKafkaPipesEndWithRun(t *testing.T) {
	for _, which := range []string{"a", "b"} {
		t.Run(which, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2", broker(echoing))
				c := a.dialKafka(b)
				echo(t, c, "produce")
				start := time.Now()
				w.nodes[serverID(which)].stop()
				if _, err := c.Read(make([]byte, 1)); err == nil {
					t.Error("the connection goes on")
				}
				<-w.nodes[serverID(which)].done
				if took := time.Since(start); took > time.Second {
					t.Errorf("it took %v", took)
				}
				_ = c.Close()
				wantPipes(t, 0, a, b)
			})
		})
	}
}

// BenchmarkKafka sends batches of a usual size over real TCP and waits for the
// short answer to each, as a partition does.
func BenchmarkKafka(b *testing.B) {
	w := newWorld(b)
	onLoopback := func(n *node) {
		n.listen, n.addr, n.opts.Dial = net.Listen, "127.0.0.1:0", (&net.Dialer{}).DialContext
	}
	batch, answer := make([]byte, 256<<10), make([]byte, 64)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	w.wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for buf := make([]byte, len(batch)); err == nil; {
			if _, err = io.ReadFull(c, buf); err == nil {
				_, err = c.Write(answer)
			}
		}
	})
	from := w.start("a", "10.0.0.1", onLoopback)
	to := w.start("b", "10.0.0.2", onLoopback, func(n *node) {
		n.kafka = func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		}
	})
	c, err := from.port.DialKafka(b.Context(), to.id)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(batch)))
	for b.Loop() {
		_, werr := c.Write(batch)
		_, rerr := io.ReadFull(c, make([]byte, len(answer)))
		if err := errors.Join(werr, rerr); err != nil {
			b.Fatal(err)
		}
	}
	_ = c.Close()
	_ = l.Close()
	w.end()
}
