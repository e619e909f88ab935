// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"muster/internal/pki"
)

// finished are credentials for connections whose TLS handshake and greeting are
// over before gRPC sees them.
type finished struct{}

// memberAuth tells handlers who is at the other end.
type memberAuth struct {
	credentials.CommonAuthInfo
	peer pki.NodeIdentity
}

// AuthType names it to gRPC.
func (memberAuth) AuthType() string { return protoPeer }

// ClientHandshake passes on what dial returned.
func (finished) ClientHandshake(_ context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return passOn(raw)
}

// ServerHandshake passes on what the queue of accepted connections held.
func (finished) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return passOn(raw)
}

func passOn(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := raw.(*conn)
	if !ok {
		return nil, nil, errors.New("a connection without a handshake") // never
	}
	level := credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}
	return c, memberAuth{level, c.peer}, nil
}

// Info describes the protocol.
func (finished) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone returns the same: there is no state.
func (finished) Clone() credentials.TransportCredentials { return finished{} }

// OverrideServerName is of no use: nodes are known by their IDs.
func (finished) OverrideServerName(string) error { return nil }

// PeerFrom tells a Handler which member asks.
func PeerFrom(ctx context.Context) (pki.NodeIdentity, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return pki.NodeIdentity{}, false
	}
	auth, ok := p.AuthInfo.(memberAuth)
	return auth.peer, ok
}
