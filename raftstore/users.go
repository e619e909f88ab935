// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"context"
	"encoding/hex"
	"fmt"

	"muster/fleet"
)

// maxList bounds what the lists of users, tokens and keys return.
const maxList = 100_000

// Users returns all users, sorted by name.
func (s *Store) Users() ([]fleet.User, error) {
	return loadPage[fleet.User](s, bucketUsers, nil, maxList)
}

// User returns fleet.ErrNotFound for an unknown name.
func (s *Store) User(name string) (fleet.User, error) {
	return loadOne[fleet.User](s, bucketUsers, name, "user")
}

// CreateUser refuses a name that exists. CreatedAt and PasswordChangedAt are
// set by the log's time.
func (s *Store) CreateUser(ctx context.Context, u fleet.User) error {
	if err := fleet.CheckUserName(u.Name); err != nil {
		return err
	}
	if err := checkLevel(u.Level); err != nil {
		return err
	}
	if u.PasswordHash == "" {
		return fleet.Invalid("password", "is empty")
	}
	return s.propose(ctx, &createUser{User: u}, nil)
}

func checkLevel(level int) error {
	if _, ok := fleet.RoleOfLevel(level); !ok {
		return fleet.Invalid("level", "%d is not a level, they are 0 to 8", level)
	}
	return nil
}

// UpdateUser changes what is not nil. The last administrator cannot be demoted.
// A new password or level revokes the user's tokens, except the one with ID
// keepTokenID.
func (s *Store) UpdateUser(ctx context.Context, name string, change fleet.UserChange, keepTokenID string) error {
	if change.Level != nil {
		if err := checkLevel(*change.Level); err != nil {
			return err
		}
	}
	if change.PasswordHash != nil && *change.PasswordHash == "" {
		return fleet.Invalid("password", "is empty")
	}
	return s.propose(ctx, &updateUser{Name: name, Change: change, KeepToken: keepTokenID}, nil)
}

// DeleteUsers deletes all of them with their tokens, or none: at most 1,000. An
// administrator must be left.
func (s *Store) DeleteUsers(ctx context.Context, names []string) error {
	if len(names) == 0 || len(names) > maxEntryItems {
		return fleet.Invalid("usernames", "has %d names, 1 to %d are accepted", len(names), maxEntryItems)
	}
	return s.propose(ctx, &deleteUsers{Names: names}, nil)
}

// CreateToken stores a token of an existing user. It works on every node as
// soon as that node has applied it. Beyond 1,000 tokens a user's session that
// would expire first is revoked.
func (s *Store) CreateToken(ctx context.Context, t fleet.Token) error {
	if t.ID == "" || len(t.ID) > 64 || hasControl(t.ID) {
		return fleet.Invalid("id", "%q must be 1 to 64 bytes of text", t.ID)
	}
	if b, err := hex.DecodeString(t.Hash); err != nil || len(b) != 32 {
		return fleet.Invalid("hash", "is not a hex SHA-256")
	}
	if t.Role != "" {
		if _, ok := t.Role.Level(); !ok {
			return fleet.Invalid("role", "%q is unknown", t.Role)
		}
	}
	return s.propose(ctx, &createToken{Token: t}, nil)
}

// TokenByHash returns fleet.ErrNotFound for an unknown hash. Whether the token
// has expired is for the caller to judge.
func (s *Store) TokenByHash(hash string) (t fleet.Token, err error) {
	err = s.read(func(v view) error {
		ok := false
		if id := v.get(bucketTokenHashes, []byte(hash)); id != nil {
			t, ok = load[fleet.Token](v, bucketTokens, string(id))
		}
		if !ok {
			return fmt.Errorf("token: %w", fleet.ErrNotFound)
		}
		return nil
	})
	return t, err
}

// Tokens returns the user's tokens, sorted by ID; "" is everybody's.
func (s *Store) Tokens(user string) (tokens []fleet.Token, err error) {
	if user == "" {
		return loadPage[fleet.Token](s, bucketTokens, nil, maxList)
	}
	err = s.read(func(v view) error {
		for _, id := range tokenIDsOf(v, user) {
			if t, ok := load[fleet.Token](v, bucketTokens, id); ok {
				tokens = append(tokens, t)
			}
		}
		return nil
	})
	return tokens, err
}

// RevokeToken refuses an unknown ID.
func (s *Store) RevokeToken(ctx context.Context, id string) error {
	return s.propose(ctx, &revokeToken{ID: id}, nil)
}

// TouchToken notes a token's use at a Unix time. Callers do it at most every
// ten minutes.
func (s *Store) TouchToken(ctx context.Context, id string, at int64) error {
	return s.propose(ctx, &touchToken{ID: id, At: at}, nil)
}

// AddKey stores an AK/SK pair; only the sealed secret leaves this call.
func (s *Store) AddKey(ctx context.Context, key fleet.AccessKey, secret []byte) error {
	if key.AccessKey == "" || len(key.AccessKey) > 128 || hasControl(key.AccessKey) {
		return fleet.Invalid("access_key", "%q must be 1 to 128 bytes of text", key.AccessKey)
	}
	if key.Scope != fleet.KeyScopeSD && key.Scope != fleet.KeyScopeAgents {
		return fleet.Invalid("scope", "%q is neither %s nor %s", key.Scope, fleet.KeyScopeSD, fleet.KeyScopeAgents)
	}
	if len(secret) == 0 {
		return fleet.Invalid("secret_key", "is empty")
	}
	sealed, err := s.opts.Sealer.Seal(secret)
	if err != nil {
		return fmt.Errorf("sealing the secret of an access key: %w", err)
	}
	return s.propose(ctx, &addKey{Key: key, Sealed: sealed}, nil)
}

// Keys returns all keys without their secrets, sorted.
func (s *Store) Keys() ([]fleet.AccessKey, error) {
	stored, err := loadPage[storedKey](s, bucketKeys, nil, maxList)
	keys := make([]fleet.AccessKey, len(stored))
	for i, k := range stored {
		keys[i] = k.Key
	}
	return keys, err
}

// KeySecret returns fleet.ErrNotFound for an unknown key.
func (s *Store) KeySecret(accessKey string) (secret []byte, scope fleet.KeyScope, err error) {
	k, err := loadOne[storedKey](s, bucketKeys, accessKey, "access key")
	if err != nil {
		return nil, "", err
	}
	if secret, err = s.opts.Sealer.Open(k.Sealed); err != nil {
		return nil, "", fmt.Errorf("opening the secret of an access key: %w", err)
	}
	return secret, k.Key.Scope, nil
}

// DeleteKey refuses an unknown key.
func (s *Store) DeleteKey(ctx context.Context, accessKey string) error {
	return s.propose(ctx, &deleteKey{AccessKey: accessKey}, nil)
}
