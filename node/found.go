// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"muster/fleet"
	"muster/internal/password"
	"muster/raftstore"
)

const (
	adminName    = "admin"
	passwordFile = "admin-password"
	// foundWithin bounds the first start's writes.
	foundWithin = 60 * time.Second
)

// found makes the cluster on a lone node's first start, waits until the state
// is ready, and takes the CA out of it. Each step can be repeated after a crash.
func (n *Node) found(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, foundWithin,
		fmt.Errorf("the state was not ready within %s: the log above says what it waited for", foundWithin))
	defer cancel()
	if !n.store.Bootstrapped() {
		clusterID := newClusterID()
		ca, err := n.trust.newAuthority(clusterID)
		if err != nil {
			return err
		}
		if err := n.store.Bootstrap(ctx, clusterID, ca); err != nil {
			return fmt.Errorf("found the cluster: %w", err)
		}
		n.log.Info("cluster founded", "cluster", clusterID)
	}
	if err := n.store.WaitReady(ctx); err != nil {
		return fmt.Errorf("wait for the state: %w", err)
	}
	if n.trust.ca.Load() == nil {
		ca, ok := n.store.Meta(raftstore.MetaCA)
		if !ok {
			return errors.New("the replicated state holds no CA: restore the data directory from a backup")
		}
		if err := n.trust.open(n.store.Status().ClusterID, ca); err != nil {
			return err
		}
	}
	if err := n.members.Update(n.self()); err != nil {
		return err
	}
	return n.firstUser(ctx)
}

// newClusterID makes 128 random bits.
func newClusterID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see its documentation
	return hex.EncodeToString(b[:])
}

// firstUser makes the administrator while there is no user at all. The file
// comes first, so that no crash can leave an account whose password nobody has.
func (n *Node) firstUser(ctx context.Context) error {
	users, err := n.store.Users()
	if err != nil || len(users) > 0 {
		return err
	}
	clear := n.cfg.AdminPassword
	if clear == "" {
		clear = rand.Text()
	}
	path := filepath.Join(n.cfg.DataDir, passwordFile)
	if err := writePrivate(path, clear+"\n"); err != nil {
		return fmt.Errorf("write the first user's password: %w", err)
	}
	hash, err := password.New().Hash(ctx, clear)
	if err != nil {
		return fmt.Errorf("hash the first user's password: %w", err)
	}
	now := time.Now().Unix()
	err = n.store.CreateUser(ctx, fleet.User{
		Name: adminName, PasswordHash: hash, CreatedAt: now, PasswordChangedAt: now,
	})
	if err != nil {
		return fmt.Errorf("make the first user: %w", err)
	}
	n.log.Info("first user made", "user", adminName, "password_file", path)
	return nil
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
