// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestForgedEntryIsNotTaken: an agent puts whole entries into its records, and the
// header of the entry around them is damaged. In format 1, whose entries anybody can
// write, they were taken for the spool's own.
func TestForgedEntryIsNotTaken(t *testing.T) {
	for name, id := range map[string]spoolID{"format 1": idOfFormat1, "format 2": sampleID} {
		dir := t.TempDir()
		s := newSpoolLog(testSpools(t, dir, 1), filepath.Join(dir, "7"))
		s.id, s.marks.now.id = id, id
		writeEntries(t, s, 1, 1)
		b := &batch{}
		b.reset()
		value := slices.Concat([]byte("2 "), sampleEntry(1<<40, idOfFormat1), sampleEntry(1<<40, spoolID{1, 2, 3}))
		b.add(noon, "key", value, nil)
		b.frame(b.buf, 0)
		if err := s.append([]write{{records: 1, oldest: noon, head: b.buf[offBaseOffset:recordsAt], rest: b.buf[recordsAt:]}}); err != nil {
			t.Fatal(err)
		}
		writeEntries(t, s, 3, 8)
		s.close()
		first := segmentsOf(t, s.dir)[0]
		content, err := os.ReadFile(first)
		if err == nil {
			content[len(sampleOf(t, 1))+entLength+3] ^= 1
			err = os.WriteFile(first, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		back, err := openSpoolLog(testSpools(t, dir, 1), s.dir)
		if err != nil {
			t.Fatal(err)
		}
		if id == idOfFormat1 {
			if _, _, _, err := findEntry(back.segs[0].file, id, int64(len(sampleOf(t, 1))), back.segs[0].size, 0); err != nil {
				t.Errorf("%s: the forged entry is not whole: this test shows nothing", name)
			}
			back.close()
			continue
		}
		numbers, lost := readEntries(t, back)
		if want := []int{1, 3, 4, 5, 6, 7, 8, 9, 10}; !slices.Equal(numbers, want) || lost != 1 {
			t.Errorf("%s: read %v, %d lost, want %v and 1", name, numbers, lost, want)
		}
		back.close()
	}
}

// openTopic opens the spool of the default topic, as New does.
func openTopic(t *testing.T, dir string) *Log {
	t.Helper()
	opts := Options{Brokers: []string{"127.0.0.1:1"}, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()}
	opts.SpoolDir, opts.bootID = dir, [16]byte{1}
	opts.spoolDisk = lazyDisk{}
	l, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestSpoolOfFormat1IsRead: an older program left a spool and its marks. It is read,
// what is new goes behind it in the new format, and from then on older programs are
// told to leave it alone.
func TestSpoolOfFormat1IsRead(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, DefaultTopic)
	s := newSpoolLog(testSpools(t, dir, 1), filepath.Join(dir, "7"))
	s.id = idOfFormat1
	writeEntries(t, s, 1, 9)
	s.close()
	note, _ := json.Marshal(topicNote{Version: 1, Topic: DefaultTopic, Partitions: 8})
	for name, content := range map[string][]byte{
		filepath.Join(dir, topicFile): note,
		s.marks.path:                  marksOfFormat1(markValues{done: 2, sent: 4, ceiling: 34}, [16]byte{1}),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := openTopic(t, root)
	if s := l.Ledger(); s.Recovered != 7 || s.PossibleDuplicates != 2 || l.spools.known() != 8 {
		t.Errorf("ledger = %+v of %d partitions, want 7 recovered, 2 of them sent, of 8", s, l.spools.known())
	}
	writeEntries(t, l.found[7], 10, 3)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(filepath.Join(dir, topicFile)); err != nil || !strings.Contains(string(content), `"version":2`) {
		t.Errorf("%s = %s %v, want the new version", topicFile, content, err)
	}
	l = openTopic(t, root)
	defer func() { _ = l.Close() }()
	if numbers, lost := readEntries(t, l.found[7]); !slices.Equal(numbers, []int{3, 4, 5, 6, 7, 8, 9, 10, 11, 12}) || lost != 0 {
		t.Errorf("read %v, %d lost, want 3 to 12", numbers, lost)
	}
}

// TestSpoolWithoutMarksIsRead: the files themselves tell what their entries begin with.
func TestSpoolWithoutMarksIsRead(t *testing.T) {
	dir := t.TempDir()
	s := newSpoolLog(testSpools(t, dir, 1), filepath.Join(dir, "7"))
	writeEntries(t, s, 1, 9)
	s.close()
	if err := os.Remove(s.marks.path); err != nil {
		t.Fatal(err)
	}
	for from := 10; from < 12; from++ {
		back, err := openSpoolLog(testSpools(t, dir, 1), s.dir)
		if err != nil {
			t.Fatal(err)
		}
		if numbers, lost := readEntries(t, back); len(numbers) != from-1 || lost != 0 {
			t.Errorf("read %v, %d lost, want 1 to %d", numbers, lost, from-1)
		}
		writeEntries(t, back, from, 1)
		back.close()
	}
}
