// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"muster/fleet"
	"muster/internal/pki"
	"muster/peerrpc"
	"muster/peerrpc/peerrpcpb"
)

// newcomer is a node that belongs to no cluster.
func (w *world) newcomer(name, ip string, change ...func(*node)) *node {
	w.t.Helper()
	n := w.prepare(name, ip)
	for _, c := range change {
		c(n)
	}
	n.run()
	return n
}

func otherSecret(n *node) {
	key, err := pki.JoinKey([]byte("a secret of another cluster"))
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.opts.JoinKey = key
}

func TestEnrol(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.newcomer("b", "10.0.0.2")
		a.echoRaft()
		b.echoRaft()
		if _, err := b.port.Raft().Dial(a.id, time.Second); !errors.Is(err, fleet.ErrUnavailable) {
			t.Errorf("Dial without a certificate: %v", err)
		}
		m, err := b.port.Enrol(t.Context(), a.addr)
		if err != nil {
			t.Fatal(err)
		}
		if id, err := pki.NodeOf(m.Certificate.Leaf); err != nil || id != (pki.NodeIdentity{ClusterID: clusterID, Name: "b", ServerID: b.id}) {
			t.Errorf("enrolled as %+v, %v", id, err)
		}
		if m.ClusterID != clusterID || !m.CA.Equal(w.ca.Certificate()) {
			t.Errorf("enrolled in %q", m.ClusterID)
		}
		b.membership.Store(m)
		for _, pair := range [][2]*node{{a, b}, {b, a}} {
			c, err := pair[0].port.Raft().Dial(pair[1].id, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			echo(t, c, "hello")
			_ = c.Close()
		}
		again, err := b.port.Client(a.id).Renew(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if again.Certificate.Leaf.SerialNumber.Cmp(m.Certificate.Leaf.SerialNumber) == 0 ||
			again.Certificate.Leaf.URIs[0].String() != m.Certificate.Leaf.URIs[0].String() {
			t.Errorf("renewed: %v", again.Certificate.Leaf.URIs)
		}
		if n := a.count("asks_total", "what", "enrolment", "outcome", "ok") + a.count("asks_total", "what", "renewal", "outcome", "ok"); n != 2 {
			t.Errorf("%v certificates counted", n)
		}
	})
}

// With another secret nothing is had, from either side, and both say so once.
func TestWrongSecret(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.newcomer("b", "10.0.0.2", otherSecret)
		m, err := b.port.Enrol(t.Context(), a.addr)
		if m != nil || !errors.Is(err, fleet.ErrUnauthenticated) || !strings.Contains(err.Error(), "another cluster secret") ||
			!strings.Contains(err.Error(), a.addr) || strings.Contains(err.Error(), "\n") {
			t.Errorf("Enrol: %v", err)
		}
		synctest.Wait()
		if n := a.log.lines("another cluster secret", "10.0.0.2"); n != 1 {
			t.Errorf("log of a:\n%s", a.log)
		}
		if n := a.count("refused_total", "reason", "wrong_secret"); n != 1 {
			t.Errorf("counted %v times", n)
		}
		if err := b.port.AskPromise(t.Context(), a.addr, a.id, peerrpc.Candidate{ServerID: b.id, Expect: 2}); !errors.Is(err, fleet.ErrUnauthenticated) {
			t.Errorf("AskPromise: %v", err)
		}
	})
}

// Guessing is slowed down per address; who is right is never counted, and
// others do not suffer.
func TestGuessingIsThrottled(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start("a", "10.0.0.1")
		guesser := w.newcomer("g", "10.0.0.9", otherSecret)
		good := w.newcomer("b", "10.0.0.2")
		for range 30 {
			if _, err := good.port.Enrol(t.Context(), a.addr); err != nil {
				t.Fatal(err)
			}
		}
		guesses := func(n int) (heard int) {
			for range n {
				_, err := guesser.port.Enrol(t.Context(), a.addr)
				switch {
				case errors.Is(err, fleet.ErrUnauthenticated):
					heard++
				case !errors.Is(err, fleet.ErrThrottled):
					t.Fatal(err)
				}
			}
			return heard
		}
		if n := guesses(50); n != 20 {
			t.Errorf("%d guesses were heard at once", n)
		}
		time.Sleep(time.Minute)
		if n := guesses(50); n != 20 {
			t.Errorf("%d guesses were heard a minute later", n)
		}
		if _, err := good.port.Enrol(t.Context(), a.addr); err != nil {
			t.Errorf("another address: %v", err)
		}
		synctest.Wait()
		if n := a.log.lines(); n > 6 {
			t.Errorf("%d lines about 100 guesses", n)
		}
	})
}

// impostor answers as a member would, without knowing the secret: it takes any
// proof and makes its own of a wrong key, sends back the one it got, or none.
func TestImpostor(t *testing.T) {
	wrong, _ := peerrpc.Proofs([]byte("wrong"), make([]byte, 32), make([]byte, 32), make([]byte, 32))
	for name, tt := range map[string]struct {
		proof func(theirs []byte) []byte
		skip  bool // answers at once, without a challenge
	}{
		"wrong proof": {proof: func([]byte) []byte { return wrong }},
		"reflection":  {proof: func(theirs []byte) []byte { return theirs }},
		"no proof":    {proof: func([]byte) []byte { return nil }},
		"at once":     {proof: func([]byte) []byte { return nil }, skip: true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				b := w.newcomer("b", "10.0.0.2")
				serve := func(conn net.Conn) {
					cert := w.member(w.ca, pki.NodeRequest(clusterID, serverID("x"))).Certificate
					c := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"muster-join/1"}})
					defer c.Close()
					if _, err := peerrpc.ReadFrame(c); err != nil {
						t.Error(err)
					}
					var ask *peerrpcpb.Frame
					if !tt.skip {
						challenge := &peerrpcpb.Challenge{Nonce: make([]byte, 32)}
						if err := peerrpc.WriteFrame(c, &peerrpcpb.Frame{Kind: &peerrpcpb.Frame_Challenge{Challenge: challenge}}); err != nil {
							t.Error(err)
						}
						ask, _ = peerrpc.ReadFrame(c)
					}
					answer := &peerrpcpb.Answer{
						Proof: tt.proof(ask.GetAsk().GetProof()),
						What:  &peerrpcpb.Answer_Promised{Promised: &peerrpcpb.Promised{Granted: true}},
					}
					_ = peerrpc.WriteFrame(c, &peerrpcpb.Frame{Kind: &peerrpcpb.Frame_Answer{Answer: answer}})
				}
				addr := w.listen("10.0.0.66", serve)
				err := b.port.AskPromise(t.Context(), addr, serverID("x"), peerrpc.Candidate{ServerID: b.id, Expect: 2})
				if !errors.Is(err, fleet.ErrUnauthenticated) || !strings.Contains(err.Error(), "could not prove") {
					t.Errorf("AskPromise: %v", err)
				}
			})
		})
	}
}

// Whoever relays a conversation between two TLS connections of its own gets
// nothing: the proofs are bound to the connection.
func TestRelay(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.newcomer("b", "10.0.0.2")
		cert := w.member(w.ca, pki.NodeRequest(clusterID, serverID("x"))).Certificate
		addr := w.listen("10.0.0.66", func(conn net.Conn) {
			in := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"muster-join/1"}})
			defer in.Close()
			raw, err := w.net.Host("10.0.0.66").DialContext(context.Background(), "tcp", a.addr)
			if err != nil {
				t.Error(err)
				return
			}
			out := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"muster-join/1"}})
			w.wg.Go(func() {
				_, _ = io.Copy(out, in)
				_ = out.Close()
			})
			_, _ = io.Copy(in, out)
		})
		if _, err := b.port.Enrol(t.Context(), addr); !errors.Is(err, fleet.ErrUnauthenticated) {
			t.Errorf("Enrol over a relay: %v", err)
		}
		if n := a.count("asks_total"); n != 0 {
			t.Errorf("%v certificates were asked for", n)
		}
	})
}

// listen serves one connection.
func (w *world) listen(ip string, serve func(net.Conn)) (addr string) {
	w.t.Helper()
	l, err := w.net.Host(ip).Listen("tcp", ":6760")
	if err != nil {
		w.t.Fatal(err)
	}
	w.wg.Go(func() {
		defer l.Close()
		if c, err := l.Accept(); err == nil {
			serve(c)
		}
	})
	return l.Addr().String()
}

type issuerFunc func(id string, key crypto.PublicKey) (peerrpc.Issued, error)

func (f issuerFunc) IssueNode(_ context.Context, id string, key crypto.PublicKey) (peerrpc.Issued, error) {
	return f(id, key)
}

// What an Issuer says no to, and answers that cannot be right.
func TestEnrolRefused(t *testing.T) {
	issue := func(w *world, ca *pki.CA, r pki.Request, key crypto.PublicKey) peerrpc.Issued {
		cert, err := ca.Issue(r, key, time.Now())
		if err != nil {
			w.t.Error(err)
		}
		return peerrpc.Issued{ClusterID: clusterID, CA: w.ca.CertPEM(), Node: cert}
	}
	for name, tt := range map[string]struct {
		issue func(w *world, id string, key crypto.PublicKey) (peerrpc.Issued, error)
		is    error
		text  string
	}{
		"not now": {func(*world, string, crypto.PublicKey) (peerrpc.Issued, error) {
			return peerrpc.Issued{}, errors.New("the CA is not there yet")
		}, fleet.ErrUnavailable, "the CA is not there yet"},
		"never": {func(*world, string, crypto.PublicKey) (peerrpc.Issued, error) {
			return peerrpc.Issued{}, fleet.Refuse(fleet.CodeConflict, "another live node is called b")
		}, fleet.ErrForbidden, "another live node is called b"},
		"another node's": {func(w *world, _ string, key crypto.PublicKey) (peerrpc.Issued, error) {
			return issue(w, w.ca, pki.NodeRequest(clusterID, serverID("z")), key), nil
		}, nil, `is for node "z~0a1b2c3d"`},
		"another key": {func(w *world, id string, _ crypto.PublicKey) (peerrpc.Issued, error) {
			return issue(w, w.ca, pki.NodeRequest(clusterID, id), w.ca.Certificate().PublicKey), nil
		}, nil, "another key"},
		"another CA": {func(w *world, id string, key crypto.PublicKey) (peerrpc.Issued, error) {
			ca, err := pki.NewCA(clusterID, time.Now())
			return issue(w, ca, pki.NodeRequest(clusterID, id), key), err
		}, nil, "unknown authority"},
		"no certificate": {func(*world, string, crypto.PublicKey) (peerrpc.Issued, error) {
			return peerrpc.Issued{ClusterID: clusterID}, nil
		}, nil, "CA certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a := w.start("a", "10.0.0.1", func(n *node) {
					n.opts.Issuer = issuerFunc(func(id string, key crypto.PublicKey) (peerrpc.Issued, error) { return tt.issue(w, id, key) })
				})
				b := w.newcomer("b", "10.0.0.2")
				_, err := b.port.Enrol(t.Context(), a.addr)
				if err == nil || !strings.Contains(err.Error(), tt.text) || (tt.is != nil && !errors.Is(err, tt.is)) {
					t.Errorf("Enrol: %v", err)
				}
			})
		})
	}
}

// Renewing never changes whom the node trusts.
func TestRenewRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		other, err := pki.NewCA(clusterID, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		a := w.start("a", "10.0.0.1", func(n *node) {
			n.opts.Issuer = issuerFunc(func(id string, key crypto.PublicKey) (peerrpc.Issued, error) {
				cert, err := other.Issue(pki.NodeRequest(clusterID, id), key, time.Now())
				return peerrpc.Issued{ClusterID: clusterID, CA: other.CertPEM(), Node: cert}, err
			})
		})
		b := w.start("b", "10.0.0.2")
		if m, err := b.port.Client(a.id).Renew(t.Context()); err == nil || !strings.Contains(err.Error(), "another CA") {
			t.Errorf("Renew = %v, %v", m, err)
		}
		b.membership.Store(nil)
		if _, err := b.port.Client(a.id).Renew(t.Context()); !errors.Is(err, fleet.ErrUnavailable) {
			t.Errorf("not a member: %v", err)
		}
	})
}

func TestEnrolOfRemovedAndCopiedNodes(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.newcomer("b", "10.0.0.2")
		a.removed.Store(b.id, true)
		if _, err := b.port.Enrol(t.Context(), a.addr); !errors.Is(err, fleet.ErrForbidden) || !strings.Contains(err.Error(), "was removed") {
			t.Errorf("removed: %v", err)
		}
		copied := w.newcomer("a", "10.0.0.3")
		defer copied.stop()
		w.nodes["first a"] = a
		if _, err := copied.port.Enrol(t.Context(), a.addr); !errors.Is(err, fleet.ErrForbidden) || !strings.Contains(err.Error(), "copies of one data directory") {
			t.Errorf("copied: %v", err)
		}
	})
}

// A node that does not answer costs no more than a deadline.
func TestEnrolEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		b := w.newcomer("b", "10.0.0.2")
		for name, serve := range map[string]func(net.Conn){
			"10.0.0.61": func(c net.Conn) { _, _ = io.Copy(io.Discard, c); _ = c.Close() },
			"10.0.0.62": func(c net.Conn) { _ = c.Close() },
			"10.0.0.63": func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.6\r\n"); _ = c.Close() },
		} {
			addr := w.listen(name, serve)
			start := time.Now()
			if _, err := b.port.Enrol(t.Context(), addr); !errors.Is(err, fleet.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("%s: took %v", name, took)
			}
		}
		if _, err := b.port.Enrol(t.Context(), "10.0.0.2:1"); !errors.Is(err, fleet.ErrUnavailable) {
			t.Errorf("nobody there: %v", err)
		}
	})
}

// A later release may ask what this one does not know.
func TestUnknownQuestion(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start("a", "10.0.0.1")
		raw, err := w.net.Host("10.0.0.9").DialContext(t.Context(), "tcp", a.addr)
		if err != nil {
			t.Fatal(err)
		}
		c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"muster-join/1"}})
		defer c.Close()
		nonce := make([]byte, 32)
		say := func(f *peerrpcpb.Frame) *peerrpcpb.Frame {
			if err := peerrpc.WriteFrame(c, f); err != nil {
				t.Fatal(err)
			}
			answer, err := peerrpc.ReadFrame(c)
			if err != nil {
				t.Fatal(err)
			}
			return answer
		}
		challenge := say(&peerrpcpb.Frame{Kind: &peerrpcpb.Frame_Hello{Hello: &peerrpcpb.Hello{Nonce: nonce}}}).GetChallenge()
		state := c.ConnectionState()
		exported, err := state.ExportKeyingMaterial("EXPORTER-muster-join", nil, 32)
		if err != nil {
			t.Fatal(err)
		}
		ask, answer := peerrpc.Proofs(a.opts.JoinKey, exported, nonce, challenge.GetNonce())
		got := say(&peerrpcpb.Frame{Kind: &peerrpcpb.Frame_Ask{Ask: &peerrpcpb.Ask{Proof: ask}}}).GetAnswer()
		want := &peerrpcpb.Answer{Proof: answer, What: &peerrpcpb.Answer_Refused{Refused: &peerrpcpb.Refused{
			Reason: peerrpcpb.Reason_REASON_NEVER, Why: "this release does not know the question: upgrade this node first",
		}}}
		if !proto.Equal(got, want) {
			t.Errorf("answer: %v", got)
		}
	})
}
