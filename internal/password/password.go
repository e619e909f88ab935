// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package password

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// The parameters of new hashes. Source: OWASP's recommendation for argon2id
// with little memory.
const (
	memoryKiB = 19 << 10
	passes    = 2
	lanes     = 1
	saltBytes = 16
	keyBytes  = 32
)

// Limits of hashes that are read: a stored hash must not be able to ask for
// more than this.
const (
	maxMemoryKiB = 256 << 10
	maxPasses    = 16
	maxLanes     = 8
	maxTextBytes = 256
)

// MaxBytes is the longest password.
const MaxBytes = 1024

// atOnce is how many hashes are computed at the same time, waiting how many
// callers may wait for their turn.
const (
	atOnce  = 2
	waiting = 64
)

// The errors of this package.
var (
	// ErrBusy is returned when too many callers wait already.
	ErrBusy = errors.New("too many passwords are being checked")
	// ErrMalformed is returned for a hash that is not one of this package's.
	ErrMalformed = errors.New("malformed password hash")
	// ErrTooLong is returned by Hash for a password of more than MaxBytes.
	ErrTooLong = errors.New("password is too long")
)

// Hasher hashes and checks passwords. It is safe for concurrent use; a process
// needs one only, as the bound on memory is the Hasher's.
type Hasher struct {
	turns chan struct{}
	queue chan struct{}
	dummy hash
}

// New returns a Hasher.
func New() *Hasher {
	h := &Hasher{turns: make(chan struct{}, atOnce), queue: make(chan struct{}, atOnce+waiting)}
	h.dummy = hash{memory: memoryKiB, passes: passes, lanes: lanes, salt: make([]byte, saltBytes), key: make([]byte, keyBytes)}
	rand.Read(h.dummy.salt)
	rand.Read(h.dummy.key)
	return h
}

// Hash returns a new salted hash of the password in PHC form. It waits for its
// turn until ctx ends, or returns ErrBusy when too many wait.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	if len(password) > MaxBytes {
		return "", ErrTooLong
	}
	fresh := hash{memory: memoryKiB, passes: passes, lanes: lanes, salt: make([]byte, saltBytes), key: make([]byte, keyBytes)}
	rand.Read(fresh.salt)
	key, err := h.compute(ctx, fresh, password)
	if err != nil {
		return "", err
	}
	fresh.key = key
	return fresh.String(), nil
}

// Verify tells whether the password is the one of the hash. With an empty hash
// it does the same work and answers false, so that the time it takes does not
// tell whether there is such a user. It waits as Hash does.
func (h *Hasher) Verify(ctx context.Context, text, password string) (bool, error) {
	want := h.dummy
	if text != "" {
		var err error
		if want, err = parse(text); err != nil {
			return false, err
		}
	}
	tooLong := len(password) > MaxBytes
	if tooLong {
		password = password[:MaxBytes]
	}
	got, err := h.compute(ctx, want, password)
	if err != nil {
		return false, err
	}
	same := subtle.ConstantTimeCompare(got, want.key) == 1
	return same && text != "" && !tooLong, nil
}

// compute waits for its turn.
func (h *Hasher) compute(ctx context.Context, p hash, password string) ([]byte, error) {
	select {
	case h.queue <- struct{}{}:
		defer func() { <-h.queue }()
	default:
		return nil, ErrBusy
	}
	select {
	case h.turns <- struct{}{}:
		defer func() { <-h.turns }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait to hash a password: %w", ctx.Err())
	}
	return argon2.IDKey([]byte(password), p.salt, p.passes, p.memory, p.lanes, uint32(len(p.key))), nil
}

// hash is a PHC string taken apart.
type hash struct {
	memory uint32 // KiB
	passes uint32
	lanes  uint8
	salt   []byte
	key    []byte
}

// String returns the PHC form.
func (p hash) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.passes, p.lanes,
		b64.EncodeToString(p.salt), b64.EncodeToString(p.key))
}

// parse accepts only what String can have written, within the limits.
func parse(text string) (hash, error) {
	if len(text) > maxTextBytes {
		return hash{}, ErrMalformed
	}
	parts := strings.Split(text, "$")
	if len(parts) != 6 {
		return hash{}, ErrMalformed
	}
	var p hash
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.passes, &p.lanes); err != nil {
		return hash{}, ErrMalformed
	}
	var errSalt, errKey error
	p.salt, errSalt = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	p.key, errKey = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if errSalt != nil || errKey != nil || p.String() != text {
		return hash{}, ErrMalformed
	}
	switch {
	case p.lanes < 1 || p.lanes > maxLanes, p.passes < 1 || p.passes > maxPasses,
		p.memory < 8*uint32(p.lanes) || p.memory > maxMemoryKiB,
		len(p.salt) < 8, len(p.key) < 16:
		return hash{}, ErrMalformed
	}
	return p, nil
}
