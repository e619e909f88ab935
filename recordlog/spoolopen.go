// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// openSpoolLog opens what an earlier process left of one partition's spool. The
// torn end of the newest segment is cut. It returns nil, and removes the
// directory, if nothing is left to deliver.
func openSpoolLog(store *spools, dir string) (*spoolLog, error) {
	s := newSpoolLog(store, dir)
	store.claim(dir)
	if err := s.marks.load(); err != nil {
		store.complain("reading the marks of the spool: all of it counts as possibly sent", err)
	}
	s.id = s.marks.now.id
	if err := s.openSegments(); err != nil {
		return nil, err
	}
	if err := s.findEnd(); err != nil {
		s.close()
		return nil, err
	}
	s.findStart()
	if s.done.number >= s.next.number {
		s.remove()
		return nil, nil
	}
	last := s.next.number - 1
	s.marks.now.sent, s.marks.now.ceiling = min(s.marks.now.sent, last), min(s.marks.now.ceiling, last)
	return s, nil
}

// openSegments opens the segment files, oldest first.
func (s *spoolLog) openSegments() error {
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		number, ok := strings.CutSuffix(f.Name(), segmentSuffix)
		first, err := strconv.ParseUint(number, 10, 64)
		if !ok || err != nil || first == 0 || first > math.MaxInt64 {
			continue
		}
		path := filepath.Join(s.dir, f.Name())
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		info, err := file.Stat()
		if err != nil {
			return errors.Join(err, file.Close())
		}
		// What is written from now on goes to a new file.
		s.segs = append(s.segs, &segment{file: file, path: path, id: s.idOf(file, info.Size()), first: first, size: info.Size(), bad: true})
		s.store.mu.Lock()
		s.store.used += info.Size()
		s.store.mu.Unlock()
	}
	slices.SortFunc(s.segs, func(a, b *segment) int { return cmp.Compare(a.first, b.first) })
	return nil
}

// idOf tells the ID of the entries in a file. Its first bytes are never an agent's:
// they say it if they are those of format 1, or begin a whole entry. Else they are
// damaged, and the marks have it.
func (s *spoolLog) idOf(file io.ReaderAt, size int64) spoolID {
	var own spoolID
	if _, err := file.ReadAt(own[:], 0); err != nil {
		return s.id
	}
	if _, _, err := entryAt(file, own, 0, size); err == nil || own == idOfFormat1 {
		return own
	}
	return s.id
}

// findEnd finds the last whole entry and cuts what is behind it.
func (s *spoolLog) findEnd() error {
	for len(s.segs) > 0 {
		seg := s.segs[len(s.segs)-1]
		whole := int64(0)
		for off := int64(0); ; {
			e, _, next, err := findEntry(seg.file, seg.id, off, seg.size, 0)
			if err != nil && !errors.Is(err, errDamaged) && !errors.Is(err, io.EOF) {
				return fmt.Errorf("%s: %w", seg.path, err)
			}
			if err != nil {
				break
			}
			s.next = place{e.number + 1, e.before + uint64(e.records)}
			whole, off = next, next
		}
		if torn := seg.size - whole; torn > 0 {
			s.store.logger.Warn("cut the torn end of a spool file, as a crash leaves it", "file", seg.path, "bytes", torn)
			if err := seg.file.Truncate(whole); err != nil {
				return fmt.Errorf("cutting the torn end of the spool: %w", err)
			}
			s.store.release(torn)
			seg.size = whole
		}
		if whole > 0 {
			s.tail = seg
			return nil
		}
		s.segs = s.segs[:len(s.segs)-1]
		s.removeSegment(seg)
	}
	return nil
}

// findStart finds the first entry that is not settled.
func (s *spoolLog) findStart() {
	want := s.marks.now.done + 1
	for s.read.seg < len(s.segs) {
		seg := s.segs[s.read.seg]
		if later := s.read.seg + 1; later < len(s.segs) && s.segs[later].first <= want {
			s.read.seg++
			continue
		}
		// The last settled one, if it is still there, tells where the next begins,
		// should that be damaged.
		e, _, next, err := findEntry(seg.file, seg.id, 0, seg.size, want-1)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.store.damaged(seg.path, 0, err)
			}
			s.read = cursor{seg: s.read.seg + 1}
			continue
		}
		s.taken, s.eldest = place{e.number, e.before}, e.oldest
		switch {
		case e.number < want:
			s.taken = place{want, e.before + uint64(e.records)}
			s.read.off = next
		case want == 1 && s.segs[0].first == 1: // nothing is before it
			s.taken = place{number: 1}
		case e.number > max(want, s.segs[0].first):
			s.store.damaged(seg.path, 0, errDamaged)
		}
		s.done = s.taken
		return
	}
	s.taken, s.done = s.next, s.next
}

// left returns how many records are not settled, and how many of them may have
// been sent by an earlier process.
func (s *spoolLog) left() (records, doubtful uint64) {
	records = s.next.records - s.done.records
	if s.marks.now.sent >= s.next.number-1 {
		return records, records
	}
	// Where the entry behind the mark begins is in its header.
	for _, seg := range slices.Backward(s.segs) {
		if seg.first > s.marks.now.sent+1 {
			continue
		}
		e, _, _, err := findEntry(seg.file, seg.id, 0, seg.size, s.marks.now.sent+1)
		if err == nil && e.before > s.done.records {
			doubtful = e.before - s.done.records
		}
		break
	}
	return records, doubtful
}
