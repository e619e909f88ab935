// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
	"muster/internal/pki"
)

// Membership is what a node shows to other members, and what it believes.
type Membership struct {
	ClusterID   string
	CA          *x509.Certificate
	Certificate *tls.Certificate // with its leaf and its private key
}

// Handler answers what other members ask. Its methods may return a
// *NotLeaderError, a *fleet.Refusal, and errors that wrap fleet.ErrUnavailable
// or fleet.ErrTimeout: the asking side gets the same. PeerFrom tells who asks.
type Handler interface {
	// Propose puts an entry into the log and returns its answer and index. The
	// same entry may come twice.
	Propose(ctx context.Context, entry []byte) (answer []byte, index uint64, err error)
	// ReadIndex returns the index that a linearizable read must have applied.
	ReadIndex(ctx context.Context) (uint64, error)
	// NodeState tells how far this node's state is.
	NodeState(ctx context.Context) (fleet.NodeState, error)
}

// Issuer makes certificates for nodes.
type Issuer interface {
	// IssueNode signs a certificate for the node and returns it and the CA's, both
	// PEM. The asking node has proved that it knows the secret or, to renew, that
	// it is this node. A *fleet.Refusal means never, another error not now; its
	// text is shown on the asking node.
	IssueNode(ctx context.Context, serverID string, key crypto.PublicKey) (Issued, error)
}

// Issued is a node's new certificate and the authority, both PEM.
type Issued struct {
	ClusterID string
	CA, Node  []byte
}

// Promiser decides who may found the cluster; Promises is the one to use.
type Promiser interface {
	// Promise returns nil once the promise to the candidate is on disk, and a
	// *fleet.Refusal with the reason when it is not given.
	Promise(ctx context.Context, c Candidate) error
}

// Options are what New needs. Every field must be set unless its comment says
// otherwise.
type Options struct {
	// Listener is bound already; Run closes it.
	Listener net.Listener
	// Dial defaults to that of package net.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// ServerID is this node's, NAME~8 hex digits.
	ServerID string
	// JoinKey is pki.JoinKey of the cluster secret.
	JoinKey []byte
	// Membership returns nil while this node belongs to no cluster. It is called
	// at each handshake, so it should answer from memory.
	Membership func() *Membership
	// Resolve returns the present HOST:PORT of a node's port, or "" if it is unknown.
	Resolve func(serverID string) string
	// Removed tells whether a server was removed from the cluster on purpose; it
	// is refused then, although its certificate is still good. May be nil.
	Removed func(serverID string) bool

	Handler  Handler
	Issuer   Issuer
	Promiser Promiser
	// Agents and Awaits answer about the agents whose streams this node holds; nil
	// where it never holds any.
	Agents AgentHandler
	Awaits Awaits

	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Tuning is for tests; its zero value is right for others.
	Tuning Tuning
}

// Tuning holds limits that seldom change; zero fields get their default.
type Tuning struct {
	// HandshakeTimeout bounds TLS and the greeting; default 5 s.
	HandshakeTimeout time.Duration
	// Handshakes and HandshakesPerHost bound how many are under way; joining
	// counts until its answer is sent. Defaults 64 and 16.
	Handshakes, HandshakesPerHost int
	// CallTimeout bounds calls to other nodes whose context does not end sooner;
	// default 10 s.
	CallTimeout time.Duration
	// Pipes bounds how many connections of other nodes with this one's embedded
	// broker are open, 64 KiB each; a node has one for each partition and one
	// more. Default 1024.
	Pipes int
	// IdleTimeout closes the connection to a peer that is not called; default 5 min.
	IdleTimeout time.Duration
	// SweepInterval is how often connections are looked through for certificates
	// that have ended and peers that are gone; default 30 s.
	SweepInterval time.Duration
}

func (t *Tuning) setDefaults() {
	setDefault(&t.HandshakeTimeout, 5*time.Second)
	setDefault(&t.Handshakes, 64)
	setDefault(&t.HandshakesPerHost, 16)
	setDefault(&t.CallTimeout, 10*time.Second)
	setDefault(&t.Pipes, 1024)
	setDefault(&t.IdleTimeout, 5*time.Minute)
	setDefault(&t.SweepInterval, 30*time.Second)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (o *Options) validate() error {
	missing := func(field string) error { return fmt.Errorf("peerrpc: Options.%s is missing", field) }
	switch {
	case o.Listener == nil:
		return missing("Listener")
	case len(o.JoinKey) == 0:
		return missing("JoinKey")
	case o.Membership == nil:
		return missing("Membership")
	case o.Resolve == nil:
		return missing("Resolve")
	case o.Handler == nil:
		return missing("Handler")
	case o.Issuer == nil:
		return missing("Issuer")
	case o.Promiser == nil:
		return missing("Promiser")
	case o.Logger == nil:
		return missing("Logger")
	case o.Registerer == nil:
		return missing("Registerer")
	}
	if _, err := pki.NodeName(o.ServerID); err != nil {
		return fmt.Errorf("peerrpc: Options.ServerID: %w", err)
	}
	t := o.Tuning
	if min(t.HandshakeTimeout, t.CallTimeout, t.IdleTimeout, t.SweepInterval) < 0 || min(t.Handshakes, t.HandshakesPerHost, t.Pipes) < 0 {
		return fmt.Errorf("peerrpc: Options.Tuning has a negative field")
	}
	return nil
}
