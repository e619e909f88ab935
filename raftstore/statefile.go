// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"muster/fleet"
)

const (
	stateFileName   = "state.db"
	incomingName    = "state.db.incoming"
	logDirName      = "log"
	tmpSuffix       = ".tmp"
	stateFileFormat = 1

	keyPosition      = "position"
	keyConfiguration = "configuration"
)

// position tells how far a state file is. It is committed with the state itself.
type position struct {
	FileFormat int    `json:"file_format"`
	Index      uint64 `json:"index"`
	Term       uint64 `json:"term"`
	Hash       string `json:"hash"`
}

// configuration is the last Raft configuration at or below the position.
type configuration struct {
	Index  uint64             `json:"index"`
	Config raft.Configuration `json:"config"`
}

// stateFile is one open bbolt file. Every access to it goes through read and
// write, which turn bbolt's panics and page faults into errors.
type stateFile struct {
	path string
	db   *bbolt.DB

	// refs and retired belong to stateHolder.
	refs    int
	retired bool
}

// openState checks and opens dir's state file, and makes an empty one if there
// is none.
func openState(dir string, mmapBytes int) (*stateFile, position, error) {
	path := filepath.Join(dir, stateFileName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := createState(dir, path); err != nil {
			return nil, position{}, err
		}
	}
	pos, err := checkState(path)
	if err != nil {
		return nil, pos, err
	}
	f, err := openStateFile(path, mmapBytes)
	return f, pos, err
}

// createState renames a complete file into place, so that a crash in between
// leaves no half of one.
func createState(dir, path string) error {
	tmp := path + tmpSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("making the state file: %w", err)
	}
	f, err := openStateFile(tmp, 1)
	if err != nil {
		return err
	}
	err = f.write(func(tx *bbolt.Tx) error {
		for _, b := range append(replicatedBuckets(), bucketLocal) {
			if _, err := tx.CreateBucketIfNotExists([]byte(b)); err != nil {
				return err
			}
		}
		return putLocal(tx, keyPosition, position{FileFormat: stateFileFormat, Hash: stateHash{}.String()})
	})
	if err = errors.Join(err, f.db.Close()); err != nil {
		return fmt.Errorf("making the state file: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("making the state file: %w", err)
	}
	return syncDir(dir)
}

// openStateFile opens a file that inspect found sound: to write, bbolt walks
// through all of it in a goroutine of its own, where a panic cannot be caught.
func openStateFile(path string, mmapBytes int) (*stateFile, error) {
	return openBolt(path, &bbolt.Options{
		Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
		InitialMmapSize: mmapBytes,
	})
}

// inspect opens a bbolt file read-only and runs fn in a transaction. freelist
// reads the list of free pages too, which only a file that keeps one may ask for.
func inspect(path string, freelist bool, fn func(v view) error) error {
	f, err := openBolt(path, &bbolt.Options{Timeout: time.Second, ReadOnly: true, PreLoadFreelist: freelist})
	if err != nil {
		return err
	}
	return errors.Join(f.read(fn), f.db.Close())
}

func openBolt(path string, opts *bbolt.Options) (f *stateFile, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			f, err = nil, storageFault(path, p)
		}
	}()
	db, err := bbolt.Open(path, 0o600, opts)
	if err != nil {
		return nil, storageFault(path, err)
	}
	return &stateFile{path: path, db: db}, nil
}

// read runs fn in a read transaction. Whatever fn keeps must be a copy.
func (f *stateFile) read(fn func(v view) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = storageFault(f.path, p)
		}
	}()
	return f.db.View(func(tx *bbolt.Tx) error { return fn(view{tx}) })
}

// write runs fn in a write transaction and syncs it.
func (f *stateFile) write(fn func(tx *bbolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = storageFault(f.path, p)
		}
	}()
	if err := f.db.Update(fn); err != nil {
		return storageFault(f.path, err)
	}
	return nil
}

// storageError says that the disk failed or lied; the process must not go on.
type storageError struct {
	path  string
	cause any
	stack string
}

func storageFault(path string, cause any) error {
	var known *storageError
	if err, ok := cause.(error); ok && errors.As(err, &known) {
		return known
	}
	return &storageError{path: path, cause: cause, stack: string(debug.Stack())}
}

// Error says what to do: a damaged replica is thrown away, never repaired. One
// whose disk is full is sound, and as it was before.
func (e *storageError) Error() string {
	if err, ok := e.cause.(error); ok && isFull(err) {
		return fmt.Sprintf("%s: %v", e.path, err)
	}
	return fmt.Sprintf("%s cannot be trusted: %v; move the data directory away and let the node join again as a new one, or on a lone node restore a backup",
		e.path, e.cause)
}

func putLocal(tx *bbolt.Tx, key string, value any) error {
	content, err := encodeJSON(value)
	if err != nil {
		return err
	}
	return tx.Bucket([]byte(bucketLocal)).Put([]byte(key), sealValue(bucketLocal, []byte(key), content))
}

func readPosition(v view) (position, configuration) {
	pos, _ := load[position](v, bucketLocal, keyPosition)
	conf, _ := load[configuration](v, bucketLocal, keyConfiguration)
	return pos, conf
}

// checkState reads a whole state file once: every page that is in use, every
// checksum, and the hash over all of it.
func checkState(path string) (pos position, err error) {
	err = inspect(path, false, func(v view) error {
		if err := walkPages(v); err != nil {
			return err
		}
		pos, _ = readPosition(v)
		if pos.FileFormat > stateFileFormat {
			return fmt.Errorf("%s was written by a newer version (format %d, this one knows %d): start that version",
				path, pos.FileFormat, stateFileFormat)
		}
		if sum := hashState(v).String(); sum != pos.Hash {
			panic(damage{fmt.Sprintf("its content hashes to %s, not to %s", sum, pos.Hash)})
		}
		return nil
	})
	return pos, err
}

// stateHolder is the state file of the moment. Readers hold a reference, so a
// file that has been replaced is closed by the last of them.
type stateHolder struct {
	mu      sync.Mutex
	current *stateFile // nil once closed
}

func (h *stateHolder) acquire() (*stateFile, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current == nil {
		return nil, fmt.Errorf("reading the state: %w", fleet.ErrClosed)
	}
	h.current.refs++
	return h.current, nil
}

func (h *stateHolder) release(f *stateFile) {
	h.mu.Lock()
	f.refs--
	last := f.retired && f.refs == 0
	h.mu.Unlock()
	if last {
		// Nothing is lost with a file that nobody can see any more.
		_ = f.db.Close()
	}
}

// replace makes next current (nil closes the holder) and retires the old file.
func (h *stateHolder) replace(next *stateFile) error {
	h.mu.Lock()
	old := h.current
	h.current = next
	idle := false
	if old != nil {
		old.retired = true
		idle = old.refs == 0
	}
	h.mu.Unlock()
	if idle {
		return old.db.Close()
	}
	return nil
}
