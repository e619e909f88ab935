// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"muster/fleet"
)

// TestWhoIs: a node learns who listens at an address, a member or not, and does
// not wait for one that is silent.
func TestWhoIs(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
		outsider := w.prepare("c", "10.0.0.3")
		outsider.run()
		silent, err := w.net.Host("10.0.0.4").Listen("tcp", "10.0.0.4:6760")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		w.wg.Go(func() {
			if c, err := silent.Accept(); err == nil {
				_, _ = io.Copy(io.Discard, c)
			}
		})
		for _, asking := range []*node{a, outsider} {
			for addr, want := range map[string]string{a.addr: a.id, b.addr: b.id, outsider.addr: ""} {
				if got, err := asking.port.WhoIs(t.Context(), addr); err != nil || got != want {
					t.Errorf("%s asks who is at %s: %q, %v; want %q", asking.id, addr, got, err, want)
				}
			}
		}
		if _, err := a.port.WhoIs(t.Context(), "10.0.0.9:6760"); !errors.Is(err, fleet.ErrUnavailable) {
			t.Errorf("nobody there: %v", err)
		}
		began := time.Now()
		if got, err := a.port.WhoIs(t.Context(), "10.0.0.4:6760"); got != "" || err != nil || time.Since(began) > 6*time.Second {
			t.Errorf("a silent one: %q, %v after %s", got, err, time.Since(began))
		}
	})
}
