// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"fmt"

	"muster/fleet"
	"muster/internal/pki"
)

// WhoIs returns the server ID in the certificate that the node at an address
// shows, or "" if what listens there shows none of a node, as one that belongs to
// no cluster yet. Who signed it is not checked. An error means that nobody answers.
func (p *Port) WhoIs(ctx context.Context, addr string) (serverID string, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.opts.Tuning.HandshakeTimeout)
	defer cancel()
	config := dialling(protoPeer, p.anonymous)
	if m := p.opts.Membership(); m != nil {
		config = dialling(protoPeer, m.Certificate)
	}
	raw, err := p.opts.Dial(ctx, "tcp", addr)
	if err != nil {
		return "", fmt.Errorf("ask who is at %s: %w: %w", addr, err, fleet.ErrUnavailable)
	}
	defer func() { _ = raw.Close() }()
	t, err := p.shakeOn(ctx, raw, config)
	if err != nil {
		return "", nil // somebody listens
	}
	node, err := pki.NodeOf(t.ConnectionState().PeerCertificates[0])
	if err != nil {
		return "", nil // it names no node
	}
	return node.ServerID, nil
}
