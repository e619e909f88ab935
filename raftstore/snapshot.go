// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"muster/fleet"
)

const (
	localSnapshotID    = "state"
	receivedSnapshotID = "received"
	copyPattern        = "copy-*" + tmpSuffix
	// refusedEvery is how often it is told that a wrong state is given to nobody.
	refusedEvery = time.Minute
	// refusedPause is how long the refusal itself takes.
	refusedPause = time.Second
)

// snapshotStore presents the state file as raft's only snapshot. It is always
// as new as the state, because it is the state.
type snapshotStore struct {
	dir       string
	mmapBytes int
	state     *stateHolder
	// step is called between the steps of an installation; tests stop there.
	step   func(name string)
	logger *slog.Logger
	// quarantined says why the state is wrong and must reach nobody; empty: it is not.
	quarantined func() string
	story       *story

	mu       sync.Mutex
	refused  time.Time          // when the story last told that a copy was refused
	received *raft.SnapshotMeta // complete and synced, waits for Restore
	begun    time.Time          // when the last one began to arrive
}

var _ raft.SnapshotStore = (*snapshotStore)(nil)

// List implements raft.SnapshotStore.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	file, err := s.state.acquire()
	if err != nil {
		return nil, err
	}
	defer s.state.release(file)
	var meta *raft.SnapshotMeta
	if err := file.read(func(v view) error {
		meta = snapshotMeta(v)
		return nil
	}); err != nil {
		return nil, err
	}
	if meta.Index == 0 {
		return nil, nil
	}
	return []*raft.SnapshotMeta{meta}, nil
}

func snapshotMeta(v view) *raft.SnapshotMeta {
	pos, conf := readPosition(v)
	return &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: localSnapshotID, Index: pos.Index, Term: pos.Term,
		Configuration: conf.Config, ConfigurationIndex: conf.Index, Size: v.tx.Size(),
	}
}

// Open implements raft.SnapshotStore. The local snapshot is first copied, so
// that no read transaction waits for the network. A state that is wrong is given
// to nobody.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if id == receivedSnapshotID {
		s.mu.Lock()
		meta := s.received
		s.mu.Unlock()
		if meta == nil {
			return nil, nil, fmt.Errorf("no received snapshot is waiting")
		}
		f, err := os.Open(filepath.Join(s.dir, incomingName))
		return meta, f, err
	}
	if err := s.mayLeave(); err != nil {
		<-time.After(refusedPause) // raft tries again at once
		return nil, nil, err
	}
	file, err := s.state.acquire()
	if err != nil {
		return nil, nil, err
	}
	defer s.state.release(file)
	out, err := os.CreateTemp(s.dir, copyPattern)
	if err != nil {
		return nil, nil, fmt.Errorf("copying the state: %w", err)
	}
	// An open file stays readable, and nothing is left behind by a crash.
	err = os.Remove(out.Name())
	var meta *raft.SnapshotMeta
	if err == nil {
		err = file.read(func(v view) error {
			meta = snapshotMeta(v)
			_, err := v.tx.WriteTo(out)
			return err
		})
	}
	if err == nil {
		_, err = out.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = out.Close()
		return nil, nil, fmt.Errorf("copying the state: %w", err)
	}
	return meta, leaving{out, s.mayLeave}, nil
}

// mayLeave refuses a copy of a state that is wrong: who is behind this node's log
// waits for another leader.
func (s *snapshotStore) mayLeave() error {
	why := s.quarantined()
	if why == "" {
		return nil
	}
	s.mu.Lock()
	tell := time.Since(s.refused) >= refusedEvery
	if tell {
		s.refused = time.Now()
	}
	s.mu.Unlock()
	if tell {
		s.story.warn("another node needs a copy of the state, but this one's is wrong: it waits for a leader whose state is right", "reason", why)
	}
	return fmt.Errorf("this node's state is wrong, so nobody gets a copy of it (%s): %w", why, fleet.ErrUnavailable)
}

// leaving is a copy on its way out, which ends early when the state turns out to
// be wrong.
type leaving struct {
	file *os.File
	may  func() error
}

// Read implements io.Reader.
func (l leaving) Read(p []byte) (int, error) {
	if err := l.may(); err != nil {
		return 0, err
	}
	return l.file.Read(p)
}

// Close implements io.Closer.
func (l leaving) Close() error { return l.file.Close() }

// Create implements raft.SnapshotStore.
func (s *snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration,
	confIndex uint64, _ raft.Transport,
) (raft.SnapshotSink, error) {
	return &snapshotSink{store: s, meta: raft.SnapshotMeta{
		Version: version, ID: localSnapshotID, Index: index, Term: term,
		Configuration: conf, ConfigurationIndex: confIndex,
	}}, nil
}

// snapshotSink receives another node's state file. For the local snapshot
// nothing is ever written to it.
type snapshotSink struct {
	store *snapshotStore
	meta  raft.SnapshotMeta
	file  *os.File
}

// ID implements raft.SnapshotSink.
func (s *snapshotSink) ID() string { return s.meta.ID }

func (s *snapshotSink) path() string { return filepath.Join(s.store.dir, incomingName+tmpSuffix) }

// Write implements raft.SnapshotSink.
func (s *snapshotSink) Write(p []byte) (int, error) {
	if s.file == nil {
		f, err := os.OpenFile(s.path(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return 0, s.store.unwritten(err)
		}
		s.file, s.meta.ID = f, receivedSnapshotID
		s.store.begin(s.meta.Index)
	}
	n, err := s.file.Write(p)
	return n, s.store.unwritten(err)
}

// unwritten tells of a copy that the disk did not take. The state is as it was,
// and the copy comes again, so the node goes on.
func (s *snapshotStore) unwritten(err error) error {
	switch {
	case err == nil:
		return nil
	case isFull(err):
		s.story.warn("the disk is full: make room for a copy of the state, without which this node is not ready; it is sent again", "error", err)
	default:
		s.story.warn("a copy of the state could not be written, look at the disk; it is sent again", "error", err)
	}
	return fmt.Errorf("receiving a snapshot: %w", err)
}

// begin notes that a snapshot comes.
func (s *snapshotStore) begin(index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = time.Now()
	s.logger.Info("receives a snapshot of the state, because the log that is missing here was cut", "index", index)
}

// Cancel implements raft.SnapshotSink.
func (s *snapshotSink) Cancel() error {
	if s.file == nil {
		return nil
	}
	err := errors.Join(s.file.Close(), os.Remove(s.path()))
	s.file = nil
	return err
}

// Close implements raft.SnapshotSink: the file is checked as a whole, told
// where in the log it stands, and left for Restore.
func (s *snapshotSink) Close() error {
	if s.file == nil {
		return nil
	}
	size, err := s.file.Seek(0, io.SeekEnd)
	err = errors.Join(err, s.file.Sync(), s.file.Close())
	s.file = nil
	if err != nil {
		_ = os.Remove(s.path())
		return s.store.unwritten(err)
	}
	s.store.step("received")
	if err := s.stamp(); err != nil {
		_ = os.Remove(s.path())
		return s.store.unwritten(err)
	}
	s.store.step("checked")
	if err := os.Rename(s.path(), filepath.Join(s.store.dir, incomingName)); err != nil {
		return fmt.Errorf("receiving a snapshot: %w", err)
	}
	s.meta.Size = size
	s.store.mu.Lock()
	s.store.received = &s.meta
	s.store.mu.Unlock()
	s.store.step("closed")
	return syncDir(s.store.dir)
}

// stamp checks the received file and writes raft's own word on its position and
// configuration into it: a restored backup stands elsewhere in the log.
func (s *snapshotSink) stamp() error {
	pos, err := checkState(s.path())
	if err != nil {
		return err
	}
	f, err := openStateFile(s.path(), 1)
	if err != nil {
		return err
	}
	pos.Index, pos.Term = s.meta.Index, s.meta.Term
	err = f.write(func(tx *bbolt.Tx) error {
		return errors.Join(putLocal(tx, keyPosition, pos),
			putLocal(tx, keyConfiguration, configuration{Index: s.meta.ConfigurationIndex, Config: s.meta.Configuration}))
	})
	return errors.Join(err, f.db.Close())
}

// installReceived puts the received file in the state's place and opens it. The
// old file lives on, without a name, while readers hold it.
func (s *snapshotStore) installReceived() (*stateFile, error) {
	s.mu.Lock()
	s.received = nil
	s.mu.Unlock()
	path := filepath.Join(s.dir, stateFileName)
	s.step("restoring")
	if err := os.Rename(filepath.Join(s.dir, incomingName), path); err != nil {
		return nil, fmt.Errorf("installing a snapshot: %w", err)
	}
	if err := syncDir(s.dir); err != nil {
		return nil, err
	}
	s.step("renamed")
	return openStateFile(path, s.mmapBytes)
}

// installed says what was caught up.
func (s *snapshotStore) installed(file *stateFile, index, before uint64) {
	var bytes int64
	if err := file.read(func(v view) error {
		bytes = v.tx.Size()
		return nil
	}); err != nil {
		return // whoever reads next meets it too
	}
	s.mu.Lock()
	took := time.Since(s.begun)
	s.mu.Unlock()
	s.logger.Info("caught up by a snapshot", "index", index, "entries", lag(index, before), "bytes", bytes, "took", ms(took))
}

// removeLeftovers deletes what an interrupted copy or installation left. A
// received snapshot that was not yet installed is sent again by the leader.
func removeLeftovers(dir string) error {
	for _, pattern := range []string{"*" + tmpSuffix, incomingName} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, path := range found {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("removing a leftover: %w", err)
			}
		}
	}
	return nil
}
