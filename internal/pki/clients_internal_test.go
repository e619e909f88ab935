// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"
)

// authority makes certificates that pki.CA would not.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// sign makes a certificate; by is nil for one that signs itself.
func sign(t *testing.T, by *authority, isCA bool, from, to time.Time) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to, IsCA: isCA, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	template.Subject.CommonName = to.String()
	parent := &authority{cert: template, key: key}
	if by != nil {
		parent = by
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key}
}

// What an authority signed is good while the authority is, too.
func TestAKnownCertificateEndsWithItsAuthority(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	root := sign(t, nil, true, now.AddDate(0, 0, -1), now.AddDate(0, 1, 0))
	leaf := sign(t, root, false, now.AddDate(0, 0, -2), now.AddDate(1, 0, 0))
	c := newClients(Pool(root.cert))
	for at, good := range map[time.Time]bool{
		now: true, root.cert.NotAfter: true, root.cert.NotAfter.Add(time.Second): false,
		root.cert.NotBefore: true, root.cert.NotBefore.Add(-time.Second): false,
	} {
		if err := c.verify([]*x509.Certificate{leaf.cert}, now); err != nil || len(c.known) != 1 {
			t.Fatal(err, len(c.known))
		}
		if err := c.verify([]*x509.Certificate{leaf.cert}, at); (err == nil) != good {
			t.Errorf("at %s: %v", at, err)
		}
	}
}

// A certificate that is only good with another one beside it is refused alone.
func TestACertificateThatNeedsAnotherIsNotRemembered(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	root := sign(t, nil, true, now.AddDate(0, 0, -1), now.AddDate(3, 0, 0))
	middle := sign(t, root, true, now.AddDate(0, 0, -1), now.AddDate(2, 0, 0))
	leaf := sign(t, middle, false, now.AddDate(0, 0, -1), now.AddDate(1, 0, 0))
	c := newClients(Pool(root.cert))
	for range 2 {
		if err := c.verify([]*x509.Certificate{leaf.cert, middle.cert}, now); err != nil {
			t.Fatal(err)
		}
		if err := c.verify([]*x509.Certificate{leaf.cert}, now); err == nil || !strings.Contains(err.Error(), "unknown authority") {
			t.Fatal(err)
		}
	}
	if err := c.verify(nil, now); err == nil || len(c.known) != 0 {
		t.Fatal(err, len(c.known))
	}
}

func TestKnownCertificatesAreBounded(t *testing.T) {
	c := newClients(x509.NewCertPool())
	now := time.Now()
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for i := range maxKnownClients / 2 {
				key := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(part<<32+i))) //nolint:gosec // small
				c.remember(key, validity{now, now})
			}
		})
	}
	wg.Wait()
	if len(c.known) != maxKnownClients {
		t.Errorf("%d, want %d", len(c.known), maxKnownClients)
	}
}
