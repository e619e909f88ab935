// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// binaries makes the directory of the binary, which Cleanup removes.
var binaries = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "muster-bin-") })

var build = sync.OnceValues(func() (string, error) {
	dir, err := binaries()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "muster")
	cmd := exec.Command("go", "build", "-o", path, "muster/cmd/muster")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// Binary returns the path of the muster binary, built once per test process.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Cleanup removes the binary, if there is one. TestMain calls it when all tests
// have ended.
func Cleanup() error {
	dir, err := binaries()
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
