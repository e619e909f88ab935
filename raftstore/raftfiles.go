// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"go.etcd.io/bbolt"
)

// raftLog is raft's log with its meta store, which raft-wal itself never closes.
type raftLog struct {
	*wal.WAL
	meta   *logMeta
	faults *logFaults
	// mu is held while entries are added or removed.
	mu sync.Mutex
}

// StoreLog implements raft.LogStore.
func (l *raftLog) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore.
func (l *raftLog) StoreLogs(entries []*raft.Log) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.faults.note(l.WAL.StoreLogs(entries))
}

// Set implements raft.StableStore.
func (l *raftLog) Set(key, value []byte) error { return l.faults.note(l.WAL.Set(key, value)) }

// SetUint64 implements raft.StableStore.
func (l *raftLog) SetUint64(key []byte, value uint64) error {
	return l.faults.note(l.WAL.SetUint64(key, value))
}

// DeleteRange implements raft.LogStore. When a segment is full raft-wal begins
// the next one in a goroutine of its own; unlike adding, removing does not wait
// for that, and what is removed before it is done makes it seal the wrong
// segment. So first something is added that is refused, but only after that wait.
func (l *raftLog) DeleteRange(first, last uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	newest, err := l.LastIndex()
	if err != nil {
		return err
	}
	if newest > 0 {
		if err := l.WAL.StoreLogs([]*raft.Log{{Index: newest}}); err == nil {
			return fmt.Errorf("the log took a second entry %d", newest)
		}
	}
	return l.faults.note(l.WAL.DeleteRange(first, last))
}

func (l *raftLog) close() error {
	l.faults.fail.Store(nil)
	return errors.Join(l.WAL.Close(), l.meta.Close())
}

// openLog opens the log of dir. position is where the state stands: a log that
// is missing although the state has entries is refused, because with it the
// node's votes are gone.
func openLog(dir string, pos position, opts *Options) (*raftLog, error) {
	path := filepath.Join(dir, logDirName)
	_, err := os.Stat(filepath.Join(path, metadb.FileName))
	if errors.Is(err, fs.ErrNotExist) && pos.Index > 0 {
		return nil, fmt.Errorf("the log in %s is missing although the state is at index %d: put it back, or %s", path, pos.Index, reseed(dir))
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("making the log directory: %w", err)
	}
	if err := checkMeta(filepath.Join(path, metadb.FileName)); err != nil {
		return nil, fmt.Errorf("%w; %s", err, reseed(dir))
	}
	faults := &logFaults{dir: path}
	l := &raftLog{meta: &logMeta{&metadb.BoltMetaDB{}, opts.Logger, faults}, faults: faults}
	l.WAL, err = wal.Open(path, wal.WithMetaStore(l.meta), wal.WithSegmentFiler(logFiler{segment.NewFiler(path, walfs.New()), faults}),
		wal.WithSegmentSize(opts.Tuning.SegmentBytes), wal.WithLogger(newRaftLogger(opts.Logger)))
	if err != nil && isFull(err) {
		return nil, errors.Join(fmt.Errorf("opening the log in %s: %w", path, err), l.meta.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the log in %s: %w; %s", path, err, reseed(dir)), l.meta.Close())
	}
	return l, nil
}

// checkMeta reads the log's meta store once: bbolt panics on a damaged file,
// and raft-wal would wait for ever for one that is in use.
func checkMeta(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return inspect(path, true, func(v view) error {
		if err := walkPages(v); err != nil {
			return err
		}
		return v.tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
	})
}

func reseed(dir string) string {
	return fmt.Sprintf("to start again from the other nodes move %s away and let the node join as a new one, or on a lone node restore a backup", dir)
}

// reconcile makes the log and the state fit each other, as far as that is safe.
// It must run before raft sees them.
func (l *raftLog) reconcile(dir string, pos position, opts *Options) error {
	first, err := l.FirstIndex()
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	last, err := l.LastIndex()
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	if first > 0 && pos.Index+1 < first {
		return fmt.Errorf("the state is at index %d but the log begins at %d, so entries are missing between them: %s", pos.Index, first, reseed(dir))
	}
	if last == 0 {
		return nil
	}
	clear := last < pos.Index
	for i := max(first, 1); i <= last; i++ {
		var entry raft.Log
		if err := l.GetLog(i, &entry); err != nil {
			return fmt.Errorf("reading entry %d of the log: %w; %s", i, err, reseed(dir))
		}
		if entry.Index != i {
			return fmt.Errorf("entry %d of the log says that it is entry %d; %s", i, entry.Index, reseed(dir))
		}
		if entry.Type == raft.LogCommand {
			if _, err := checkEnvelope(entry.Data); err != nil {
				return fmt.Errorf("entry %d of the log is damaged: %w; %s", i, err, reseed(dir))
			}
		}
		// A snapshot was installed, and then the log of before was not removed.
		clear = clear || i == pos.Index && entry.Term != pos.Term
	}
	if !clear {
		return nil
	}
	opts.Logger.Warn("clearing a log that ends before the state, or is of another history",
		"log_first", first, "log_last", last, "state_index", pos.Index)
	if err := l.DeleteRange(first, last); err != nil {
		return fmt.Errorf("clearing the log: %w", err)
	}
	return nil
}
