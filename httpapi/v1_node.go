// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"time"

	"muster/internal/apiv1"
)

// Native is what only the native API asks a node for.
type Native struct {
	// Report is asked at each GET /v1/status; it must not block. It is required.
	Report func() NodeReport
	// AgentCertificates issues certificates for agents; nil on a node that
	// cannot, which answers so.
	AgentCertificates AgentCertificates
}

// NodeReport is what a node says about itself beside its Health, its sessions
// and its part in the replicated store.
type NodeReport struct {
	StartedAt time.Time
	// AgentLimit is the most streams that the node takes.
	AgentLimit   int
	Records      apiv1.Ledger
	Kafka        apiv1.Kafka
	Certificates []apiv1.Certificate
	Listeners    []apiv1.Listener
}

// AgentCertificates issues the certificates with which agents connect.
type AgentCertificates interface {
	// IssueFleet makes one that is good for any agent ID.
	IssueFleet(name string) (Bundle, error)
	// IssueAgent makes one that is good for that agent alone.
	IssueAgent(id string) (Bundle, error)
}

// Bundle is what an agent needs to connect, as PEM.
type Bundle struct {
	CA, Cert, Key []byte
	NotAfter      time.Time
}
