// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// spools is the directory of all partitions' spools of one topic:
//
//	DIR/LOCK
//	DIR/TOPIC/topic.json           how many partitions the topic has
//	DIR/TOPIC/7/00000000000000000001.spool, marks
//
// A nil *spools stands for a Log without a spool.
type spools struct {
	root         string // DIR
	dir          string // DIR/TOPIC
	topic        string
	limit        int64
	segmentBytes int64
	disk         spoolDisk
	logger       *slog.Logger
	metrics      *spoolMetrics
	bootID       [16]byte // zero if the system has none
	lock         *os.File

	spoolState
}

// spoolState is what changes of the spools.
type spoolState struct {
	mu         sync.Mutex
	used       int64 // bytes of all files
	partitions int   // of the topic as last known; 0 if never
	noted      bool  // topic.json says all that
	active     int   // partitions that spool now
	trouble    string
	full       bool
	told       bool      // that records go to the disk
	failed     time.Time // the last write that failed
	claimed    map[string]bool
	works      map[*work]bool // what is done with files just now
	hang       string         // what the disk has not answered for hangingDisk; "" if nothing
}

// spoolDisk is what may fail when a disk is full, broken or slow.
type spoolDisk interface {
	writeAt(f *os.File, p []byte, off int64) (int, error)
	fsync(f *os.File) error
}

// osDisk is the real one.
type osDisk struct{}

func (osDisk) writeAt(f *os.File, p []byte, off int64) (int, error) { return f.WriteAt(p, off) }
func (osDisk) fsync(f *os.File) error                               { return f.Sync() }

const (
	topicFile = "topic.json"
	// segments of a spool: large enough that making and removing them costs
	// nothing, small enough that a spool gives its disk back as it is drained.
	maxSegmentBytes = 8 << 20
	minSegmentBytes = 64 << 10
	minSpoolBytes   = 1 << 20
)

// spoolFormat is the version of all that lies in the directory of a topic. Of format
// 1 are the entries of segments that begin with idOfFormat1.
const spoolFormat = 2

// topicNote is the content of topic.json.
type topicNote struct {
	Version    int    `json:"version"` // spoolFormat; of the entries and marks beside it, too
	Topic      string `json:"topic"`
	Partitions int    `json:"partitions"`
}

// openSpools locks the directory and opens what an earlier process left, by
// partition. It returns nil without a directory to spool to.
func openSpools(opts *Options, m *spoolMetrics) (*spools, map[int]*spoolLog, error) {
	if opts.SpoolDir == "" {
		return nil, nil, nil
	}
	lock, err := lockDir(opts.SpoolDir, "spool")
	if err != nil {
		return nil, nil, err
	}
	s := &spools{
		root: opts.SpoolDir, dir: filepath.Join(opts.SpoolDir, opts.Topic), topic: opts.Topic,
		limit:        opts.SpoolMaxBytes,
		segmentBytes: max(minSegmentBytes, min(maxSegmentBytes, opts.SpoolMaxBytes/64)),
		disk:         opts.spoolDisk, logger: opts.Logger, metrics: m, bootID: opts.bootID, lock: lock,
		spoolState: spoolState{claimed: make(map[string]bool), works: make(map[*work]bool)},
	}
	logs, err := s.load()
	if err != nil {
		s.close()
		return nil, nil, fmt.Errorf("recordlog: opening the spool: %w", err)
	}
	s.reportOthers()
	return s, logs, nil
}

// machineBoot identifies this start of the machine; zero where that is unknown.
func machineBoot() (id [16]byte) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err == nil {
		sum := sha256.Sum256(text)
		copy(id[:], sum[:])
	}
	return id
}

// load opens every spool of the topic.
func (s *spools) load() (map[int]*spoolLog, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	if err := s.loadNote(); err != nil {
		return nil, err
	}
	dirs, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	logs := make(map[int]*spoolLog)
	for _, d := range dirs {
		partition, err := strconv.Atoi(d.Name())
		if err != nil || partition < 0 || !d.IsDir() {
			continue
		}
		l, err := openSpoolLog(s, filepath.Join(s.dir, d.Name()))
		if err != nil {
			return nil, err
		}
		if l != nil {
			logs[partition] = l
		}
	}
	return logs, nil
}

// loadNote reads topic.json. A damaged one is worth what a missing one is.
func (s *spools) loadNote() error {
	text, err := os.ReadFile(filepath.Join(s.dir, topicFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var note topicNote
	err = json.Unmarshal(text, &note)
	if err == nil && note.Version > spoolFormat { // its entries would be taken for torn, and cut
		return fmt.Errorf("%s was written by a newer version (format %d, this one knows %d): start that version; nothing was changed",
			s.dir, note.Version, spoolFormat)
	}
	if err != nil || note.Version < 1 || note.Topic != s.topic ||
		note.Partitions < 1 || note.Partitions > maxPartitions {
		s.logger.Warn("the spool's note of the topic is of no use: records are held in memory until the partitions are learnt",
			"file", filepath.Join(s.dir, topicFile), "error", err)
		return nil
	}
	s.partitions, s.noted = note.Partitions, note.Version == spoolFormat
	return nil
}

// maxPartitions is more than a topic has; a goroutine is started for each.
const maxPartitions = 10_000

// note keeps the partition count for a start without Kafka.
func (s *spools) note(partitions int) {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.noted = s.noted && s.partitions == partitions
	s.partitions = partitions
	s.mu.Unlock()
	if err := s.noteFormat(); err != nil {
		s.complain("noting the topic's partitions", err)
	}
}

// noteFormat sees to it that topic.json says what is known and is of this format:
// an older program, which would take entries of it for torn ends, then leaves all
// alone.
func (s *spools) noteFormat() error {
	s.mu.Lock()
	note, noted := topicNote{Version: spoolFormat, Topic: s.topic, Partitions: s.partitions}, s.noted
	s.mu.Unlock()
	if noted {
		return nil
	}
	defer s.begin(filepath.Join(s.dir, topicFile))()
	text, err := json.Marshal(note)
	if err == nil {
		err = replaceFile(s.disk, filepath.Join(s.dir, topicFile), append(text, '\n'))
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noted = s.partitions == note.Partitions
	return nil
}

// known returns the partition count that was noted; 0 if none.
func (s *spools) known() int {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.partitions
}

// replaceFile writes a file so that a crash leaves the old or the new one.
func replaceFile(disk spoolDisk, path string, content []byte) error {
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = disk.fsync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	return syncDir(disk, filepath.Dir(path))
}

// reportOthers says what lies here of other topics. It is kept.
func (s *spools) reportOthers() {
	dirs, err := os.ReadDir(s.root)
	if err != nil {
		return
	}
	for _, d := range dirs {
		if !d.IsDir() || d.Name() == s.topic {
			continue
		}
		var bytes int64
		_ = filepath.WalkDir(filepath.Join(s.root, d.Name()), func(path string, e fs.DirEntry, err error) error {
			if info, statErr := fs.FileInfo(nil), error(nil); err == nil && strings.HasSuffix(path, segmentSuffix) {
				if info, statErr = e.Info(); statErr == nil {
					bytes += info.Size()
				}
			}
			return nil
		})
		if bytes > 0 {
			s.logger.Warn("the spool holds records of another topic: start once with that --kafka-topic to deliver them, or remove the directory to give them up",
				"topic", d.Name(), "bytes", bytes, "dir", filepath.Join(s.root, d.Name()))
		}
	}
}

func (s *spools) partitionDir(id int) string { return filepath.Join(s.dir, strconv.Itoa(id)) }

// claim takes a partition's directory, unless a spool is there: that of a partition
// of the same number that was gone for a while, until all of it is moved.
func (s *spools) claim(dir string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.claimed[dir] {
		return false
	}
	s.claimed[dir] = true
	return true
}

func (s *spools) unclaim(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.claimed, dir)
}

// reserve takes disk for n bytes, unless the limit forbids it.
func (s *spools) reserve(n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+n > s.limit {
		return false
	}
	s.used += n
	return true
}

func (s *spools) release(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
}

// usage returns the bytes of all files.
func (s *spools) usage() int64 {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

func (s *spools) maxBytes() int64 {
	if s == nil {
		return 0
	}
	return s.limit
}

// begins counts a partition that begins to spool, or has found a spool.
func (s *spools) begins(found bool) {
	s.mu.Lock()
	s.active++
	tell := !found && !s.told
	s.told = s.told || tell
	s.mu.Unlock()
	if tell {
		s.logger.Warn("kafka is away: records go to the disk now", "dir", s.dir, "limit_bytes", s.limit)
	}
}

// ends counts a partition whose spool is empty.
func (s *spools) ends() {
	s.mu.Lock()
	s.active--
	last := s.active == 0
	if last {
		s.full, s.trouble, s.told = false, "", false
	}
	s.mu.Unlock()
	if last {
		s.logger.Info("spool is empty: records go to kafka directly again")
	}
}

// state returns how many partitions spool, what keeps the disk from taking more, ""
// if nothing does, and whether it hangs.
func (s *spools) state() (active int, trouble string, hangs bool) {
	if s == nil {
		return 0, "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if trouble = s.trouble; s.hang != "" {
		trouble = "the disk of the spool does not answer, mend it: " + s.hang
	}
	return s.active, trouble, s.hang != ""
}

// spoolOldest returns when the oldest spooled record came; zero if there is none.
func (l *Log) spoolOldest() (oldest time.Time) {
	if l.spools == nil {
		return oldest
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	look := func(s *spoolLog) {
		if t := s.oldest(); !t.IsZero() && (oldest.IsZero() || t.Before(oldest)) {
			oldest = t
		}
	}
	for _, s := range l.found {
		look(s)
	}
	for _, p := range l.all {
		p.mu.Lock()
		s := p.spool
		p.mu.Unlock()
		if s != nil {
			look(s)
		}
	}
	return oldest
}

// calmAfter is how long no write may fail before the spool counts as well again:
// close to its limit some partitions still find room.
const calmAfter = 5 * spoolRetry

// wrote notes how a write ended, and says so when that changes.
func (s *spools) wrote(err error) {
	s.mu.Lock()
	was, now := s.trouble, time.Now()
	if err != nil {
		s.failed = now
	} else if now.Sub(s.failed) > calmAfter {
		s.full, s.trouble = false, ""
	}
	switch {
	case errors.Is(err, errSpoolFull):
		s.full, s.trouble = true, fmt.Sprintf("the spool is full (%d bytes): raise --spool-max-bytes or bring kafka back", s.limit)
	case err != nil:
		s.full, s.trouble = true, "the spool cannot be written, make room or mend the disk: "+err.Error()
	}
	why := s.trouble
	s.mu.Unlock()
	switch {
	case err != nil:
		if !errors.Is(err, errSpoolFull) {
			s.metrics.errors.Inc()
		}
		if was == "" {
			s.logger.Error("the spool takes no more: records stay in memory, and agents are slowed", "why", why, "dir", s.dir)
		}
	case was != "" && why == "":
		s.logger.Info("the spool takes records again")
	}
}

// damaged reports bytes in a spool that are no entry.
func (s *spools) damaged(path string, off int64, err error) {
	s.metrics.errors.Inc()
	s.logger.Error("a part of the spool is damaged: its records are lost and counted as dropped, the rest is delivered",
		"file", path, "offset", off, "error", err)
}

// complain reports what went wrong beside the records themselves.
func (s *spools) complain(what string, err error) {
	s.metrics.errors.Inc()
	s.logger.Warn("the spool's files give trouble; records are not lost by it", "doing", what, "error", err)
}

func (s *spools) close() {
	if s != nil && s.lock != nil {
		_ = s.lock.Close()
	}
}
