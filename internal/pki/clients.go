// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"sync"
	"time"
)

// maxKnownClients bounds what is remembered, at some 100 bytes each. Beyond, any
// one is forgotten, and verified again when it comes.
const maxKnownClients = 4096

// clients verifies certificates of clients against one set of authorities, as
// package tls does it by itself. The agents of a fleet may all present the same
// certificate: that its authority has signed it is checked once, when it is valid
// at each handshake. That a client has the key is none of this: package tls makes
// it prove that each time.
type clients struct {
	authorities *x509.CertPool

	mu    sync.RWMutex
	known map[[sha256.Size]byte]validity
}

// validity is when all certificates of a chain are valid.
type validity struct{ from, to time.Time }

func (v validity) holds(now time.Time) bool { return !now.Before(v.from) && !now.After(v.to) }

func newClients(authorities *x509.CertPool) *clients {
	return &clients{authorities: authorities, known: make(map[[sha256.Size]byte]validity)}
}

// verify checks what a client has presented, its own certificate first. Only a
// certificate that comes alone is remembered: with others beside it, one good
// certificate could be made to look like many.
func (c *clients) verify(certs []*x509.Certificate, now time.Time) error {
	if len(certs) == 0 { // package tls has refused it before
		return errors.New("no client certificate")
	}
	leaf := certs[0]
	key := sha256.Sum256(leaf.Raw)
	c.mu.RLock()
	known, ok := c.known[key]
	c.mu.RUnlock()
	if ok && len(certs) == 1 && known.holds(now) {
		return nil
	}
	opts := x509.VerifyOptions{
		Roots:         c.authorities,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, cert := range certs[1:] {
		opts.Intermediates.AddCert(cert)
	}
	chains, err := leaf.Verify(opts)
	if err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: certs, Err: err}
	}
	if len(certs) == 1 {
		c.remember(key, validityOf(chains[0]))
	}
	return nil
}

func (c *clients) remember(key [sha256.Size]byte, v validity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for other := range c.known {
		if len(c.known) < maxKnownClients {
			break
		}
		delete(c.known, other)
	}
	c.known[key] = v
}

func validityOf(chain []*x509.Certificate) validity {
	v := validity{from: chain[0].NotBefore, to: chain[0].NotAfter}
	for _, cert := range chain[1:] {
		v.from, v.to = later(v.from, cert.NotBefore), earlier(v.to, cert.NotAfter)
	}
	return v
}
