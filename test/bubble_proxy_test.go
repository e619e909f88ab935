// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"muster/internal/apiv1"
	"muster/internal/grpccodec"
	"muster/node"
	"muster/test/bubble"
)

// balancerIP is the host of a balancer that the nodes believe, strangerIP that of
// one which they do not.
const (
	balancerIP = "10.0.3.1"
	strangerIP = "10.0.4.1"
	sdAddr     = bubble.NodeIP + ":8088"
)

// behindBalancers switches the PROXY protocol on.
func behindBalancers(c *node.Config) {
	c.Proxy = node.ProxyConfig{Agent: true, SD: true, From: []string{"10.0.3.0/24", "2001:db8:3::/64"}}
}

// proxyHeader is what a balancer sends before the bytes of a client; of a health
// check, if there is none.
func proxyHeader(client netip.AddrPort) []byte {
	b := []byte("\r\n\r\n\x00\r\nQUIT\n")
	if !client.IsValid() {
		return append(b, 0x20, 0, 0, 0)
	}
	to := netip.MustParseAddr(bubble.NodeIP)
	family := byte(0x11)
	if client.Addr().Is6() {
		family, to = 0x21, netip.MustParseAddr("2001:db8::1")
	}
	addrs := append(client.Addr().AsSlice(), to.AsSlice()...)
	addrs = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(addrs, client.Port()), 6751)
	addrs = append(addrs, 0x05, 0, 3, 'x', 'y', 'z') // a unique ID, as an extension
	return append(binary.BigEndian.AppendUint16(append(b, 0x21, family), uint16(len(addrs))), addrs...)
}

// through dials the node from a host and begins with these bytes.
func through(w *bubble.Node, from string, first []byte) func(ctx context.Context, addr string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := w.Net.Host(from).DialContext(ctx, "tcp", addr)
		if err == nil {
			_, err = conn.Write(first)
		}
		return conn, err
	}
}

// openThrough opens an agent's stream over such a connection.
func openThrough(w *bubble.Node, id, from string, first []byte) *bubble.Agent {
	w.T.Helper()
	grpccodec.Register()
	conn, err := grpc.NewClient("passthrough:///"+bubble.AgentAddr,
		grpc.WithTransportCredentials(credentials.NewTLS(w.FleetTLS())), grpc.WithContextDialer(through(w, from, first)))
	if err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(func() { _ = conn.Close() })
	return w.OpenOn(conn, id)
}

// refusedHeaders reads the counter of a listener.
func refusedHeaders(w *bubble.Node, listener string) float64 {
	return w.Metric(`muster_node_proxy_headers_refused_total{listener="` + listener + `"}`)
}

// Behind a balancer an agent is the host that it is on, whoever connects.
func TestBubbleAgentsBehindABalancer(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		agents := map[string]*bubble.Agent{
			"203.0.113.9:40000":     openThrough(w, "v4", balancerIP, proxyHeader(netip.MustParseAddrPort("203.0.113.9:40000"))),
			"[2001:db8:7::9]:40001": openThrough(w, "v6", balancerIP, proxyHeader(netip.MustParseAddrPort("[2001:db8:7::9]:40001"))),
			bubble.AgentIP + ":":    w.Open("direct"),
			"198.51.100.200:65535":  openThrough(w, "last-port", balancerIP, proxyHeader(netip.MustParseAddrPort("198.51.100.200:65535"))),
			strangerIP + ":":        openThrough(w, "stranger", strangerIP, nil),
			"203.0.113.9:40002":     openThrough(w, "same-host", balancerIP, proxyHeader(netip.MustParseAddrPort("203.0.113.9:40002"))),
		}
		for from, a := range agents {
			a.Beat()
			var doc apiv1.Agent
			w.Eventually(time.Second, "the session is shown", func() error {
				w.V1(http.MethodGet, "/v1/agents/"+a.Says.GetAgentId(), nil, &doc)
				if doc.Session == nil || !strings.HasPrefix(doc.Session.RemoteAddr, from) {
					return fmt.Errorf("from %s: %+v", from, doc.Session)
				}
				return nil
			})
		}
		if n := refusedHeaders(w, "agent"); n != 0 {
			t.Errorf("%v headers were refused", n)
		}
	}, behindBalancers)
}

// A header is needed from a balancer and means nothing from anybody else.
func TestBubbleHeadersOfAgentsAreJudged(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		header := proxyHeader(netip.MustParseAddrPort("203.0.113.9:40000"))
		for name, c := range map[string]struct {
			from    string
			first   []byte
			counted float64
		}{
			"a stranger claims an address":    {strangerIP, header, 0},
			"a balancer sends none":           {balancerIP, nil, 1},
			"a balancer sends version 1":      {balancerIP, []byte("PROXY TCP4 203.0.113.9 10.0.0.1 40000 6751\r\n"), 1},
			"a balancer stops in the middle":  {balancerIP, header[:14], 1},
			"a balancer only looks, with TLS": {balancerIP, proxyHeader(netip.AddrPort{}), 0},
		} {
			before, handshakes := refusedHeaders(w, "agent"), w.Metric(`muster_agentrpc_refused_total{reason="handshake"}`)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			conn, err := through(w, c.from, c.first)(ctx, bubble.AgentAddr)
			if err != nil {
				t.Fatal(err)
			}
			if len(c.first) != 14 {
				_, _ = conn.Write([]byte("\x16\x03\x01\x00\x05hello"))
			}
			began := time.Now()
			_, _ = io.Copy(io.Discard, conn) // to its end
			passed := time.Since(began)
			_ = conn.Close()
			cancel()
			w.Pass(time.Second)
			if got := refusedHeaders(w, "agent") - before; got != c.counted || passed > 5*time.Second {
				t.Errorf("%s: counted %v, want %v; open for %s", name, got, c.counted, passed)
			}
			failed := w.Metric(`muster_agentrpc_refused_total{reason="handshake"}`) - handshakes
			if wantFailed := c.from == strangerIP; (failed > 0) != wantFailed {
				t.Errorf("%s: %v handshakes failed", name, failed)
			}
		}
		if log := w.Log.Tail(1 << 20); !strings.Contains(log, "send-proxy-v2") || !strings.Contains(log, "balancer="+balancerIP) {
			t.Error("the log does not say what to do")
		}
	}, behindBalancers)
}

// get asks the port of service discovery.
func get(w *bubble.Node, from string, first []byte, path string) (string, error) {
	w.T.Helper()
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return through(w, from, first)(ctx, addr)
		},
	}}
	res, err := client.Get("http://" + sdAddr + path)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return fmt.Sprintf("%d %s", res.StatusCode, body), err
}

// Service discovery, health and metrics answer agents behind a balancer, the
// balancer itself, and those who come straight.
func TestBubbleDiscoveryBehindABalancer(t *testing.T) {
	bubble.Run(t, func(t *testing.T, w *bubble.Node) {
		header := proxyHeader(netip.MustParseAddrPort("203.0.113.9:40000"))
		for _, path := range []string{"/registry/detail?name=hids_svr_grpc&count=10", "/readyz", "/metrics"} {
			for from, first := range map[string][]byte{balancerIP: header, strangerIP: nil} {
				if answer, err := get(w, from, first, path); err != nil || !strings.HasPrefix(answer, "200 ") {
					t.Errorf("%s from %s: %.200s, %v", path, from, answer, err)
				}
			}
			if answer, err := get(w, balancerIP, proxyHeader(netip.AddrPort{}), path); err != nil || !strings.HasPrefix(answer, "200 ") {
				t.Errorf("%s as a health check: %.200s, %v", path, answer, err)
			}
			before := refusedHeaders(w, "sd")
			if answer, err := get(w, balancerIP, nil, path); err == nil {
				t.Errorf("%s without a header: %.200s", path, answer)
			}
			if n := refusedHeaders(w, "sd") - before; n != 1 {
				t.Errorf("%s without a header: counted %v", path, n)
			}
			if answer, _ := get(w, strangerIP, header, path); strings.HasPrefix(answer, "200 ") {
				t.Errorf("%s with a stranger's header: %.200s", path, answer)
			}
		}
		// A slow balancer holds nobody up.
		slow, err := through(w, balancerIP, header[:10])(t.Context(), sdAddr)
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Close()
		began := time.Now()
		if answer, err := get(w, balancerIP, header, "/readyz"); err != nil || time.Since(began) > time.Second {
			t.Errorf("behind a slow header: %s, %v after %s", answer, err, time.Since(began))
		}
	}, behindBalancers)
}
