// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Holder is the certificate that a listener presents now. Setting another one
// takes effect at the next handshake. The zero value holds none; it is safe for
// concurrent use.
type Holder struct {
	cert atomic.Pointer[tls.Certificate]
}

// Set replaces the certificate, which must not be changed afterwards.
func (h *Holder) Set(cert *tls.Certificate) { h.cert.Store(cert) }

// Get returns the certificate; it fails while there is none.
func (h *Holder) Get() (*tls.Certificate, error) {
	cert := h.cert.Load()
	if cert == nil {
		return nil, errors.New("no server certificate yet")
	}
	return cert, nil
}

// ServerTLS returns the settings of the port for agents: TLS 1.2 or later, HTTP/2,
// and a client certificate that one of the authorities signed. Both functions
// are called at each handshake, so they should answer from memory, and a change of
// the authorities comes as another pool. Who the client is, PeerIdentity tells.
func ServerTLS(certificate func() (*tls.Certificate, error), clientCAs func() (*x509.CertPool, error)) *tls.Config {
	config := baseTLS(certificate, "h2")
	config.CipherSuites = http2Ciphers()
	config.ClientAuth = tls.RequireAnyClientCert // VerifyConnection verifies it
	config.VerifyConnection = func(tls.ConnectionState) error { return errors.New("no client authorities yet") }
	// Without resumption each connection proves itself against the authorities
	// of now; agents do not resume anyway.
	config.SessionTicketsDisabled = true
	// Every connection keeps its settings: they share those of the present authorities.
	var latest atomic.Pointer[tls.Config]
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pool, err := clientCAs()
		if err != nil {
			return nil, fmt.Errorf("client authorities: %w", err)
		}
		if pool == nil { // package tls would take the system's authorities
			return nil, errors.New("no client authorities yet")
		}
		if current := latest.Load(); current != nil && current.ClientCAs == pool {
			return current, nil
		}
		current := config.Clone()
		current.GetConfigForClient = nil
		current.ClientCAs = pool // whose names clients are told
		verifier := newClients(pool)
		current.VerifyConnection = func(state tls.ConnectionState) error {
			return verifier.verify(state.PeerCertificates, timeOf(config))
		}
		latest.Store(current)
		return current, nil
	}
	return config
}

func timeOf(config *tls.Config) time.Time {
	if config.Time != nil {
		return config.Time()
	}
	return time.Now()
}

// WebTLS returns the settings of the HTTPS listener: TLS 1.2 or later, HTTP/2 and
// HTTP/1.1, no client certificates.
func WebTLS(certificate func() (*tls.Certificate, error)) *tls.Config {
	return baseTLS(certificate, "h2", "http/1.1")
}

// ClientTLS returns the settings of an agent that presents cert (nil: none) and
// trusts roots to name the server, StockServerName for stock agents.
func ClientTLS(cert *tls.Certificate, roots *x509.CertPool, serverName string) *tls.Config {
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    roots,
		ServerName: serverName,
	}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	return config
}

func baseTLS(certificate func() (*tls.Certificate, error), protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return certificate()
		},
	}
}

// http2Ciphers are those of TLS 1.2 that RFC 9113, appendix A, does not forbid and
// package tls calls secure.
func http2Ciphers() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
}

// PeerIdentity tells who the client of a connection made with ServerTLS is: the agent that
// its certificate names, or, when it names nobody, any agent of the fleet
// (fleet is true and agentID empty). A node's certificate is refused, and so is
// one of another cluster.
func PeerIdentity(state tls.ConnectionState, clusterID string) (agentID string, fleet bool, err error) {
	if !state.HandshakeComplete || len(state.PeerCertificates) == 0 {
		return "", false, errors.New("no verified client certificate")
	}
	leaf := state.PeerCertificates[0]
	switch len(leaf.URIs) {
	case 0:
		return "", true, nil
	case 1:
	default:
		return "", false, fmt.Errorf("the client certificate has %d URI names, want one", len(leaf.URIs))
	}
	uri := leaf.URIs[0]
	kind, id, err := parseIdentity(uri)
	switch {
	case err != nil:
		return "", false, fmt.Errorf("client certificate: %w", err)
	case uri.Host != clusterID:
		return "", false, fmt.Errorf("the client certificate is of cluster %q", uri.Host)
	case kind != agentPrefix:
		return "", false, fmt.Errorf("the client certificate %q is not an agent's", uri)
	}
	return id, false, nil
}
