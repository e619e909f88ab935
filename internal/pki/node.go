// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// serverIDMark stands between a node's name and the random part of its Raft
// server ID.
const serverIDMark = "~"

// NodeIdentity is who a node is: all of it stands in its certificate.
type NodeIdentity struct {
	ClusterID string
	Name      string // what the operator calls it
	ServerID  string // of its data directory, in Raft: NAME~8 hex digits
}

// NodeOf reads the identity from a node's certificate. It does not check who
// signed it.
func NodeOf(cert *x509.Certificate) (NodeIdentity, error) {
	if len(cert.URIs) != 1 {
		return NodeIdentity{}, fmt.Errorf("the certificate has %d URI names, want one", len(cert.URIs))
	}
	uri := cert.URIs[0]
	kind, id, err := parseIdentity(uri)
	switch {
	case err != nil:
		return NodeIdentity{}, err
	case kind != nodePrefix:
		return NodeIdentity{}, fmt.Errorf("the certificate %q is not a node's", uri)
	}
	name, err := NodeName(id)
	if err != nil {
		return NodeIdentity{}, err
	}
	return NodeIdentity{ClusterID: uri.Host, Name: name, ServerID: id}, nil
}

// NodeName returns the name of the node that a Raft server ID belongs to.
func NodeName(serverID string) (string, error) {
	i := strings.LastIndex(serverID, serverIDMark)
	if i < 1 || len(serverID) > maxServerIDBytes || !isPrintable(serverID[:i]) || !isHex(serverID[i+1:]) {
		return "", fmt.Errorf("server ID %.150q: want NAME~ and 8 hexadecimal digits", serverID)
	}
	return serverID[:i], nil
}

// JoinKey returns the 32 bytes with which a node proves to another one, before
// it has a certificate, that it knows the cluster secret.
func JoinKey(secret []byte) ([]byte, error) { return derive(secret, labelJoin) }

// VerifyNode checks that an authority of the pool signed the certificate for a
// node and that it is valid now. It returns who the node is.
func VerifyNode(chain []*x509.Certificate, verify x509.VerifyOptions) (NodeIdentity, error) {
	if len(chain) == 0 || verify.Roots == nil { // without roots, package x509 would take the system's
		return NodeIdentity{}, errors.New("no certificate, or no authority to check it against")
	}
	verify.Intermediates = Pool(chain[1:]...)
	if _, err := chain[0].Verify(verify); err != nil {
		return NodeIdentity{}, err
	}
	return NodeOf(chain[0])
}

func isHex(s string) bool {
	if len(s) != 8 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
