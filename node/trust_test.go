// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"muster/internal/pki"
)

// TestBundleTrustsExistingFiles: a node that shows a certificate of the existing
// Elkeid files tells new agents to trust their CA too.
func TestBundleTrustsExistingFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	stock, err := pki.NewCA("stock", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := stock.IssuePair(pki.AgentServerRequest("old"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cfg := valid(dir)
	cfg.Cluster.Secret = "a secret of the test, long enough"
	cfg.Agents.ClientCA = file("ca.crt", stock.CertPEM())
	cfg.Agents.Cert, cfg.Agents.Key = file("server.crt", pair.CertPEM), file("server.key", pair.KeyPEM)
	if err := cfg.validate(); err != nil {
		t.Fatal(err)
	}
	tr, err := newTrust(&cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.unlock("n1~00000001"); err != nil {
		t.Fatal(err)
	}
	stored, err := tr.newAuthority("c1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.open("c1", stored); err != nil {
		t.Fatal(err)
	}
	bundle, err := tr.IssueFleet("f")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle.CA)
	shown, err := tr.agent.Get()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shown.Leaf.Verify(x509.VerifyOptions{DNSName: pki.StockServerName, Roots: roots}); err != nil {
		t.Errorf("the bundle's CA does not verify the node: %v", err)
	}

	cfg.Cluster.Secret = "another secret, long enough too"
	other, err := newTrust(&cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := other.unlock("n1~00000001"); err != nil {
		t.Fatal(err)
	}
	if err := other.open("c1", stored); err == nil || !strings.Contains(err.Error(), "start with the secret") {
		t.Errorf("another secret: %v", err)
	}
}
