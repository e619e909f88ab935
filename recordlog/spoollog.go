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
	writes time.Time  // when the writer went to the disk; zero while it is not there

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
	s.goes(time.Now())
	defer s.goes(time.Time{})
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

// goes notes that the writer goes to the disk, or with zero that it is back.
func (s *spoolLog) goes(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = at
}

// hangs tells whether the writer waits for the disk for so long that it is not slow
// but broken.
func (s *spoolLog) hangs(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.writes.IsZero() && now.Sub(s.writes) > hangingDisk
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
	defer s.store.begin(tail.path)()
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
	defer s.store.begin(s.dir)()
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

// reading is where the next entry is read, and which one.
type reading struct {
	seg      *segment
	off, end int64
	want     place
	until    uint64 // number of the first entry of the next segment
	last     bool   // there is none
}

// toRead returns what is read next; false if nothing is left. Lost counts the rest if
// no segment has it.
func (s *spoolLog) toRead() (r reading, lost uint64, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken.number >= s.next.number {
		return r, 0, false
	}
	if s.read.seg >= len(s.segs) {
		lost = s.next.records - s.taken.records
		s.taken = s.next
		return r, lost, false
	}
	seg := s.segs[s.read.seg]
	r = reading{seg: seg, off: s.read.off, end: seg.size, want: s.taken, until: math.MaxUint64}
	if r.last = s.read.seg == len(s.segs)-1; !r.last {
		r.until = s.segs[s.read.seg+1].first
	}
	return r, 0, true
}

// took notes that e was read, and returns how many records are missing before it.
func (s *spoolLog) took(e entry, r reading, next int64) (lost uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.before >= r.want.records && e.before <= s.next.records { // always: the sum is right
		lost = e.before - r.want.records
	}
	s.read.off = next
	s.taken = place{e.number + 1, e.before + uint64(e.records)}
	s.eldest = e.oldest
	return lost
}

// readNext reads the next entry that was not read yet. The batch is nil if there
// is none; then lost may still count what was damaged.
func (s *spoolLog) readNext() (f found) {
	for {
		r, lost, more := s.toRead()
		f.lost += lost
		if !more {
			return f
		}
		done := s.store.begin(r.seg.path)
		e, wire, next, err := findEntry(r.seg.file, r.seg.id, r.off, r.end, r.want.number)
		done()
		if err == nil && e.number >= r.until {
			err = io.EOF // of a write that failed: the number was used again
		}
		if err != nil && (r.last || !errors.Is(err, io.EOF)) {
			s.store.damaged(r.seg.path, r.off, err)
		}
		switch {
		case err != nil && r.last:
			f.lost += s.giveUpEnd(r.seg, r.end)
			continue
		case err != nil:
			s.mu.Lock()
			s.read = cursor{seg: s.read.seg + 1}
			s.mu.Unlock()
			continue
		}
		lost = s.took(e, r, next)
		if f.lost += lost; lost > 0 || e.number != r.want.number {
			s.store.damaged(r.seg.path, r.off, errDamaged)
		}
		if f.batch, err = batchOf(e, wire); err != nil {
			s.store.damaged(r.seg.path, r.off, err)
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
	defer s.store.begin(seg.path)()
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
	defer s.store.begin(s.dir)()
	s.marks.close()
	err := os.Remove(filepath.Join(s.dir, marksName))
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = os.Remove(s.dir)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.store.complain("removing the directory of a spool", err)
	}
}
