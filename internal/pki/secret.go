// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

const (
	// MinSecretBytes is the shortest cluster secret that is accepted.
	MinSecretBytes = 16

	maxSecretBytes = 4096
	newSecretBytes = 32
)

// ParseSecret checks a cluster secret. One newline at its end is ignored.
func ParseSecret(text []byte) ([]byte, error) {
	secret := bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	switch {
	case len(secret) < MinSecretBytes:
		return nil, fmt.Errorf("the cluster secret has %d bytes, want at least %d", len(secret), MinSecretBytes)
	case len(secret) > maxSecretBytes:
		return nil, fmt.Errorf("the cluster secret has more than %d bytes", maxSecretBytes)
	}
	return bytes.Clone(secret), nil
}

// ReadSecret reads the cluster secret from a file.
func ReadSecret(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open the cluster secret: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+3))
	if err != nil {
		return nil, fmt.Errorf("read the cluster secret: %w", err)
	}
	secret, err := ParseSecret(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return secret, nil
}

// NewSecretFile makes a random cluster secret and writes it to a new file that
// only its owner can read. When it returns, file and name survive a power loss;
// a file that exists is left alone and is an error that wraps fs.ErrExist.
func NewSecretFile(file string) ([]byte, error) {
	raw := make([]byte, newSecretBytes)
	if _, err := rand.Read(raw); err != nil {
		return nil, fmt.Errorf("draw a cluster secret: %w", err)
	}
	secret := []byte(base64.RawURLEncoding.EncodeToString(raw))
	dir := filepath.Dir(file)
	// os.CreateTemp makes the file with mode 0600. Linking it into place, unlike
	// writing in place, never leaves half a secret.
	temp, err := os.CreateTemp(dir, ".cluster-secret-*")
	if err != nil {
		return nil, fmt.Errorf("create the cluster secret: %w", err)
	}
	_, err = temp.Write(append(bytes.Clone(secret), '\n'))
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil {
		err = os.Link(temp.Name(), file)
	}
	err = errors.Join(err, os.Remove(temp.Name()))
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("write the cluster secret: %w", err)
	}
	return secret, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
