// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package pki_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"muster/internal/pki"
)

func TestAnyNodeSurvivesTheCertificate(t *testing.T) {
	ca := newCA(t)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[!-~]{1,128}`).Draw(t, "name")
		want := pki.NodeIdentity{ClusterID: clusterID, Name: name, ServerID: name + "~0a1b2c3d"}
		pair, err := ca.IssuePair(pki.NodeRequest(clusterID, want.ServerID), testNow)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := pair.TLS()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := pki.NodeOf(cert.Leaf); err != nil || got != want {
			t.Fatalf("NodeOf = %+v, %v; want %+v", got, err, want)
		}
	})
}

func TestNodeName(t *testing.T) {
	for id, want := range map[string]string{
		"n1~0a1b2c3d":                          "n1",
		"a~b~00000000":                         "a~b",
		"n1":                                   "",
		"~0a1b2c3d":                            "",
		"n1~0A1B2C3D":                          "",
		"n1~0a1b2c3":                           "",
		"n 1~0a1b2c3d":                         "",
		strings.Repeat("n", 128) + "~0a1b2c3d": strings.Repeat("n", 128),
		strings.Repeat("n", 129) + "~0a1b2c3d": "",
	} {
		if got, err := pki.NodeName(id); got != want || (err == nil) != (want != "") {
			t.Errorf("NodeName(%q) = %q, %v", id, got, err)
		}
	}
}

func TestVerifyNode(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	node := issue(t, ca, pki.NodeRequest(clusterID, "n1~0a1b2c3d"))
	for name, tt := range map[string]struct {
		cert  *x509.Certificate
		roots *x509.CertPool
		after time.Duration
		want  string // in the error
	}{
		"good":            {cert: node, roots: pki.Pool(ca.Certificate())},
		"another CA":      {cert: node, roots: pki.Pool(other.Certificate()), want: "unknown authority"},
		"no roots":        {cert: node, want: "no authority"},
		"expired":         {cert: node, roots: pki.Pool(ca.Certificate()), after: 100 * 24 * time.Hour, want: "expired"},
		"an agent":        {cert: issue(t, ca, pki.AgentRequest(clusterID, "a1")), roots: pki.Pool(ca.Certificate()), want: "is not a node's"},
		"a fleet":         {cert: issue(t, ca, pki.FleetRequest("f")), roots: pki.Pool(ca.Certificate()), want: "0 URI names"},
		"no server ID":    {cert: issue(t, ca, pki.NodeRequest(clusterID, "n1")), roots: pki.Pool(ca.Certificate()), want: "8 hexadecimal"},
		"an agent's port": {cert: issue(t, ca, pki.AgentServerRequest("n1")), roots: pki.Pool(ca.Certificate()), want: "incompatible key usage"},
	} {
		id, err := pki.VerifyNode([]*x509.Certificate{tt.cert}, x509.VerifyOptions{
			Roots: tt.roots, CurrentTime: testNow.Add(tt.after), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		switch {
		case tt.want == "" && (err != nil || id.ServerID != "n1~0a1b2c3d"):
			t.Errorf("%s: %+v, %v", name, id, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
