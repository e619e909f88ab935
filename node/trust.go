// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"time"

	"muster/httpapi"
	"muster/internal/pki"
)

const (
	secretFile = "cluster-secret"
	caPurpose  = "cluster ca key"
	// renewEvery is how often the node looks whether its certificates are due.
	renewEvery = time.Hour
)

// trust is the node's secret, the cluster's CA and the certificates in use.
// The CA is there once open has returned; the listeners refuse before.
type trust struct {
	log    *slog.Logger
	cfg    *Config
	secret []byte
	sealer *pki.Sealer
	// stock are the certificates of --agent-client-ca.
	stock []*x509.Certificate

	clusterID string
	ca        atomic.Pointer[pki.CA]
	clients   atomic.Pointer[x509.CertPool]
	agent     pki.Holder
	web       pki.Holder
}

// authority is how the CA is kept in the replicated state.
type authority struct {
	Cert []byte `json:"cert"` // PEM
	Key  []byte `json:"key"`  // PEM, sealed with the cluster secret
}

// newTrust reads what the flags name: certificate files and the secret. It
// writes nothing; unlock has to follow.
func newTrust(cfg *Config, log *slog.Logger) (*trust, error) {
	t := &trust{log: log, cfg: cfg}
	var err error
	if t.secret, err = givenSecret(cfg.Cluster); err != nil {
		return nil, err
	}
	if file := cfg.Agents.ClientCA; file != "" {
		if t.stock, err = pki.LoadCertificates(file); err != nil {
			return nil, fmt.Errorf("--agent-client-ca: %w", err)
		}
	}
	if err := loadInto(&t.agent, "--agent-cert", cfg.Agents.Cert, cfg.Agents.Key); err != nil {
		return nil, err
	}
	return t, loadInto(&t.web, "--http-tls-cert", cfg.Listen.HTTPCert, cfg.Listen.HTTPKey)
}

func loadInto(h *pki.Holder, flag, cert, key string) error {
	if cert == "" {
		return nil
	}
	pair, err := pki.LoadPair(cert, key)
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	h.Set(pair)
	return nil
}

// givenSecret is the secret of the flags, nil if they give none.
func givenSecret(c ClusterConfig) (secret []byte, err error) {
	switch {
	case c.Secret != "":
		secret, err = pki.ParseSecret([]byte(c.Secret))
	case c.SecretFile != "":
		secret, err = pki.ReadSecret(c.SecretFile)
	}
	if err != nil {
		return nil, fmt.Errorf("--cluster-secret: %w", err)
	}
	return secret, nil
}

// unlock makes the keys of the secret. Without a given one it is the data
// directory's, which is made on the first start of a lone node; the caller holds
// the directory's lock.
func (t *trust) unlock() (err error) {
	if t.secret == nil {
		if t.secret, err = ownSecret(t.cfg, t.log); err != nil {
			return err
		}
	}
	t.sealer, err = pki.NewSealer(t.secret)
	return err
}

func ownSecret(cfg *Config, log *slog.Logger) ([]byte, error) {
	path := filepath.Join(cfg.DataDir, secretFile)
	secret, err := pki.ReadSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return secret, err
	}
	if secret, err = pki.NewSecretFile(path); err == nil {
		log.Info("cluster secret made: keep a copy, backups are useless without it", "file", path)
	}
	return secret, err
}

// newAuthority makes the CA of a new cluster, as it is replicated.
func (t *trust) newAuthority(clusterID string) ([]byte, error) {
	ca, err := pki.NewCA(clusterID, time.Now())
	if err != nil {
		return nil, err
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return nil, err
	}
	return json.Marshal(authority{Cert: ca.CertPEM(), Key: t.sealer.Seal(caPurpose, key)})
}

// open takes the CA out of the replicated state and issues the certificates
// that were not given as files.
func (t *trust) open(clusterID string, stored []byte) error {
	var a authority
	if err := json.Unmarshal(stored, &a); err != nil {
		return fmt.Errorf("read the cluster's CA: %w", err)
	}
	key, err := t.sealer.Open(caPurpose, a.Key)
	if err != nil {
		return fmt.Errorf("the cluster secret does not open this cluster's CA key: start with the secret that the cluster was founded with: %w", err)
	}
	ca, err := pki.ParseCA(a.Cert, key)
	if err != nil {
		return fmt.Errorf("read the cluster's CA: %w", err)
	}
	t.clusterID = clusterID
	t.ca.Store(ca)
	t.clients.Store(pki.Pool(append([]*x509.Certificate{ca.Certificate()}, t.stock...)...))
	return t.renew()
}

// renew issues what is missing or past two thirds of its life.
func (t *trust) renew() error {
	advertise, err := netip.ParseAddr(t.cfg.Advertise)
	if err != nil {
		return fmt.Errorf("--advertise: %w", err)
	}
	issue := func(h *pki.Holder, what string, r pki.Request) error {
		if held, err := h.Get(); err == nil && !pki.NeedsRenewal(held.Leaf, time.Now()) {
			return nil
		}
		pair, err := t.ca.Load().IssuePair(r, time.Now())
		if err != nil {
			return fmt.Errorf("issue the certificate for %s: %w", what, err)
		}
		cert, err := pair.TLS()
		if err != nil {
			return err
		}
		h.Set(cert)
		t.log.Info("certificate issued", "for", what, "until", cert.Leaf.NotAfter)
		return nil
	}
	if t.cfg.Agents.Cert == "" {
		if err := issue(&t.agent, "agents", pki.AgentServerRequest(t.cfg.NodeID, advertise)); err != nil {
			return err
		}
	}
	if t.cfg.Listen.HTTPCert == "" {
		return issue(&t.web, "https", pki.HTTPSRequest(t.cfg.NodeID, nil, advertise))
	}
	return nil
}

// Run renews certificates until ctx ends.
func (t *trust) Run(ctx context.Context) error {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := t.renew(); err != nil {
				t.log.Error("certificate not renewed, the next try is in an hour", "error", err)
			}
		}
	}
}

// agentTLS is the TLS of the port for agents.
func (t *trust) agentTLS() *tls.Config {
	return pki.ServerTLS(t.agent.Get, func() (*x509.CertPool, error) {
		if pool := t.clients.Load(); pool != nil {
			return pool, nil
		}
		return nil, errors.New("the node is starting")
	})
}

// identify tells which agent a connection may speak for.
func (t *trust) identify(state tls.ConnectionState) (agentID string, fleet bool, err error) {
	return pki.PeerIdentity(state, t.clusterID)
}

// IssueFleet makes a certificate that many agents share.
func (t *trust) IssueFleet(name string) (httpapi.Bundle, error) {
	return t.bundle(pki.FleetRequest(name))
}

// IssueAgent makes a certificate that is good for one agent ID.
func (t *trust) IssueAgent(id string) (httpapi.Bundle, error) {
	return t.bundle(pki.AgentRequest(t.clusterID, id))
}

func (t *trust) bundle(r pki.Request) (httpapi.Bundle, error) {
	ca := t.ca.Load()
	pair, err := ca.IssuePair(r, time.Now())
	if err != nil {
		return httpapi.Bundle{}, err
	}
	cert, err := pair.TLS()
	if err != nil {
		return httpapi.Bundle{}, err
	}
	return httpapi.Bundle{CA: t.trusted(), Cert: pair.CertPEM, Key: pair.KeyPEM, NotAfter: cert.Leaf.NotAfter}, nil
}

// trusted is what an agent has to trust to know this node: the cluster's CA,
// and the one of the existing files, if the node shows a certificate of those.
func (t *trust) trusted() []byte {
	out := t.ca.Load().CertPEM()
	if t.cfg.Agents.Cert == "" {
		return out
	}
	for _, cert := range t.stock {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return out
}

// ends tells when the certificates in use end.
func (t *trust) ends() map[string]time.Time {
	out := make(map[string]time.Time, 3)
	for name, h := range map[string]*pki.Holder{"agents": &t.agent, "https": &t.web} {
		if cert, err := h.Get(); err == nil {
			out[name] = cert.Leaf.NotAfter
		}
	}
	if ca := t.ca.Load(); ca != nil {
		out["ca"] = ca.Certificate().NotAfter
	}
	return out
}

// webTLS is the TLS of the HTTPS listener.
func (t *trust) webTLS() *tls.Config { return pki.WebTLS(t.web.Get) }
