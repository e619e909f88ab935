// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package kafka

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Disk is a small file system in memory that can be filled up. It is taken away
// with the test.
type Disk struct {
	dir string
}

// NewDisk mounts a disk of so many MiB at dir, which only root can; the error
// says why it cannot be done here.
func NewDisk(t testing.TB, dir string, mebibytes int) (*Disk, error) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm", mebibytes), "tmpfs", dir).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("mount a small disk: %w: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "--lazy", dir).CombinedOutput(); err != nil {
			t.Errorf("unmount %s: %v: %s", dir, err, out)
		}
	})
	return &Disk{dir: dir}, nil
}

func (d *Disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// Fill leaves no room on the disk.
func (d *Disk) Fill() error {
	f, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for err == nil {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	return nil
}

// Free makes room again.
func (d *Disk) Free() error { return os.Remove(d.ballast()) }
