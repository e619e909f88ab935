// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// An address is refused for 30 s after it was last added, and no longer.
func TestRefusalsExpire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r refusals
		now := time.Unix(1_700_000_000, 0)
		last := make(map[netip.Addr]time.Time)
		addr := func() netip.Addr {
			return netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 20).Draw(t, "host"))})
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(*rapid.T) {
				a := addr()
				r.add(a, now)
				last[a] = now
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 40_000).Draw(t, "ms")) * time.Millisecond)
			},
			"ask": func(t *rapid.T) {
				a := addr()
				added, ok := last[a]
				want := ok && now.Before(added.Add(refusalTime))
				if got := r.holds(a, now); got != want {
					t.Fatalf("%v at %v is refused: %v, want %v", a, now, got, want)
				}
			},
			"": func(t *rapid.T) {
				r.holds(netip.Addr{}, now)
				held := 0
				for _, added := range last {
					if now.Before(added.Add(refusalTime)) {
						held++
					}
				}
				if got := r.count(); got != held {
					t.Fatalf("%d addresses are held, want %d", got, held)
				}
				if held == 0 && r.queue != nil {
					t.Fatal("memory is kept for no address")
				}
			},
		})
	})
}

// Beyond the bound the oldest go; addresses that come again and again do not
// count twice for ever.
func TestRefusalsAreBounded(t *testing.T) {
	var r refusals
	now := time.Unix(1_700_000_000, 0)
	nth := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	const more = 1000
	for i := range maxRefusals + more {
		r.add(nth(i), now)
	}
	if got := r.count(); got != maxRefusals {
		t.Errorf("%d addresses are held, want %d", got, maxRefusals)
	}
	if r.holds(nth(more-1), now) || !r.holds(nth(more), now) || !r.holds(nth(maxRefusals+more-1), now) {
		t.Error("not the oldest have gone")
	}
	for range 3 * maxRefusals {
		r.add(nth(0), now)
	}
	if n := len(r.queue); n > 2*maxRefusals || r.count() != 1 || !r.holds(nth(0), now) {
		t.Errorf("one address again and again: queue of %d, %d held", n, r.count())
	}
	if r.holds(nth(0), now.Add(refusalTime)) || r.queue != nil {
		t.Error("the memory of old refusals is kept")
	}
	r.add(netip.Addr{}, now)
	if r.count() != 0 {
		t.Error("an agent without an address is refused")
	}
}

// However an address is written, it is one.
func TestPlainIP(t *testing.T) {
	want := netip.MustParseAddr("10.1.2.3")
	if got := remoteIP(&net.TCPAddr{IP: net.ParseIP("::ffff:10.1.2.3"), Port: 7}); got != want {
		t.Errorf("of a mapped address: %v", got)
	}
	for _, addr := range []string{"10.1.2.3:7", "[::ffff:10.1.2.3]:7"} {
		if got := (&peerInfo{addr: addr}).ip(); got != want {
			t.Errorf("of %s: %v", addr, got)
		}
	}
	if got, want := (&peerInfo{addr: "[fe80::1%eth0]:7"}).ip(), remoteIP(&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "2"}); got != want {
		t.Errorf("of an address with a zone: %v, want %v", got, want)
	}
	if remoteIP(&net.UnixAddr{}).IsValid() || (&peerInfo{addr: "@"}).ip().IsValid() {
		t.Error("an address that is none became one")
	}
}
