// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package pki_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"muster/internal/pki"
)

func TestSecretFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "cluster-secret")
	secret, err := pki.NewSecretFile(file)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode = %v, %v", info.Mode(), err)
	}
	got, err := pki.ReadSecret(file)
	if err != nil || string(got) != string(secret) || len(secret) < 43 {
		t.Fatalf("read %q, %v; wrote %q", got, err, secret)
	}
	if _, err := pki.NewSecretFile(file); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("second write: %v", err)
	}
	if again, err := pki.ReadSecret(file); err != nil || string(again) != string(secret) {
		t.Fatalf("the second write changed the file: %q, %v", again, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("left behind: %v, %v", entries, err)
	}
}

func TestReadSecret(t *testing.T) {
	for name, tt := range map[string]struct {
		text, want string
	}{
		"plain":            {"0123456789abcdef", "0123456789abcdef"},
		"newline":          {"0123456789abcdef\n", "0123456789abcdef"},
		"windows":          {"0123456789abcdef\r\n", "0123456789abcdef"},
		"one newline only": {"0123456789abcdef\n\n", "0123456789abcdef\n"},
		"spaces count":     {" 0123456789abcde ", " 0123456789abcde "},
		"too short":        {"0123456789abcde\n", ""},
		"empty":            {"", ""},
		"too long":         {string(make([]byte, 5000)), ""},
	} {
		file := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := pki.ReadSecret(file)
		if string(got) != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := pki.ReadSecret(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}
