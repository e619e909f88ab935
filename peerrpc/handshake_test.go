// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/internal/pki"
	"muster/peerrpc"
)

func TestRaftConnections(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
		a.echoRaft()
		b.echoRaft()
		for _, pair := range [][2]*node{{a, b}, {b, a}} {
			c, err := pair[0].port.Raft().Dial(pair[1].id, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			echo(t, c, "append entries")
			_ = c.Close()
		}
		if got := a.port.Raft().Addr().String(); got != a.id {
			t.Errorf("Addr = %s", got)
		}
		if _, err := a.port.Raft().Dial(serverID("nobody"), time.Second); !errors.Is(err, fleet.ErrUnavailable) {
			t.Errorf("an unknown node: %v", err)
		}
		synctest.Wait()
		if n := a.count("connections_total", "protocol", "muster-raft/1"); n != 2 {
			t.Errorf("a counts %v connections", n)
		}
		if n := a.count("open_connections"); n != 0 {
			t.Errorf("%v connections are open", n)
		}
	})
}

func TestCertificateRotates(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
		b.echoRaft()
		serial := func() string {
			c, err := a.port.Raft().Dial(b.id, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			return c.(interface{ ConnectionState() tls.ConnectionState }).ConnectionState().PeerCertificates[0].SerialNumber.String()
		}
		first := serial()
		b.membership.Store(w.member(w.ca, pki.NodeRequest(clusterID, b.id)))
		if serial() == first {
			t.Error("the old certificate is still shown")
		}
	})
}

// Whoever is wrong, both sides say so in words, count it, and stay apart.
func TestRefusedMembers(t *testing.T) {
	foreign := func(w *world, cluster string) *pki.CA {
		ca, err := pki.NewCA(cluster, time.Now())
		if err != nil {
			w.t.Fatal(err)
		}
		return ca
	}
	for name, tt := range map[string]struct {
		change           func(w *world, a, b *node)
		dialled          string // in the error of a, who dials b
		accepted         string // in b's log; "": it has nothing to say
		reasonA, reasonB string
	}{
		"another cluster dials": {
			func(w *world, a, _ *node) {
				m := w.member(foreign(w, "c2"), pki.NodeRequest("c2", a.id))
				m.ClusterID = "c2"
				a.membership.Store(m)
			},
			`it is node \"b~0a1b2c3d\" of cluster \"c1\"`, `it is node \"a~0a1b2c3d\" of cluster \"c2\"`, "wrong_cluster", "wrong_cluster",
		},
		"an impostor's CA of the same cluster ID": {
			func(w *world, a, _ *node) {
				m := w.member(foreign(w, clusterID), pki.NodeRequest(clusterID, a.id))
				m.CA = w.ca.Certificate()
				a.membership.Store(m)
			},
			"another CA signed this node's certificate", "is not from this cluster's CA", "wrong_ca", "wrong_ca",
		},
		"expired": {
			func(w *world, a, _ *node) {
				r := pki.NodeRequest(clusterID, a.id)
				r.Lifetime = time.Minute
				a.membership.Store(w.member(w.ca, r))
				time.Sleep(2 * time.Minute)
			},
			"not valid by its clock", "compare the clocks", "certificate_not_valid_now", "certificate_not_valid_now",
		},
		"an agent's certificate": {
			func(w *world, a, _ *node) { a.membership.Store(w.member(w.ca, pki.AgentRequest(clusterID, "a"))) },
			"names no node", "is not a node's", "certificate_without_node", "certificate_without_node",
		},
		"not a member yet": {
			func(_ *world, _, b *node) { b.membership.Store(nil) },
			"it is not a member of a cluster yet", "this node is not a member", "not_a_member", "not_a_member",
		},
		"another node at the address": {
			func(w *world, a, b *node) {
				w.start("c", "10.0.0.3")
				a.moved.Store(b.id, "10.0.0.3:6760")
			},
			`it is node \"c~0a1b2c3d\", not \"b~0a1b2c3d\"`, "", "wrong_node", "",
		},
		"claims the other's ID": {
			func(w *world, a, b *node) { a.membership.Store(w.member(w.ca, pki.NodeRequest(clusterID, b.id))) },
			"it expected another node", "this node's own identity", "wrong_node", "wrong_node",
		},
		"removed": {
			func(_ *world, a, b *node) { b.removed.Store(a.id, true) },
			"this node was removed from the cluster", "was removed from the cluster", "removed_node", "removed_node",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
				b.echoRaft()
				tt.change(w, a, b)
				for range 3 {
					_, err := a.port.Raft().Dial(b.id, time.Second)
					if err == nil || !strings.Contains(err.Error(), strings.ReplaceAll(tt.dialled, `\"`, `"`)) || !errors.Is(err, fleet.ErrUnavailable) {
						t.Fatalf("Dial: %v, want %q", err, tt.dialled)
					}
				}
				synctest.Wait()
				if n := a.log.lines("connection to a node refused", tt.dialled); n != 1 {
					t.Errorf("a logs it %d times:\n%s", n, a.log)
				}
				if n := a.count("refused_total", "side", "dialled", "reason", tt.reasonA); n != 3 {
					t.Errorf("a counts %v", n)
				}
				if by := a.expelledBy(); (by == b.id) != (name == "removed") {
					t.Errorf("a hears from %q that it was removed", by)
				}
				if tt.accepted == "" {
					return
				}
				if n := b.log.lines("connection from a node refused", tt.accepted); n != 1 {
					t.Errorf("b logs it %d times:\n%s", n, b.log)
				}
				if n := b.count("refused_total", "side", "accepted", "reason", tt.reasonB); n != 3 {
					t.Errorf("b counts %v", n)
				}
				if n := a.count("connections_total") + b.count("connections_total"); n != 0 {
					t.Errorf("%v connections were welcomed", n)
				}
			})
		})
	}
}

// expelledBy is who has said that the node was removed, "" if nobody has.
func (n *node) expelledBy() string {
	select {
	case by := <-n.port.Expelled():
		return by
	default:
		return ""
	}
}

// A node that is sent to the wrong address does not reach whoever is there
// either: that one hears that it is not the one who is expected.
func TestWrongNodeHearsOfIt(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
		b.echoRaft()
		a.moved.Store(serverID("c"), b.addr)
		if _, err := a.port.Raft().Dial(serverID("c"), time.Second); err == nil {
			t.Fatal("connected")
		}
		synctest.Wait()
		if n := b.log.lines("it expected another node"); n != 1 {
			t.Errorf("b logs:\n%s", b.log)
		}
	})
}

func TestStrangers(t *testing.T) {
	for name, tt := range map[string]struct {
		config *tls.Config
		raw    string
		reason string
	}{
		"unknown protocol": {&tls.Config{NextProtos: []string{"h2"}}, "", "unknown_protocol"},
		"no protocol":      {&tls.Config{}, "", "unknown_protocol"},
		"TLS 1.2":          {&tls.Config{NextProtos: []string{"muster-raft/1"}, MaxVersion: tls.VersionTLS12}, "", "handshake"},
		"no certificate":   {&tls.Config{NextProtos: []string{"muster-peer/1"}}, "", "handshake"},
		"not TLS":          {nil, "GET / HTTP/1.1\r\n\r\n", "handshake"},
		"silent":           {nil, "", "handshake"},
		"no greeting":      {&tls.Config{NextProtos: []string{"muster-raft/1"}}, "silent", "handshake"},
		"no hello":         {&tls.Config{NextProtos: []string{"muster-join/1"}}, "silent", "bad_frame"},
		"bad hello":        {&tls.Config{NextProtos: []string{"muster-join/1"}}, "\x00\x02\xff\xff", "bad_frame"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				b := w.start("b", "10.0.0.2")
				conn, err := w.net.Host("10.0.0.9").DialContext(t.Context(), "tcp", b.addr)
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				if tt.config != nil {
					tt.config.InsecureSkipVerify = true
					if tt.raw == "silent" && name == "no greeting" {
						tt.config.Certificates = []tls.Certificate{*w.member(w.ca, pki.NodeRequest(clusterID, serverID("z"))).Certificate}
					}
					conn = tls.Client(conn, tt.config)
					if tt.raw == "silent" {
						if err := conn.(*tls.Conn).Handshake(); err != nil {
							t.Fatal(err)
						}
						tt.raw = ""
					}
				}
				_, _ = io.WriteString(conn, tt.raw)
				_, _ = io.Copy(io.Discard, conn) // until it is closed
				if took := time.Since(start); took > 10*time.Second {
					t.Errorf("it was closed after %v", took)
				}
				_ = conn.Close()
				synctest.Wait()
				if n := b.count("refused_total", "reason", tt.reason); n != 1 {
					t.Errorf("counted %v times; log:\n%s", n, b.log)
				}
				if b.log.lines("connection from a node refused", tt.reason) != 1 {
					t.Errorf("log:\n%s", b.log)
				}
			})
		})
	}
}

// Silent connections of one host do not keep the others out, and those of many
// hosts not for longer than a handshake may take.
func TestHandshakesAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2", func(n *node) {
			n.opts.Tuning = peerrpc.Tuning{Handshakes: 8, HandshakesPerHost: 4}
		})
		b.echoRaft()
		fill := func(ip string) {
			for range 6 {
				if _, err := w.net.Host(ip).DialContext(t.Context(), "tcp", b.addr); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
		}
		dial := func() error {
			c, err := a.port.Raft().Dial(b.id, time.Second)
			if err == nil {
				_ = c.Close()
			}
			return err
		}
		fill("10.0.0.8")
		if n := b.count("refused_total", "reason", "too_many_handshakes"); n != 2 {
			t.Errorf("refused %v of one host", n)
		}
		if err := dial(); err != nil {
			t.Errorf("kept out by another host: %v", err)
		}
		synctest.Wait() // until its place is free again
		fill("10.0.0.9")
		if dial() == nil {
			t.Errorf("the bound does not hold: %v\n%s", b.count("refused_total", "reason", "too_many_handshakes"), b.log)
		}
		time.Sleep(6 * time.Second)
		if err := dial(); err != nil {
			t.Errorf("after 5 s: %v", err)
		}
	})
}

func TestRaftNotServed(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2") // nobody accepts
		c, err := a.port.Raft().Dial(b.id, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("it was served")
		}
		_ = c.Close()
		if n := b.count("refused_total", "reason", "not_served"); n != 1 || b.log.lines("does not serve") != 1 {
			t.Errorf("counted %v\n%s", n, b.log)
		}
		// That a node which stops serves no more is no news.
		_ = b.port.Raft().Close()
		time.Sleep(time.Minute)
		if c, err = a.port.Raft().Dial(b.id, time.Second); err == nil {
			_ = c.Close()
		}
		if n := b.count("refused_total", "reason", "not_served"); n != 2 || b.log.lines() != 1 {
			t.Errorf("at the end: counted %v\n%s", n, b.log)
		}
	})
}

// The same complaint comes again after a while, and says what was left out.
func TestComplaintsAreRare(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
		b.removed.Store(a.id, true)
		for range 100 {
			if _, err := a.port.Raft().Dial(b.id, time.Second); err == nil {
				t.Fatal("welcomed")
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		for _, n := range []*node{a, b} {
			if all, said := n.log.lines(), n.log.lines("lines_omitted=29"); all != 4 || said != 3 {
				t.Errorf("%d lines, %d of them with a number:\n%s", all, said, n.log)
			}
		}
	})
}

func TestOptions(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		n := w.start("a", "10.0.0.1")
		for want, spoil := range map[string]func(o *peerrpc.Options){
			"Listener":   func(o *peerrpc.Options) { o.Listener = nil },
			"ServerID":   func(o *peerrpc.Options) { o.ServerID = "a" },
			"JoinKey":    func(o *peerrpc.Options) { o.JoinKey = nil },
			"Membership": func(o *peerrpc.Options) { o.Membership = nil },
			"Resolve":    func(o *peerrpc.Options) { o.Resolve = nil },
			"Handler":    func(o *peerrpc.Options) { o.Handler = nil },
			"Issuer":     func(o *peerrpc.Options) { o.Issuer = nil },
			"Promiser":   func(o *peerrpc.Options) { o.Promiser = nil },
			"Logger":     func(o *peerrpc.Options) { o.Logger = nil },
			"Registerer": func(o *peerrpc.Options) { o.Registerer = nil },
			"Tuning":     func(o *peerrpc.Options) { o.Tuning.CallTimeout = -1 },
		} {
			o := n.opts
			spoil(&o)
			if _, err := peerrpc.New(o); err == nil || !strings.Contains(err.Error(), "Options."+want) {
				t.Errorf("%s: %v", want, err)
			}
		}
	})
}
