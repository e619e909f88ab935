// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/internal/pki"
)

// A node that takes connections and says nothing costs a deadline, before the
// TLS handshake and after it.
func TestDialEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start("a", "10.0.0.1")
		cert := w.member(w.ca, pki.NodeRequest(clusterID, serverID("b"))).Certificate
		a.moved.Store(serverID("b"), w.listen("10.0.0.61", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }))
		a.moved.Store(serverID("c"), w.listen("10.0.0.62", func(c net.Conn) {
			_, _ = io.Copy(io.Discard, tls.Server(c, &tls.Config{
				Certificates: []tls.Certificate{*cert}, NextProtos: []string{"muster-raft/1"}, ClientAuth: tls.RequireAnyClientCert,
			}))
		}))
		for _, name := range []string{"b", "c"} {
			start := time.Now()
			if _, err := a.port.Raft().Dial(serverID(name), 2*time.Second); err == nil {
				t.Errorf("%s: connected", name)
			}
			if took := time.Since(start); took != 2*time.Second {
				t.Errorf("%s: took %v", name, took)
			}
		}
	})
}

func TestRunEndsWhileDialling(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start("a", "10.0.0.1")
		cert := w.member(w.ca, pki.NodeRequest(clusterID, serverID("b"))).Certificate
		a.moved.Store(serverID("b"), w.listen("10.0.0.62", func(c net.Conn) {
			_, _ = io.Copy(io.Discard, tls.Server(c, &tls.Config{
				Certificates: []tls.Certificate{*cert}, NextProtos: []string{"muster-peer/1"}, ClientAuth: tls.RequireAnyClientCert,
			}))
		}))
		w.wg.Go(func() {
			if _, err := a.port.Client(serverID("b")).NodeState(context.Background()); !errors.Is(err, fleet.ErrUnavailable) {
				t.Errorf("a call that the end cut short: %v", err)
			}
		})
		synctest.Wait()
		start := time.Now()
		a.stop()
		<-a.done
		w.wg.Wait()
		if took := time.Since(start); took > time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// Connections end with the membership that opened them.
func TestSweep(t *testing.T) {
	for name, end := range map[string]func(a, b *node){
		"removed": func(a, b *node) { b.removed.Store(a.id, true) },
		"expired": func(*node, *node) { time.Sleep(30 * time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
				b.echoRaft()
				r := pki.NodeRequest(clusterID, a.id)
				r.Lifetime = time.Hour
				a.membership.Store(w.member(w.ca, r))
				c, err := a.port.Raft().Dial(b.id, time.Second)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(30 * time.Minute)
				echo(t, c, "hello")
				end(a, b)
				start := time.Now()
				if _, err := c.Read(make([]byte, 1)); err == nil || time.Since(start) > time.Minute {
					t.Errorf("open after %v: %v", time.Since(start), err)
				}
				_ = c.Close()
			})
		})
	}
}
