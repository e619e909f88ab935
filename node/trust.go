// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto"
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

	"muster/fleet"
	"muster/httpapi"
	"muster/internal/pki"
	"muster/peerrpc"
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

	serverID string
	ca       atomic.Pointer[pki.CA]
	clients  atomic.Pointer[x509.CertPool]
	agent    pki.Holder
	web      pki.Holder
	// member is what other nodes are shown; nil while this node is no member.
	member atomic.Pointer[peerrpc.Membership]
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

// unlock makes the keys of the secret for the node with that server ID. Without
// a given secret it is the data directory's, which is made on the first start of a
// lone node; the caller holds the directory's lock.
func (t *trust) unlock(serverID string) (err error) {
	t.serverID = serverID
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
	if cfg.Cluster.several() {
		return nil, fleet.Invalid("--cluster-secret-file", "the nodes of a cluster share a secret: make one (head -c 32 /dev/urandom | base64 > FILE; chmod 600 FILE) and give every node the same file, or put it at %s", path)
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
	if m := t.member.Load(); m != nil && (m.ClusterID != clusterID || !m.CA.Equal(ca.Certificate())) {
		return fmt.Errorf("this node enrolled in cluster %s, but the state that it got is of cluster %s: move the data directory away and start again", m.ClusterID, clusterID)
	}
	t.ca.Store(ca)
	t.clients.Store(pki.Pool(append([]*x509.Certificate{ca.Certificate()}, t.stock...)...))
	return t.renew(clusterID)
}

// clusterID is that of the cluster which this node belongs to, or "".
func (t *trust) clusterID() string {
	if m := t.member.Load(); m != nil {
		return m.ClusterID
	}
	return ""
}

// renew issues what is missing or past two thirds of its life.
func (t *trust) renew(clusterID string) error {
	advertise, err := netip.ParseAddr(t.cfg.Advertise)
	if err != nil {
		return fmt.Errorf("--advertise: %w", err)
	}
	if m := t.member.Load(); m == nil || pki.NeedsRenewal(m.Certificate.Leaf, time.Now()) {
		cert, err := t.issue("other nodes", pki.NodeRequest(clusterID, t.serverID))
		if err != nil {
			return err
		}
		t.member.Store(&peerrpc.Membership{ClusterID: clusterID, CA: t.ca.Load().Certificate(), Certificate: cert})
	}
	hold := func(h *pki.Holder, what string, r pki.Request) error {
		if held, err := h.Get(); err == nil && !pki.NeedsRenewal(held.Leaf, time.Now()) {
			return nil
		}
		cert, err := t.issue(what, r)
		if err == nil {
			h.Set(cert)
		}
		return err
	}
	if t.cfg.Agents.Cert == "" {
		if err := hold(&t.agent, "agents", pki.AgentServerRequest(t.cfg.NodeID, advertise)); err != nil {
			return err
		}
	}
	if t.cfg.Listen.HTTPCert == "" {
		return hold(&t.web, "https", pki.HTTPSRequest(t.cfg.NodeID, nil, advertise))
	}
	return nil
}

// issue makes a certificate of this node's own.
func (t *trust) issue(what string, r pki.Request) (*tls.Certificate, error) {
	pair, err := t.ca.Load().IssuePair(r, time.Now())
	if err != nil {
		return nil, fmt.Errorf("issue the certificate for %s: %w", what, err)
	}
	cert, err := pair.TLS()
	if err != nil {
		return nil, err
	}
	t.log.Info("certificate issued", "for", what, "until", cert.Leaf.NotAfter)
	return cert, nil
}

// certify makes the certificate of another node.
func (t *trust) certify(serverID string, key crypto.PublicKey) (peerrpc.Issued, error) {
	ca := t.ca.Load()
	if ca == nil {
		return peerrpc.Issued{}, fmt.Errorf("this node has not got the cluster's CA itself yet: %w", fleet.ErrUnavailable)
	}
	cert, err := ca.Issue(pki.NodeRequest(t.clusterID(), serverID), key, time.Now())
	if err != nil {
		return peerrpc.Issued{}, err
	}
	return peerrpc.Issued{ClusterID: t.clusterID(), CA: ca.CertPEM(), Node: cert}, nil
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
			if err := t.renew(t.clusterID()); err != nil {
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
func (t *trust) identify(state tls.ConnectionState) (agentID string, fleetWide bool, err error) {
	return pki.PeerIdentity(state, t.clusterID())
}

// IssueFleet makes a certificate that many agents share.
func (t *trust) IssueFleet(name string) (httpapi.Bundle, error) {
	return t.bundle(pki.FleetRequest(name))
}

// IssueAgent makes a certificate that is good for one agent ID.
func (t *trust) IssueAgent(id string) (httpapi.Bundle, error) {
	return t.bundle(pki.AgentRequest(t.clusterID(), id))
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
	out := make(map[string]time.Time, 4)
	for name, h := range map[string]*pki.Holder{"agents": &t.agent, "https": &t.web} {
		if cert, err := h.Get(); err == nil {
			out[name] = cert.Leaf.NotAfter
		}
	}
	if ca := t.ca.Load(); ca != nil {
		out["ca"] = ca.Certificate().NotAfter
	}
	if m := t.member.Load(); m != nil {
		out["nodes"] = m.Certificate.Leaf.NotAfter
	}
	return out
}

// webTLS is the TLS of the HTTPS listener.
func (t *trust) webTLS() *tls.Config { return pki.WebTLS(t.web.Get) }
