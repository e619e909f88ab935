// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
)

const (
	nonceBytes    = 32
	exporterLabel = "EXPORTER-muster-join"
	exporterBytes = 32
)

// role is who makes a proof. The values are part of what is proved.
type role byte

const (
	roleAsking    role = 1
	roleAnswering role = 2
)

// proofs are the two HMACs of one conversation. They cover the protocol with
// its version, the role, both nonces and a value that TLS derives from this
// very connection: what a man in the middle relays from another connection
// proves nothing here, and neither side's proof can be sent back to it.
type proofs struct {
	key      []byte
	exported []byte
	asking   []byte // nonces
	answered []byte
}

// newProofs takes the connection's part; the nonces are set as they come.
func newProofs(key []byte, state tls.ConnectionState) (*proofs, error) {
	exported, err := state.ExportKeyingMaterial(exporterLabel, nil, exporterBytes)
	if err != nil {
		return nil, fmt.Errorf("export keying material: %w", err)
	}
	return &proofs{key: key, exported: exported}, nil
}

// of returns the proof of a role: HMAC-SHA256 over protoJoin, 0, the role, the
// asking side's nonce, the answering side's, and the exported value.
func (p *proofs) of(r role) []byte {
	mac := hmac.New(sha256.New, p.key)
	for _, part := range [][]byte{[]byte(protoJoin), {0, byte(r)}, p.asking, p.answered, p.exported} {
		mac.Write(part)
	}
	return mac.Sum(nil)
}

// verify takes the same time for every wrong proof.
func (p *proofs) verify(r role, proof []byte) bool { return hmac.Equal(proof, p.of(r)) }

func newNonce() []byte {
	b := make([]byte, nonceBytes)
	_, _ = rand.Read(b) // never fails, see its documentation
	return b
}

func checkNonce(b []byte) error {
	if len(b) != nonceBytes {
		return errors.New("the nonce has the wrong length")
	}
	return nil
}
