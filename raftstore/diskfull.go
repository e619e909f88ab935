// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"

	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// isFull tells whether a disk has no room, or no room for this user. bbolt hands
// on the words of some errors only.
func isFull(err error) bool {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		if errors.Is(err, errno) || strings.Contains(err.Error(), errno.Error()) {
			return true
		}
	}
	return false
}

// withRoom says what to do about a disk that is full: what is on it is sound.
func withRoom(dir string, err error) error {
	if err == nil || !isFull(err) {
		return err
	}
	return fmt.Errorf("the disk is full: make room on the disk of %s and start this node again, it goes on with all that was acknowledged (leave the files as they are): %w", dir, err)
}

// logFaults hands on what goes wrong when the log is written. Raft itself only
// steps down, or says nothing to its leader, and goes on with a log that takes
// no entry any more.
type logFaults struct {
	dir  string
	fail atomic.Pointer[func(error)] // nil while nobody but the caller need know
}

func (f *logFaults) note(err error) error {
	if err == nil || errors.Is(err, wal.ErrClosed) {
		return err
	}
	err = fmt.Errorf("writing the log in %s: %w", f.dir, err)
	if !isFull(err) {
		err = fmt.Errorf("%w; look at the disk, then start this node again", err)
	}
	if fail := f.fail.Load(); fail != nil {
		(*fail)(err)
	}
	return err
}

// logFiler makes the files of segments. Raft-wal does so in a goroutine of its
// own, whose error it only logs: every later append is told that the segment
// before is sealed.
type logFiler struct {
	*segment.Filer
	faults *logFaults
}

// Create implements types.SegmentFiler.
func (f logFiler) Create(info types.SegmentInfo) (types.SegmentWriter, error) {
	w, err := f.Filer.Create(info)
	return w, f.faults.note(err)
}
