// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// logMeta is raft-wal's meta store. Its Load mends what raft-wal 0.4.0 leaves
// behind and does not expect to find:
//
//   - When raft takes back the end of a log, as a follower does whose last entries
//     another leader never had, the segment is called sealed without the index
//     that a sealed one is read by. All goes well until the next start, which
//     cannot read an entry of it (github.com/hashicorp/raft-wal/issues/31).
//   - When the process ends after a full segment was sealed and before the next
//     one is noted, the next start goes on with the sealed one, which refuses
//     every entry.
//   - When the disk is full while the last entries of a segment are written, its
//     index may be there in part, and without the commit after it. It is taken for
//     sealed all the same, and by that index nothing in it can be read.
//   - When there is no room for the next segment, an empty file stays, whose later
//     entries have no room set aside.
type logMeta struct {
	*metadb.BoltMetaDB
	logger *slog.Logger
	faults *logFaults
}

// CommitState implements types.MetaStore.
func (m *logMeta) CommitState(state types.PersistentState) error {
	return m.faults.note(m.BoltMetaDB.CommitState(state))
}

// Load implements types.MetaStore.
func (m *logMeta) Load(dir string) (types.PersistentState, error) {
	state, err := m.BoltMetaDB.Load(dir)
	if err != nil {
		return state, err
	}
	mended := false
	for i := range state.Segments {
		info := &state.Segments[i]
		if info.SealTime.IsZero() || info.IndexStart != 0 {
			continue
		}
		if info.IndexStart, err = indexSegment(filepath.Join(dir, segment.FileName(*info)), *info); err != nil {
			return state, fmt.Errorf("indexing a segment of the log: %w", err)
		}
		m.logger.Info("wrote the index of a log segment whose end was taken back",
			"first", info.MinIndex, "last", info.MaxIndex)
		mended = true
	}
	next, err := m.nextSegment(dir, &state)
	if err != nil {
		return state, fmt.Errorf("looking at the newest segment of the log: %w", err)
	}
	if mended || next {
		err = m.CommitState(state)
	}
	return state, err
}

// nextSegment notes that the newest segment is sealed, and a next one, if the
// file says so.
func (m *logMeta) nextSegment(dir string, state *types.PersistentState) (noted bool, err error) {
	if len(state.Segments) == 0 {
		return false, nil
	}
	tail := &state.Segments[len(state.Segments)-1]
	if !tail.SealTime.IsZero() {
		return false, nil
	}
	last, start, err := readTail(dir, *tail)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // it was noted, but not made: raft-wal makes it
	}
	if err != nil {
		return false, err
	}
	path := filepath.Join(dir, segment.FileName(*tail))
	if last == 0 {
		return false, m.removeUnmade(dir, path, start > 0, *tail)
	}
	if start == 0 {
		return false, nil
	}
	now := time.Now()
	tail.MaxIndex = last
	if start, err = soundIndex(path, *tail, start); err != nil {
		return false, err
	}
	tail.SealTime, tail.IndexStart = now, start
	state.Segments = append(state.Segments, types.SegmentInfo{
		ID: state.NextSegmentID, BaseIndex: tail.MaxIndex + 1, MinIndex: tail.MaxIndex + 1,
		Codec: tail.Codec, CreateTime: now, SizeLimit: tail.SizeLimit,
	})
	state.NextSegmentID++
	m.logger.Info("noted that a log segment was full", "last", last)
	return true, nil
}

// readTail returns the last entry of the newest segment, 0 if it has none, and
// where its index begins, 0 if it has none.
func readTail(dir string, tail types.SegmentInfo) (last, index uint64, err error) {
	w, err := segment.NewFiler(dir, fs.New()).RecoverTail(tail)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	_, index, err = w.Sealed()
	return w.LastIndex(), index, err
}

// removeUnmade removes the newest segment's file, in which no entry was ever
// committed, if it has an index or not the room for entries: raft-wal makes it
// anew, with all its room, or says that there is none.
func (m *logMeta) removeUnmade(dir, path string, indexed bool, tail types.SegmentInfo) error {
	info, err := os.Stat(path)
	if err != nil || !indexed && info.Size() >= int64(tail.SizeLimit) {
		return err
	}
	m.logger.Info("makes a log segment anew that was begun when the disk was full", "first", tail.BaseIndex)
	return errors.Join(os.Remove(path), syncDir(dir))
}

// soundIndex returns start if the segment's index is there as a whole, and else
// writes another.
func soundIndex(path string, info types.SegmentInfo, start uint64) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	want, err := findEntries(f, info.MaxIndex-info.BaseIndex+1)
	got := make([]byte, len(want))
	_, short := f.ReadAt(got, int64(start))
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	if (short == nil || errors.Is(short, io.EOF)) && bytes.Equal(got, want) {
		return start, nil
	}
	return indexSegment(path, info)
}

// The layout of a segment: a header of 32 bytes, then frames of 8 bytes of
// header (the type first, the length in the last four) and a payload padded to
// a multiple of 8. Only entries (type 1) and commits (3, without a payload)
// stand before the end of what was ever synced.
const (
	segmentHeaderBytes = 32
	frameHeaderBytes   = 8
	frameEntry         = 1
	frameCommit        = 3
)

// indexSegment appends to a segment the offsets of its entries, four bytes each
// in order, and returns where they begin. A crash leaves bytes that nothing
// refers to.
func indexSegment(path string, info types.SegmentInfo) (start uint64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	index, err := findEntries(f, info.MaxIndex-info.BaseIndex+1)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	end = (end + frameHeaderBytes - 1) / frameHeaderBytes * frameHeaderBytes
	if _, err := f.WriteAt(index, end); err != nil {
		return 0, err
	}
	return uint64(end), f.Sync()
}

// findEntries returns the offsets of the first n entries.
func findEntries(f *os.File, n uint64) (index []byte, err error) {
	r := bufio.NewReaderSize(f, 1<<20)
	at, err := r.Discard(segmentHeaderBytes)
	if err != nil {
		return nil, err
	}
	for found := uint64(0); found < n; {
		var header [frameHeaderBytes]byte
		if _, err := io.ReadFull(r, header[:]); err != nil {
			return nil, fmt.Errorf("it ends after %d of %d entries: %w", found, n, err)
		}
		size := 0
		switch header[0] {
		case frameEntry:
			index = binary.LittleEndian.AppendUint32(index, uint32(at))
			found++
			length := int(binary.LittleEndian.Uint32(header[4:]))
			size = (length + frameHeaderBytes - 1) / frameHeaderBytes * frameHeaderBytes
		case frameCommit:
		default:
			return nil, fmt.Errorf("a frame of type %d after %d of %d entries", header[0], found, n)
		}
		if _, err := r.Discard(size); err != nil {
			return nil, fmt.Errorf("it ends within entry %d of %d: %w", found, n, err)
		}
		at += frameHeaderBytes + size
	}
	return index, nil
}
