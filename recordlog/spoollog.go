// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// spoolLog is the spool of one partition: entries in segment files, appended at
// the end by one goroutine and read from the front by another. A segment is
// removed when all of it is settled. Only what was synced can be read.
type spoolLog struct {
	store *spools
	dir   string
	id    spoolID // of what is written from now on

	mu     sync.Mutex // guards what follows; no I/O under it
	segs   []*segment // oldest first; the last one is written
	next   place      // of the entry that is written next
	read   cursor     // of the entry that is read next
	taken  place      // what of the spool was read: up to here
	done   place      // what of the spool is settled: up to here
	eldest time.Time  // when the oldest record came, about; zero if there is none

	marks   *marks
	tail    *segment // the writer's; the last of segs
	scratch []byte   // the writer's
}

// place is a position between two entries.
type place struct {
	number  uint64 // of the entry behind it
	records uint64 // in all entries before it
}

// cursor is where the next entry is read.
type cursor struct {
	seg int // in segs
	off int64
}

// segment is one file.
type segment struct {
	file  *os.File
	path  string
	id    spoolID
	first uint64 // number of its first entry, also its name
	size  int64  // of what is synced and whole
	bad   bool   // nothing may be written behind size any more
}

const segmentSuffix = ".spool"

func segmentName(first uint64) string { return fmt.Sprintf("%020d%s", first, segmentSuffix) }

// newSpoolLog prepares an empty spool; nothing is written yet.
func newSpoolLog(store *spools, dir string) *spoolLog {
	start, id := place{number: 1}, newSpoolID()
	return &spoolLog{store: store, dir: dir, id: id, next: start, taken: start, done: start, marks: newMarks(dir, id, store)}
}

// write is one batch to be appended.
type write struct {
	records uint32
	oldest  time.Time
	head    []byte // the batch's header from offBaseOffset on
	rest    []byte
	flying  bool // the sender has it: it is the first of a spool
	sent    bool // it may be in Kafka
}

// append writes batches behind all others and syncs them. After an error none
// of them is there.
func (s *spoolLog) append(writes []write) error {
	s.mu.Lock()
	at := s.next
	s.mu.Unlock()
	buf := s.scratch[:0]
	for _, w := range writes {
		buf = appendEntry(buf, s.id, entry{number: at.number, before: at.records, records: w.records, oldest: w.oldest}, w.head, w.rest)
		at = place{at.number + 1, at.records + uint64(w.records)}
	}
	s.scratch = buf
	if cap(s.scratch) > 4*batchBytes {
		s.scratch = nil
	}
	if !s.store.reserve(int64(len(buf))) {
		return errSpoolFull
	}
	if err := s.appendBytes(buf, writes[0].sent); err != nil {
		s.store.release(int64(len(buf)))
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if writes[0].flying { // nobody has to read it
		s.read.off = entrySize(len(writes[0].head) + len(writes[0].rest))
		s.taken = place{s.next.number + 1, s.next.records + uint64(writes[0].records)}
	}
	s.tail.size += int64(len(buf))
	s.next = at
	if s.eldest.IsZero() {
		s.eldest = writes[0].oldest
	}
	return nil
}

// appendBytes writes encoded entries to the last segment, or to a new one.
func (s *spoolLog) appendBytes(buf []byte, sent bool) error {
	if s.tail == nil || s.tail.bad || s.tail.size >= s.store.segmentBytes {
		if err := s.newSegment(); err != nil {
			return err
		}
	}
	if sent { // noted first: after a crash it may be on disk and in Kafka
		s.marks.noteSent(s.next.number)
	}
	tail := s.tail
	began := time.Now()
	_, err := s.store.disk.writeAt(tail.file, buf, tail.size)
	if err == nil {
		err = s.store.disk.fsync(tail.file)
	}
	s.store.metrics.synced(time.Since(began))
	if err != nil {
		// After a sync that failed nobody knows what is on disk.
		tail.bad = true
		_ = tail.file.Truncate(tail.size)
		return fmt.Errorf("writing to the spool: %w", err)
	}
	return nil
}

// newSegment makes a file for the next entry.
func (s *spoolLog) newSegment() error {
	if err := s.store.noteFormat(); err != nil {
		return fmt.Errorf("noting the format of the spool: %w", err)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("making a directory of the spool: %w", err)
	}
	s.mu.Lock()
	seg := &segment{id: s.id, first: s.next.number, path: filepath.Join(s.dir, segmentName(s.next.number))}
	if n := len(s.segs); n > 0 && s.segs[n-1].first == seg.first { // nothing got into it
		seg = s.segs[n-1]
		s.mu.Unlock()
		if err := seg.file.Truncate(0); err != nil {
			return fmt.Errorf("emptying a file of the spool: %w", err)
		}
		seg.bad = false
		return nil
	}
	s.mu.Unlock()
	s.marks.begin()
	f, err := os.OpenFile(seg.path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("making a file of the spool: %w", err)
	}
	seg.file = f
	if err := s.syncNames(); err != nil {
		return errors.Join(fmt.Errorf("making a file of the spool: %w", err), f.Close(), os.Remove(seg.path))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segs = append(s.segs, seg)
	s.tail = seg
	return nil
}

// syncNames makes the names of the files last, and with the first of them that of
// the directory.
func (s *spoolLog) syncNames() error {
	if s.tail == nil {
		if err := syncDir(s.store.disk, filepath.Dir(s.dir)); err != nil {
			return err
		}
	}
	return syncDir(s.store.disk, s.dir)
}

// syncDir makes the names in a directory last.
func syncDir(disk spoolDisk, dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(disk.fsync(d), d.Close())
}

// found is what one read brought.
type found struct {
	batch *batch
	lost  uint64 // records of damaged entries before it
}

// readNext reads the next entry that was not read yet. The batch is nil if there
// is none; then lost may still count what was damaged.
func (s *spoolLog) readNext() (f found) {
	for {
		s.mu.Lock()
		if s.read.seg >= len(s.segs) || s.taken.number >= s.next.number {
			if s.taken.number < s.next.number { // the rest cannot be read
				f.lost += s.next.records - s.taken.records
				s.taken = s.next
			}
			s.mu.Unlock()
			return f
		}
		seg, off, end := s.segs[s.read.seg], s.read.off, s.segs[s.read.seg].size
		last := s.read.seg == len(s.segs)-1
		want := s.taken
		until := uint64(math.MaxUint64)
		if !last {
			until = s.segs[s.read.seg+1].first
		}
		s.mu.Unlock()

		e, wire, next, err := findEntry(seg.file, seg.id, off, end, want.number)
		if err == nil && e.number >= until {
			err = io.EOF // of a write that failed: the number was used again
		}
		switch {
		case err != nil && last:
			s.store.damaged(seg.path, off, err)
			f.lost += s.giveUpEnd(seg, end)
			continue
		case err != nil:
			if !errors.Is(err, io.EOF) {
				s.store.damaged(seg.path, off, err)
			}
			s.mu.Lock()
			s.read = cursor{seg: s.read.seg + 1}
			s.mu.Unlock()
			continue
		}
		s.mu.Lock()
		s.read.off = next
		jumped := e.before - want.records
		if e.before < want.records || e.before > s.next.records {
			jumped = 0 // never: the sum is right
		}
		s.taken = place{e.number + 1, e.before + uint64(e.records)}
		s.eldest = e.oldest
		s.mu.Unlock()
		if jumped > 0 || e.number != want.number {
			s.store.damaged(seg.path, off, errDamaged)
		}
		f.lost += jumped
		if f.batch, err = batchOf(e, wire); err != nil {
			s.store.damaged(seg.path, off, err)
			f.lost += uint64(e.records)
			continue
		}
		return f
	}
}

// giveUpEnd passes over the unreadable end of the last segment and returns how many
// records that costs. If more was written meanwhile, that will tell.
func (s *spoolLog) giveUpEnd(seg *segment, end int64) (lost uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read.off = end
	if seg.size == end && s.read.seg == len(s.segs)-1 {
		lost = s.next.records - s.taken.records
		s.taken = s.next
	}
	return lost
}

// findEntry reads the first whole entry at or behind off with at least the
// wanted number. wire is a buffer of its own with room for the size in front.
// io.EOF means that there is none up to end.
func findEntry(file io.ReaderAt, id spoolID, off, end int64, number uint64) (e entry, wire []byte, next int64, err error) {
	damaged := io.EOF
	for off < end {
		e, data, err := entryAt(file, id, off, end)
		switch {
		case err == nil && e.number >= number:
			// The size of a produce request fits where the header's end was.
			return e, data[entBytes-offBaseOffset:], off + int64(len(data)), nil
		case err == nil: // written twice, or settled already
			off += int64(len(data))
		case errors.Is(err, errDamaged):
			damaged = err
			off = seekID(file, id, off+1, end)
		default:
			return e, nil, off, fmt.Errorf("reading the spool: %w", err)
		}
	}
	return e, nil, off, damaged
}

// entryAt reads the entry that begins at off.
func entryAt(file io.ReaderAt, id spoolID, off, end int64) (e entry, data []byte, err error) {
	if end-off < entBytes {
		return e, nil, errDamaged
	}
	var header [entBytes]byte
	if _, err := file.ReadAt(header[:], off); err != nil {
		return e, nil, err
	}
	_, length, err := parseHeader(header[:], id)
	if err != nil {
		return e, nil, err
	}
	if off+entrySize(length) > end {
		return e, nil, errDamaged
	}
	data = make([]byte, entBytes+length)
	if _, err := file.ReadAt(data, off); err != nil {
		return e, nil, err
	}
	e, err = parseEntry(data, id)
	return e, data, err
}

// seekID returns the next offset at which an entry may begin, or end.
func seekID(file io.ReaderAt, id spoolID, off, end int64) int64 {
	buf := make([]byte, 64<<10)
	for off < end {
		n, err := file.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
		if i := bytes.Index(buf[:n], id[:]); i >= 0 {
			return off + int64(i)
		}
		if err != nil || n < len(id) {
			return end
		}
		off += int64(n - len(id) + 1)
	}
	return end
}

// unread tells whether there is something to read.
func (s *spoolLog) unread() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken.number < s.next.number
}

// sending notes that all that was read may be in Kafka from now on.
func (s *spoolLog) sending() {
	s.mu.Lock()
	taken := s.taken
	s.mu.Unlock()
	s.marks.noteSent(taken.number - 1)
}

// settle notes that all that was read is settled, and removes what that makes
// of no use. The last segment stays: it may be written to.
func (s *spoolLog) settle() {
	s.mu.Lock()
	s.done = s.taken
	useless := 0
	for useless < s.read.seg && useless < len(s.segs)-1 {
		useless++
	}
	gone := slices.Clone(s.segs[:useless])
	s.segs = slices.Delete(s.segs, 0, useless)
	s.read.seg -= useless
	if s.done == s.next {
		s.eldest = time.Time{}
	}
	done := s.done
	s.mu.Unlock()
	s.marks.noteDone(done.number - 1)
	for _, seg := range gone {
		s.removeSegment(seg)
	}
}

// rewind has everything that is not settled read again.
func (s *spoolLog) rewind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken, s.read = s.done, cursor{}
}

func (s *spoolLog) removeSegment(seg *segment) {
	err := errors.Join(seg.file.Close(), os.Remove(seg.path))
	s.store.release(seg.size)
	if err != nil {
		s.store.complain("removing a file of the spool", err)
	}
}

// oldest returns when the oldest record came that is not settled, or a little
// before that; zero if all is.
func (s *spoolLog) oldest() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.eldest
}

// close closes the files and leaves them.
func (s *spoolLog) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seg := range s.segs {
		_ = seg.file.Close()
	}
	s.segs, s.tail = nil, nil
	s.marks.close()
}

// remove closes and removes everything, the marks last: what is left after a
// crash in between is still marked as settled.
func (s *spoolLog) remove() {
	defer s.store.unclaim(s.dir)
	s.mu.Lock()
	segs := s.segs
	s.segs, s.tail = nil, nil
	s.mu.Unlock()
	for _, seg := range segs {
		s.removeSegment(seg)
	}
	s.marks.close()
	err := os.Remove(filepath.Join(s.dir, marksName))
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = os.Remove(s.dir)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.store.complain("removing the directory of a spool", err)
	}
}
