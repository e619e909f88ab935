// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"muster/fleet"
	"muster/internal/password"
)

const (
	adminName    = "admin"
	passwordFile = "admin-password"
	// metaFirstUser is where the state says on which node that file is.
	metaFirstUser = "first-user-node"
	// foundWithin bounds the first start's writes.
	foundWithin = 60 * time.Second
)

// firstUser makes the administrator while there is no user at all. The file
// comes first, and a later try takes the password that is in it, so that neither a
// crash nor a lost answer can leave an account whose password nobody has.
func (n *Node) firstUser(ctx context.Context) error {
	select {
	case n.first <- struct{}{}:
		defer func() { <-n.first }()
	case <-ctx.Done():
		return ctx.Err()
	}
	users, err := n.store.Users()
	if err != nil || len(users) > 0 {
		return err
	}
	clear, err := n.firstPassword()
	if err != nil {
		return fmt.Errorf("write the first user's password: %w", err)
	}
	passwords := password.New()
	hash, err := passwords.Hash(ctx, clear)
	if err != nil {
		return fmt.Errorf("hash the first user's password: %w", err)
	}
	now := time.Now().Unix()
	err = n.store.CreateUser(ctx, fleet.User{
		Name: adminName, PasswordHash: hash, CreatedAt: now, PasswordChangedAt: now,
	})
	if errors.Is(err, fleet.ErrExists) {
		return n.dropPassword(ctx, passwords, clear)
	}
	if err != nil {
		return fmt.Errorf("make the first user: %w", err)
	}
	if err := n.store.PutMeta(ctx, metaFirstUser, []byte(n.cfg.NodeID)); err != nil {
		n.log.Warn("the other nodes cannot say where the first user's password is", "error", err)
	}
	n.log.Info("first user made", "user", adminName, "password_file", n.PasswordFile())
	return nil
}

// firstPassword is the one that was written before, else the configured or a
// random one, which it writes.
func (n *Node) firstPassword() (string, error) {
	if written, err := os.ReadFile(n.PasswordFile()); err == nil && len(written) > 1 {
		return strings.TrimRight(string(written), "\n"), nil
	}
	clear := n.cfg.AdminPassword
	if clear == "" {
		clear = rand.Text()
	}
	return clear, writePrivate(n.PasswordFile(), clear+"\n")
}

// dropPassword removes the file unless it is the first user's after all: another
// leader may have come first.
func (n *Node) dropPassword(ctx context.Context, passwords *password.Hasher, clear string) error {
	user, err := n.store.User(adminName)
	if err != nil {
		return err
	}
	if own, err := passwords.Verify(ctx, user.PasswordHash, clear); own || err != nil {
		return err
	}
	return os.Remove(n.PasswordFile())
}

// sayFirstUser tells, on a node that just joined, where the first user's
// password was written.
func (n *Node) sayFirstUser() {
	if at, ok := n.store.Meta(metaFirstUser); ok && string(at) != n.cfg.NodeID {
		n.log.Info("the first user's password was written on another node", "user", adminName, "node", string(at), "file", "its data directory's "+passwordFile)
	}
}

// writePrivate replaces a file that only its owner may read; it is on disk
// when the call returns.
func writePrivate(path, content string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already after the rename
	_, err = tmp.WriteString(content)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
