// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
)

// What the cluster secret is turned into: HKDF-SHA256 without salt, with one of
// these labels, 32 bytes. Data and clusters depend on them, so they never change.
const (
	labelSeal   = "muster/v1/seal"
	labelGossip = "muster/v1/gossip"
	labelJoin   = "muster/v1/join"

	derivedBytes = 32
)

// sealVersion is the first byte of sealed data: AES-256-GCM, a nonce of 12 bytes,
// then ciphertext and tag. Additional data: the version byte and the purpose.
const sealVersion = 1

// Sealer encrypts secrets that are kept in the replicated state and in backups.
// It is safe for concurrent use.
type Sealer struct {
	aead cipher.AEAD
}

// NewSealer derives its key from the cluster secret.
func NewSealer(secret []byte) (*Sealer, error) {
	key, err := derive(secret, labelSeal)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("seal key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("seal key: %w", err)
	}
	return &Sealer{aead: aead}, nil
}

// Seal encrypts a value. Only Open with the same purpose, such as "ca key",
// reads it. Sealing twice gives different bytes.
func (s *Sealer) Seal(purpose string, clear []byte) []byte {
	return s.aead.Seal([]byte{sealVersion}, nil, clear, additionalData(purpose))
}

// Open decrypts what Seal made. It fails on another secret, another purpose and
// any changed byte.
func (s *Sealer) Open(purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 {
		return nil, errors.New("open sealed data: it is empty")
	}
	if sealed[0] != sealVersion {
		return nil, fmt.Errorf("open sealed data: version %d is unknown to this program", sealed[0])
	}
	clear, err := s.aead.Open(nil, nil, sealed[1:], additionalData(purpose))
	if err != nil {
		return nil, fmt.Errorf("open sealed data (%s): it is damaged or the cluster secret is another one: %w", purpose, err)
	}
	return clear, nil
}

// GossipKey returns the 32 bytes with which the nodes encrypt their gossip.
func GossipKey(secret []byte) ([]byte, error) { return derive(secret, labelGossip) }

func derive(secret []byte, label string) ([]byte, error) {
	if len(secret) < MinSecretBytes {
		return nil, fmt.Errorf("the cluster secret has %d bytes, want at least %d", len(secret), MinSecretBytes)
	}
	key, err := hkdf.Key(sha256.New, secret, nil, label, derivedBytes)
	if err != nil {
		return nil, fmt.Errorf("derive a key from the cluster secret: %w", err)
	}
	return key, nil
}

func additionalData(purpose string) []byte {
	return append([]byte{sealVersion}, purpose...)
}
