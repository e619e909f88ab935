// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/fleet"
)

func TestUsers(t *testing.T) {
	n, ctx := lone(t, t.TempDir()), t.Context()
	wake, stop := n.Watch(fleet.TableUsers)
	defer stop()
	must(t, n.CreateUser(ctx, fleet.User{Name: "admin", PasswordHash: "h1"}))
	<-wake
	must(t, n.CreateUser(ctx, fleet.User{Name: "bob", Level: 3, PasswordHash: "h2"}))

	before, _ := n.Dump()
	for what, err := range userRefusals(ctx, n) {
		if refusal, ok := errors.AsType[*fleet.Refusal](err); !ok && what != "too large value" {
			t.Errorf("%s: error = %v, want a refusal", what, err)
		} else if ok && refusal.Detail == "" {
			t.Errorf("%s: the refusal says nothing", what)
		}
	}
	if after, _ := n.Dump(); !cmp.Equal(before, after) {
		t.Fatalf("refusals changed the state: %s", cmp.Diff(before, after))
	}

	for i := range 3 {
		must(t, n.CreateToken(ctx, token(fmt.Sprint("t", i), "bob")))
	}
	must(t, n.TouchToken(ctx, "t1", 1<<40))
	if got, err := n.TokenByHash(token("t1", "").Hash); err != nil || got.LastUsedAt != 1<<40 {
		t.Fatalf("TokenByHash = %+v, %v", got, err)
	}
	must(t, n.RevokeToken(ctx, "t0"))
	must(t, n.UpdateUser(ctx, "bob", fleet.UserChange{PasswordHash: new("h3")}, "t2"))
	left, err := n.Tokens("bob")
	if err != nil || len(left) != 1 || left[0].ID != "t2" {
		t.Fatalf("after a new password: tokens %+v, %v, want t2 alone", left, err)
	}
	_, err = n.TokenByHash(token("t1", "").Hash)
	wantError(t, err, fleet.ErrNotFound)
	must(t, n.DeleteUsers(ctx, []string{"bob"}))
	if all, _ := n.Tokens(""); len(all) != 0 {
		t.Fatalf("a deleted user's tokens stay: %+v", all)
	}
	_, err = n.User("bob")
	wantError(t, err, fleet.ErrNotFound)
	if users, _ := n.Users(); len(users) != 1 || users[0].Name != "admin" || users[0].CreatedAt == 0 {
		t.Fatalf("Users = %+v", users)
	}
}

func token(id, user string) fleet.Token {
	return fleet.Token{ID: id, User: user, Kind: fleet.TokenAPI, Hash: strings.Repeat(fmt.Sprintf("%02x", id[1]), 32), ExpiresAt: 1 << 40}
}

func TestKeySecretsAreSealed(t *testing.T) {
	dir := t.TempDir()
	n, ctx := lone(t, dir), t.Context()
	secret := []byte("a-secret-that-nobody-may-find")
	must(t, n.AddKey(ctx, fleet.AccessKey{AccessKey: "ak", Scope: fleet.KeyScopeSD, Note: "for tests"}, secret))
	got, scope, err := n.KeySecret("ak")
	if err != nil || !bytes.Equal(got, secret) || scope != fleet.KeyScopeSD {
		t.Fatalf("KeySecret = %q, %q, %v", got, scope, err)
	}
	if keys, _ := n.Keys(); len(keys) != 1 || keys[0].Note != "for tests" || keys[0].CreatedAt == 0 {
		t.Fatalf("Keys = %+v", keys)
	}
	wantError(t, n.AddKey(ctx, fleet.AccessKey{AccessKey: "ak", Scope: fleet.KeyScopeSD}, secret), fleet.ErrExists)
	must(t, n.PutMeta(ctx, "note", []byte("42")))
	if v, ok := n.Meta("note"); !ok || string(v) != "42" {
		t.Fatalf("Meta = %q, %v", v, ok)
	}
	if _, ok := n.Meta("nothing"); ok {
		t.Fatal("a missing key is found")
	}
	n.stop()
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, secret) {
			t.Errorf("%s holds the secret in clear", path)
		}
		return err
	}))
	n = lone(t, dir)
	must(t, n.DeleteKey(ctx, "ak"))
	_, _, err = n.KeySecret("ak")
	wantError(t, err, fleet.ErrNotFound)
}

func userRefusals(ctx context.Context, n *node) map[string]error {
	return map[string]error{
		"twice":           n.CreateUser(ctx, fleet.User{Name: "bob", PasswordHash: "h"}),
		"last admin":      n.UpdateUser(ctx, "admin", fleet.UserChange{Level: new(3)}, ""),
		"no admin left":   n.DeleteUsers(ctx, []string{"bob", "admin"}),
		"unknown":         n.DeleteUsers(ctx, []string{"bob", "eve"}),
		"update unknown":  n.UpdateUser(ctx, "eve", fleet.UserChange{Avatar: new("x")}, ""),
		"bad name":        n.CreateUser(ctx, fleet.User{Name: "a b", PasswordHash: "h"}),
		"bad level":       n.CreateUser(ctx, fleet.User{Name: "c", Level: 9, PasswordHash: "h"}),
		"empty password":  n.UpdateUser(ctx, "bob", fleet.UserChange{PasswordHash: new("")}, ""),
		"unknown token":   n.RevokeToken(ctx, "t9"),
		"touch unknown":   n.TouchToken(ctx, "t9", 5),
		"stranger's":      n.CreateToken(ctx, token("t1", "eve")),
		"unknown key":     n.DeleteKey(ctx, "ak"),
		"key scope":       n.AddKey(ctx, fleet.AccessKey{AccessKey: "ak", Scope: "all"}, []byte("s")),
		"meta key":        n.PutMeta(ctx, "a\x00b", nil),
		"meta too large":  n.PutMeta(ctx, "k", make([]byte, 70<<10)),
		"too large value": n.UpdateUser(ctx, "bob", fleet.UserChange{Avatar: new(strings.Repeat("x", 300<<10))}, ""),
	}
}
