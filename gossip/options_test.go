// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"muster/fleet"
	"muster/gossip"
	"muster/internal/memnet"
)

func goodOptions() gossip.Options {
	return gossip.Options{
		Self:     fleet.Member{NodeID: "n1"},
		Key:      testKey(),
		BindAddr: "127.0.0.1:0",
		Load:     func() fleet.Load { return fleet.Load{Ready: true, Limit: 10} },
		Logger:   slog.New(slog.DiscardHandler),
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for want, change := range map[string]func(*gossip.Options){
		"Key":       func(o *gossip.Options) { o.Key = o.Key[:31] },
		"BindAddr":  func(o *gossip.Options) { o.BindAddr = "" },
		"Load":      func(o *gossip.Options) { o.Load = nil },
		"Logger":    func(o *gossip.Options) { o.Logger = nil },
		"Profile":   func(o *gossip.Options) { o.Profile = "moon" },
		"Join":      func(o *gossip.Options) { o.Join = []string{"10.0.0.1"} },
		"Self":      func(o *gossip.Options) { o.Self.Zone = strings.Repeat("z", 300) },
		"Advertise": func(o *gossip.Options) { o.BindAddr = "0.0.0.0:0" },
		"Packets": func(o *gossip.Options) {
			o.Listener, _ = memnet.New().Host("10.0.0.1").Listen("tcp", ":1")
		},
	} {
		opts := goodOptions()
		change(&opts)
		if _, err := gossip.New(opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestAPortInUseIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	opts := goodOptions()
	opts.BindAddr = l.Addr().String()
	if _, err := gossip.New(opts); err == nil || !strings.Contains(err.Error(), opts.BindAddr) ||
		!strings.Contains(err.Error(), "in use") {
		t.Fatalf("New = %v", err)
	}
}

func TestWhatIsAdvertised(t *testing.T) {
	opts := goodOptions()
	opts.BindAddr = "0.0.0.0:0"
	opts.Advertise = netip.MustParseAddrPort("192.0.2.1:0")
	g, err := gossip.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	if got := g.Addr(); got.Addr() != opts.Advertise.Addr() || got.Port() == 0 {
		t.Errorf("Addr = %v", got)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	opts = goodOptions()
	opts.BindAddr = g.Addr().String() // not this machine's
	if _, err := gossip.New(opts); err == nil {
		t.Error("bound to a foreign address")
	}
}

// Two nodes on real sockets; the second one is told a name to join.
func TestRealSockets(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	run := func(change func(*gossip.Options)) *gossip.Mesh {
		opts := goodOptions()
		change(&opts)
		g, err := gossip.New(opts)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := g.Run(ctx); err != nil {
				t.Errorf("Run = %v", err)
			}
		})
		return g
	}
	one := run(func(*gossip.Options) {})
	changes, unsubscribe := one.Subscribe()
	defer unsubscribe()
	two := run(func(o *gossip.Options) {
		o.Self.NodeID = "n2"
		o.Join = []string{fmt.Sprintf("seed.example:%d", one.Addr().Port())}
		o.Resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
			if host != "seed.example" {
				return nil, errors.New("unknown name")
			}
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		}
	})
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-changes:
		case <-tick.C:
		case <-deadline:
			t.Fatalf("n1 sees %+v, n2 sees %+v", one.Members(), two.Members())
		}
		if len(one.Pick(0)) == 2 && len(two.Pick(0)) == 2 {
			return
		}
	}
}

func TestASeedWithoutAddressIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		startNode(t, n, 1)
		var mu sync.Mutex
		calls := 0
		two := startNode(t, n, 2, func(o *gossip.Options) {
			o.Join = []string{"seed.example:7946"}
			o.Resolve = func(context.Context, string) ([]netip.Addr, error) {
				mu.Lock()
				defer mu.Unlock()
				if calls++; calls < 4 {
					return nil, errors.New("no such name yet")
				}
				return []netip.Addr{netip.MustParseAddr(ip(1))}, nil
			}
		})
		await(t, 20*time.Second, "n2 joined", func() bool { return two.alive() == 2 })
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		reg := prometheus.NewRegistry()
		one := startNode(t, n, 1, func(o *gossip.Options) { o.Registerer = reg })
		startNode(t, n, 2)
		if _, err := one.Register(service("svc", 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Second)
		const want = `
# HELP muster_gossip_members Live nodes that this one knows, itself included.
# TYPE muster_gossip_members gauge
muster_gossip_members 2
# HELP muster_gossip_services Registrations of other services, those that ended in the last minutes included.
# TYPE muster_gossip_services gauge
muster_gossip_services 1
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "muster_gossip_members", "muster_gossip_services"); err != nil {
			t.Error(err)
		}
		problems, err := testutil.GatherAndLint(reg)
		if err != nil || len(problems) > 0 {
			t.Errorf("%v, %v", problems, err)
		}
	})
}
