// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package pki_test

import (
	"crypto/x509"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"muster/internal/pki"
)

const clusterID = "c1-0123456789abcdef"

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newCA(t testing.TB) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(clusterID, testNow)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t testing.TB, ca *pki.CA, r pki.Request) *x509.Certificate {
	t.Helper()
	pair, err := ca.IssuePair(r, testNow)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf
}

func verify(cert *x509.Certificate, ca *pki.CA, usage x509.ExtKeyUsage, name string, now time.Time) error {
	_, err := cert.Verify(x509.VerifyOptions{
		Roots: pki.Pool(ca.Certificate()), KeyUsages: []x509.ExtKeyUsage{usage}, DNSName: name, CurrentTime: now,
	})
	return err
}

func TestAuthority(t *testing.T) {
	ca := newCA(t)
	cert := ca.Certificate()
	if !cert.IsCA || !cert.BasicConstraintsValid || !cert.MaxPathLenZero || cert.Version != 3 {
		t.Errorf("constraints: %+v", cert)
	}
	if cert.KeyUsage&x509.KeyUsageCertSign == 0 || len(cert.SubjectKeyId) == 0 {
		t.Errorf("usage %b, key ID %x", cert.KeyUsage, cert.SubjectKeyId)
	}
	if years := cert.NotAfter.Sub(testNow).Hours() / 24 / 365; years != 10 {
		t.Errorf("valid for %v years", years)
	}
	keyPEM, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := pki.ParseCA(ca.CertPEM(), keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(issue(t, again, pki.FleetRequest("a")), ca, x509.ExtKeyUsageClientAuth, "", testNow); err != nil {
		t.Errorf("issued by the parsed CA: %v", err)
	}
	otherKey, err := newCA(t).KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.ParseCA(ca.CertPEM(), otherKey); err == nil || !strings.Contains(err.Error(), "is not that of") {
		t.Errorf("a foreign key: %v", err)
	}
	for _, id := range []string{"", "UPPER", "a b", "a/b", "-a", strings.Repeat("a", 64)} {
		if _, err := pki.NewCA(id, testNow); err == nil {
			t.Errorf("cluster ID %q was accepted", id)
		}
	}
}

func TestWhatEachCertificateIsGoodFor(t *testing.T) {
	ca := newCA(t)
	ip := netip.MustParseAddr("192.0.2.7")
	for name, tt := range map[string]struct {
		request        pki.Request
		server, client bool
		names          []string
		uri            string
	}{
		"agent port": {
			pki.AgentServerRequest("node1", ip), true, false,
			[]string{"elkeid.com", "node1", "192.0.2.7", "127.0.0.1", "::1", "localhost"},
			"",
		},
		"odd node name":    {pki.AgentServerRequest("Node One_é", ip), true, false, []string{"elkeid.com", "192.0.2.7"}, ""},
		"node named by IP": {pki.AgentServerRequest("192.0.2.8"), true, false, []string{"elkeid.com", "192.0.2.8"}, ""},
		"https": {
			pki.HTTPSRequest("node1", []string{"muster.example.org", "192.0.2.9"}, ip), true, false,
			[]string{"node1", "muster.example.org", "192.0.2.9", "192.0.2.7", "localhost"},
			"",
		},
		"agent": {pki.AgentRequest(clusterID, "agent-1"), false, true, nil, "muster://" + clusterID + "/agent/agent-1"},
		"fleet": {pki.FleetRequest("stock"), false, true, nil, ""},
		"node":  {pki.NodeRequest(clusterID, "n1~0a0b0c0d"), true, true, nil, "muster://" + clusterID + "/node/n1~0a0b0c0d"},
	} {
		t.Run(name, func(t *testing.T) {
			cert := issue(t, ca, tt.request)
			if got := verify(cert, ca, x509.ExtKeyUsageServerAuth, "", testNow) == nil; got != tt.server {
				t.Errorf("good for servers: %v", got)
			}
			if got := verify(cert, ca, x509.ExtKeyUsageClientAuth, "", testNow) == nil; got != tt.client {
				t.Errorf("good for clients: %v", got)
			}
			for _, n := range tt.names {
				if err := verify(cert, ca, x509.ExtKeyUsageServerAuth, n, testNow); err != nil {
					t.Errorf("as %s: %v", n, err)
				}
			}
			var uris []string
			for _, u := range cert.URIs {
				uris = append(uris, u.String())
			}
			if got := strings.Join(uris, " "); got != tt.uri {
				t.Errorf("URI = %q, want %q", got, tt.uri)
			}
			if cert.IsCA || cert.SerialNumber.Sign() <= 0 || cert.SerialNumber.BitLen() < 64 || cert.SerialNumber.BitLen() > 129 {
				t.Errorf("IsCA %v, serial %v", cert.IsCA, cert.SerialNumber)
			}
		})
	}
}

func TestLifetimes(t *testing.T) {
	ca := newCA(t)
	r := pki.FleetRequest("short")
	r.Lifetime = 2 * 24 * time.Hour
	cert := issue(t, ca, r) // valid from a day ago to two days ahead
	for _, tt := range []struct {
		after time.Duration
		want  bool
	}{{0, false}, {24*time.Hour - time.Second, false}, {24 * time.Hour, true}, {100 * time.Hour, true}} {
		if got := pki.NeedsRenewal(cert, testNow.Add(tt.after)); got != tt.want {
			t.Errorf("NeedsRenewal after %v = %v", tt.after, got)
		}
	}
	r.Lifetime = 100 * 365 * 24 * time.Hour
	if cert := issue(t, ca, r); !cert.NotAfter.Equal(ca.Certificate().NotAfter) {
		t.Errorf("outlives its CA: %v", cert.NotAfter)
	}
	if _, err := ca.IssuePair(r, ca.Certificate().NotAfter); err == nil {
		t.Error("an expired CA issued a certificate")
	}
}

func TestRefusedRequests(t *testing.T) {
	ca := newCA(t)
	noUse := pki.FleetRequest("a")
	noUse.Client = false
	noLife := pki.FleetRequest("a")
	noLife.Lifetime = 0
	for name, r := range map[string]pki.Request{
		"empty":             {},
		"no use":            noUse,
		"no life":           noLife,
		"empty agent ID":    pki.AgentRequest(clusterID, ""),
		"long agent ID":     pki.AgentRequest(clusterID, strings.Repeat("a", 129)),
		"agent ID no ASCII": pki.AgentRequest(clusterID, "é"),
		"space":             pki.AgentRequest(clusterID, "a b"),
		"cluster ID":        pki.AgentRequest("a b", "a"),
	} {
		if _, err := ca.IssuePair(r, testNow); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestAnyAgentIDSurvivesTheCertificate(t *testing.T) {
	ca := newCA(t)
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringMatching(`[!-~]{1,128}`).Draw(t, "id")
		pair, err := ca.IssuePair(pki.AgentRequest(clusterID, id), testNow)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := pair.TLS()
		if err != nil {
			t.Fatal(err)
		}
		got, fleet, err := pki.PeerIdentity(verified(cert.Leaf), clusterID)
		if err != nil || fleet || got != id {
			t.Fatalf("PeerIdentity = %q, %v, %v; want %q", got, fleet, err, id)
		}
	})
}

func TestParseErrors(t *testing.T) {
	if _, err := pki.ParseCertificates([]byte("nothing")); err == nil {
		t.Error("no PEM: accepted")
	}
	if _, err := pki.LoadCertificates("testdata/none.crt"); err == nil || !strings.Contains(err.Error(), "none.crt") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := pki.LoadPair("testdata/stock-server.crt", "testdata/stock-client.key"); err == nil ||
		!strings.Contains(err.Error(), "stock-client.key") {
		t.Errorf("mixed pair: %v", err)
	}
	if _, err := pki.ParseCA(newCA(t).CertPEM(), nil); err == nil {
		t.Error("no key: accepted")
	}
}

const (
	goldenGossipKey = "2ce8c6b19248a4928a0c9c018b913927ff9091bb090efc199232688fe2ecd72b"
	goldenJoinKey   = "e97c0d55a4e4cea1ebc18d5e414c11192e1b3ecda8e23f72528088fadf18a9c4"
	goldenSealed    = "01205f88d3b8ea1cedae29fbdc5cb48c6b158205723be4f499e154d68fb62543fa5fcbf3"
)

// The answers were computed by another HKDF. They freeze: data at rest and
// running clusters depend on them.
func TestDerivedKeysNeverChange(t *testing.T) {
	secret := []byte("correct horse battery staple")
	key, err := pki.GossipKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(key); got != goldenGossipKey {
		t.Errorf("gossip key = %s", got)
	}
	if key, err = pki.JoinKey(secret); err != nil || hex.EncodeToString(key) != goldenJoinKey {
		t.Errorf("join key = %x, %v", key, err)
	}
	sealer, err := pki.NewSealer(secret)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := hex.DecodeString(goldenSealed)
	if err != nil {
		t.Fatal(err)
	}
	clear, err := sealer.Open("ca key", sealed)
	if err != nil || string(clear) != "the key" {
		t.Errorf("sealed by the first release: %q, %v", clear, err)
	}
}

func TestSealing(t *testing.T) {
	sealer, err := pki.NewSealer([]byte("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		purpose := rapid.String().Draw(t, "purpose")
		clear := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "clear")
		sealed := sealer.Seal(purpose, clear)
		if slices.Equal(sealed, sealer.Seal(purpose, clear)) {
			t.Fatal("sealing twice gave the same bytes")
		}
		got, err := sealer.Open(purpose, sealed)
		if err != nil || !slices.Equal(got, clear) {
			t.Fatalf("Open = %q, %v", got, err)
		}
		if _, err := sealer.Open(purpose+"x", sealed); err == nil {
			t.Fatal("opened for another purpose")
		}
		i := rapid.IntRange(0, len(sealed)-1).Draw(t, "byte")
		sealed[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := sealer.Open(purpose, sealed); err == nil {
			t.Fatal("a flipped bit was not noticed")
		}
		if _, err := sealer.Open(purpose, sealed[:i]); err == nil {
			t.Fatal("a cut end was not noticed")
		}
	})
	if _, err := pki.NewSealer([]byte("short")); err == nil {
		t.Error("a short secret was accepted")
	}
	other, err := pki.NewSealer([]byte("0123456789abcdeF"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open("a", sealer.Seal("a", nil)); err == nil {
		t.Error("opened with another secret")
	}
}
