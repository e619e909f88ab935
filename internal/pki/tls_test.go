// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"muster/internal/memnet"
	"muster/internal/pki"
)

// verified is what a connection looks like after the certificate was checked.
func verified(leaf *x509.Certificate) tls.ConnectionState {
	return tls.ConnectionState{
		HandshakeComplete: true,
		PeerCertificates:  []*x509.Certificate{leaf},
	}
}

// handshake connects a client to a server at the given time and returns the
// server's view and the error of each side.
func handshake(t *testing.T, server, client *tls.Config, now time.Time) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	n := memnet.New()
	l, err := n.Host("10.0.0.1").Listen("tcp", ":1")
	if err != nil {
		t.Fatal(err)
	}
	server.Time = func() time.Time { return now }
	client.Time = server.Time
	var wg sync.WaitGroup
	wg.Go(func() {
		raw, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		conn := tls.Server(raw, server)
		defer func() { _ = conn.Close() }()
		if serverErr = conn.HandshakeContext(t.Context()); serverErr != nil {
			return
		}
		state = conn.ConnectionState()
		_, serverErr = conn.Write([]byte{1})
	})
	raw, err := n.Host("10.0.0.2").DialContext(t.Context(), "tcp", "10.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, client)
	if clientErr = conn.HandshakeContext(t.Context()); clientErr == nil {
		_, clientErr = io.ReadFull(conn, make([]byte, 1)) // TLS 1.3 tells of a refusal here
	}
	_ = conn.Close()
	wg.Wait()
	return state, serverErr, clientErr
}

func pairOf(t *testing.T, ca *pki.CA, r pki.Request) *tls.Certificate {
	t.Helper()
	pair, err := ca.IssuePair(r, testNow)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func holding(cert *tls.Certificate) *pki.Holder {
	h := &pki.Holder{}
	h.Set(cert)
	return h
}

func trusting(certs ...*x509.Certificate) func() (*x509.CertPool, error) {
	pool := pki.Pool(certs...)
	return func() (*x509.CertPool, error) { return pool, nil }
}

func TestStockFilesWork(t *testing.T) {
	stockCA, err := pki.LoadCertificates("testdata/stock-ca.crt")
	if err != nil {
		t.Fatal(err)
	}
	serverCert, err := pki.LoadPair("testdata/stock-server.crt", "testdata/stock-server.key")
	if err != nil {
		t.Fatal(err)
	}
	clientCert, err := pki.LoadPair("testdata/stock-client.crt", "testdata/stock-client.key")
	if err != nil {
		t.Fatal(err)
	}
	if v := stockCA[0].Version; v != 1 {
		t.Fatalf("the fixture's CA has version %d", v)
	}
	now := stockCA[0].NotBefore.AddDate(1, 0, 0)
	clusterCA, err := pki.NewCA(clusterID, now)
	if err != nil {
		t.Fatal(err)
	}
	server := pki.ServerTLS(holding(serverCert).Get, trusting(clusterCA.Certificate(), stockCA[0]))
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		client := pki.ClientTLS(clientCert, pki.Pool(stockCA...), pki.StockServerName)
		client.NextProtos = []string{"h2"}
		client.MaxVersion = version
		state, serverErr, clientErr := handshake(t, server, client, now)
		if serverErr != nil || clientErr != nil {
			t.Fatalf("%s: server %v, client %v", tls.VersionName(version), serverErr, clientErr)
		}
		if state.NegotiatedProtocol != "h2" || state.Version != version {
			t.Errorf("protocol %q, %s", state.NegotiatedProtocol, tls.VersionName(state.Version))
		}
		if id, fleet, err := pki.PeerIdentity(state, clusterID); id != "" || !fleet || err != nil {
			t.Errorf("PeerIdentity = %q, %v, %v; want a fleet certificate", id, fleet, err)
		}
	}
	// The same client without the stock CA among the authorities.
	strict := pki.ServerTLS(holding(serverCert).Get, trusting(clusterCA.Certificate()))
	client := pki.ClientTLS(clientCert, pki.Pool(stockCA...), pki.StockServerName)
	if _, serverErr, clientErr := handshake(t, strict, client, now); serverErr == nil || clientErr == nil {
		t.Errorf("a client of an unknown CA: server %v, client %v", serverErr, clientErr)
	}
}

// An agent that holds a stock certificate, version 1 as its CA's, must not be
// able to make certificates for other agents with it.
func TestAStockClientIsNoAuthority(t *testing.T) {
	stockCA, err := pki.LoadCertificates("testdata/stock-ca.crt")
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := pki.LoadPair("testdata/stock-client.crt", "testdata/stock-client.key")
	if err != nil {
		t.Fatal(err)
	}
	now := stockCA[0].NotBefore.AddDate(1, 0, 0)
	clusterCA, err := pki.NewCA(clusterID, now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := clusterCA.IssuePair(pki.AgentServerRequest("n1"), now)
	if err != nil {
		t.Fatal(err)
	}
	serverCert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(9), NotBefore: now.AddDate(0, 0, -1), NotAfter: now.AddDate(0, 0, 1),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := x509.CreateCertificate(rand.Reader, template, stolen.Leaf, key.Public(), stolen.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	server := pki.ServerTLS(holding(serverCert).Get, trusting(clusterCA.Certificate(), stockCA[0]))
	client := pki.ClientTLS(&tls.Certificate{Certificate: [][]byte{forged, stolen.Certificate[0]}, PrivateKey: key},
		pki.Pool(clusterCA.Certificate()), pki.StockServerName)
	_, serverErr, clientErr := handshake(t, server, client, now)
	if serverErr == nil || clientErr == nil || !strings.Contains(serverErr.Error(), "not authorized to sign") {
		t.Fatalf("server %v, client %v", serverErr, clientErr)
	}
}

func TestWhoMayConnect(t *testing.T) {
	ca, foreign := newCA(t), newCA(t)
	server := pki.ServerTLS(holding(pairOf(t, ca, pki.AgentServerRequest("n1"))).Get, trusting(ca.Certificate()))
	for name, tt := range map[string]struct {
		cert   *tls.Certificate
		change func(*tls.Config)
		refuse string // a part of the server's error
	}{
		"agent":       {cert: pairOf(t, ca, pki.AgentRequest(clusterID, "a1"))},
		"fleet":       {cert: pairOf(t, ca, pki.FleetRequest("f"))},
		"foreign CA":  {cert: pairOf(t, foreign, pki.AgentRequest(clusterID, "a1")), refuse: "unknown authority"},
		"server cert": {cert: pairOf(t, ca, pki.AgentServerRequest("n1")), refuse: "key usage"},
		"no cert":     {refuse: "didn't provide a certificate"},
		"TLS 1.1": {
			cert: pairOf(t, ca, pki.FleetRequest("f")),
			change: func(c *tls.Config) {
				c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 //nolint:gosec // an old client
			},
			refuse: "unsupported versions",
		},
		"other protocol": {
			cert:   pairOf(t, ca, pki.FleetRequest("f")),
			change: func(c *tls.Config) { c.NextProtos = []string{"spdy/3"} },
			refuse: "unsupported application protocols",
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := pki.ClientTLS(tt.cert, pki.Pool(ca.Certificate()), pki.StockServerName)
			if tt.change != nil {
				tt.change(client)
			}
			_, serverErr, clientErr := handshake(t, server, client, testNow)
			if tt.refuse == "" { // and again, now that the certificate is known
				_, again, clientAgain := handshake(t, server, client, testNow)
				serverErr, clientErr = errors.Join(serverErr, again), errors.Join(clientErr, clientAgain)
			}
			switch {
			case tt.refuse == "" && (serverErr != nil || clientErr != nil):
				t.Errorf("server %v, client %v", serverErr, clientErr)
			case tt.refuse != "" && (serverErr == nil || clientErr == nil || !strings.Contains(serverErr.Error(), tt.refuse)):
				t.Errorf("server %v, client %v; want a refusal: %s", serverErr, clientErr, tt.refuse)
			}
		})
	}
}

func TestCertificatesAndAuthoritiesRotateWithoutRestart(t *testing.T) {
	first, second := newCA(t), newCA(t)
	holder := &pki.Holder{}
	var pool *x509.CertPool
	server := pki.ServerTLS(holder.Get, func() (*x509.CertPool, error) { return pool, nil })
	connect := func(ca *pki.CA) error {
		client := pki.ClientTLS(pairOf(t, ca, pki.FleetRequest("f")), pki.Pool(ca.Certificate()), pki.StockServerName)
		_, serverErr, clientErr := handshake(t, server, client, testNow)
		return errors.Join(serverErr, clientErr)
	}
	if err := connect(first); err == nil || !strings.Contains(err.Error(), "no client authorities yet") {
		t.Fatalf("before there is a CA: %v", err)
	}
	pool = pki.Pool(first.Certificate())
	if err := connect(first); err == nil || !strings.Contains(err.Error(), "no server certificate yet") {
		t.Fatalf("before there is a certificate: %v", err)
	}
	for _, ca := range []*pki.CA{first, second} {
		pool = pki.Pool(ca.Certificate())
		holder.Set(pairOf(t, ca, pki.AgentServerRequest("n1")))
		if err := connect(ca); err != nil {
			t.Fatal(err)
		}
	}
	if err := connect(first); err == nil {
		t.Fatal("the old authority is still trusted")
	}
}

// A certificate that was verified before is not good for ever.
func TestAKnownCertificateIsJudgedAtEachHandshake(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	pool := pki.Pool(ca.Certificate())
	server := pki.ServerTLS(holding(pairOf(t, ca, pki.AgentServerRequest("n1"))).Get, func() (*x509.CertPool, error) { return pool, nil })
	cert := pairOf(t, ca, pki.FleetRequest("f"))
	thief := *cert
	thief.PrivateKey = pairOf(t, ca, pki.FleetRequest("f")).PrivateKey
	for _, step := range []struct {
		name   string
		cert   *tls.Certificate
		now    time.Time
		trust  *pki.CA
		refuse string // a part of the server's error
	}{
		{"at first", cert, testNow, ca, ""},
		{"known", cert, testNow, ca, ""},
		{"at its last moment", cert, cert.Leaf.NotAfter, ca, ""},
		{"expired", cert, cert.Leaf.NotAfter.Add(time.Second), ca, "expired"},
		{"not yet valid", cert, cert.Leaf.NotBefore.Add(-time.Second), ca, "not yet valid"},
		{"valid again", cert, testNow, ca, ""},
		{"without its key", &thief, testNow, ca, "invalid signature"},
		{"authority gone", cert, testNow, other, "unknown authority"},
		{"authority back", cert, testNow, ca, ""},
	} {
		if step.trust != ca {
			pool = pki.Pool(step.trust.Certificate())
		} else {
			pool = pki.Pool(ca.Certificate())
		}
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			client := pki.ClientTLS(step.cert, nil, pki.StockServerName)
			client.InsecureSkipVerify = true //nolint:gosec // the server is under test, at times that its own certificate is not for
			client.MaxVersion = version
			client.NextProtos = []string{"h2"}
			_, serverErr, clientErr := handshake(t, server, client, step.now)
			switch {
			case step.refuse == "" && (serverErr != nil || clientErr != nil):
				t.Errorf("%s, %s: server %v, client %v", step.name, tls.VersionName(version), serverErr, clientErr)
			case step.refuse != "" && (serverErr == nil || clientErr == nil || !strings.Contains(serverErr.Error(), step.refuse)):
				t.Errorf("%s, %s: server %v, client %v; want a refusal: %s", step.name, tls.VersionName(version), serverErr, clientErr, step.refuse)
			}
		}
	}
}

// Settings that lost the function that tells the authorities let nobody in.
func TestServerTLSWithoutAuthoritiesRefuses(t *testing.T) {
	ca := newCA(t)
	server := pki.ServerTLS(holding(pairOf(t, ca, pki.AgentServerRequest("n1"))).Get, trusting(ca.Certificate()))
	server.GetConfigForClient = nil
	client := pki.ClientTLS(pairOf(t, ca, pki.FleetRequest("f")), pki.Pool(ca.Certificate()), pki.StockServerName)
	if _, serverErr, clientErr := handshake(t, server, client, testNow); serverErr == nil || clientErr == nil {
		t.Errorf("server %v, client %v", serverErr, clientErr)
	}
}

func TestWebTLSNeedsNoClientCertificate(t *testing.T) {
	ca := newCA(t)
	server := pki.WebTLS(holding(pairOf(t, ca, pki.HTTPSRequest("n1", nil))).Get)
	client := pki.ClientTLS(nil, pki.Pool(ca.Certificate()), "localhost")
	client.NextProtos = []string{"http/1.1"}
	state, serverErr, clientErr := handshake(t, server, client, testNow)
	if serverErr != nil || clientErr != nil || state.NegotiatedProtocol != "http/1.1" {
		t.Fatalf("server %v, client %v, protocol %q", serverErr, clientErr, state.NegotiatedProtocol)
	}
	if _, _, err := pki.PeerIdentity(state, clusterID); err == nil {
		t.Fatal("an identity without a certificate")
	}
}

func TestPeerIdentityRefuses(t *testing.T) {
	for name, uris := range map[string][]string{
		"another cluster": {"muster://other/agent/a"},
		"a node":          {"muster://" + clusterID + "/node/a"},
		"two names":       {"muster://" + clusterID + "/agent/a", "muster://" + clusterID + "/agent/b"},
		"no ID":           {"muster://" + clusterID + "/agent/"},
		"another scheme":  {"spiffe://" + clusterID + "/agent/a"},
		"a query":         {"muster://" + clusterID + "/agent/a?b"},
		"another path":    {"muster://" + clusterID + "/admin/a"},
		"bytes beyond":    {"muster://" + clusterID + "/agent/a%00"},
	} {
		leaf := &x509.Certificate{}
		for _, s := range uris {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			leaf.URIs = append(leaf.URIs, u)
		}
		if id, fleet, err := pki.PeerIdentity(verified(leaf), clusterID); err == nil || id != "" || fleet {
			t.Errorf("%s: %q, %v, %v", name, id, fleet, err)
		}
	}
}
