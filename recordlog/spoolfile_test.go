// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

// The files of a spool are tested from inside: no caller sees them.

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// sampleID is what a spool drew by lot.
var sampleID = spoolID{0xd1, 0xce, 2, 3, 4, 5, 6, 7}

// sampleEntry is an entry of the sample batch.
func sampleEntry(number uint64, id spoolID) []byte {
	b := sample()
	b.frame(b.buf, 0)
	clear(b.buf[offCRC:offAttributes])
	clear(b.buf[offProducerID:offCount])
	e := entry{number: number, before: (number - 1) * 3, records: 3, oldest: noon}
	return appendEntry(nil, id, e, b.buf[offBaseOffset:recordsAt], b.buf[recordsAt:])
}

// marksOfFormat1 are the marks that a program of format 1 wrote.
func marksOfFormat1(v markValues, boot [16]byte) []byte {
	v.id = spoolID{}
	b := v.encode(boot)
	binary.BigEndian.PutUint32(b[markVersion:], 1)
	binary.BigEndian.PutUint32(b[markCRC:], crc32.Checksum(b[:markCRC], castagnoli))
	return b
}

// TestEntryFormat holds the formats of what lies on disks: the present one, and the
// one that is read still.
func TestEntryFormat(t *testing.T) {
	now, boot := markValues{done: 3, sent: 5, ceiling: 36, id: sampleID}, [16]byte{1, 2, 3}
	for golden, got := range map[string]string{
		"spool1.hex": hex.Dump(sampleEntry(7, idOfFormat1)) + hex.Dump(marksOfFormat1(now, boot)),
		"spool2.hex": hex.Dump(sampleEntry(7, sampleID)) + hex.Dump(now.encode(boot)),
	} {
		golden = filepath.Join("testdata", golden)
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil || got != string(want) {
			t.Errorf("the format of %s has changed (%v):\n%s\nwant\n%s", golden, err, got, want)
		}
	}
}

func FuzzEntry(f *testing.F) {
	f.Add(sampleEntry(1, sampleID))
	f.Add(append(sampleEntry(1, sampleID), sampleEntry(2, sampleID)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parseEntry(data, sampleID)
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Errorf("parseEntry = %v, want damaged", err)
			}
			return
		}
		again := appendEntry(nil, sampleID, e, e.batch[:1], e.batch[1:])
		if !bytes.Equal(again, data[:len(again)]) {
			t.Errorf("written again it is\n%x, was\n%x", again, data)
		}
		b, err := batchOf(e, append(make([]byte, offBaseOffset), e.batch...))
		if err != nil || b.unpack() != nil {
			return
		}
		count := 0
		b.each(func(int64, []byte, []byte) { count++ })
		if count != b.count {
			t.Errorf("%d records, the header says %d", count, b.count)
		}
	})
}

// FuzzSegment has any bytes between two entries, as damage and agents may leave them: the
// entry behind them is found, and none that has not the spool's ID.
func FuzzSegment(f *testing.F) {
	f.Add([]byte{}, byte(1))
	f.Add(sampleEntry(2, idOfFormat1), byte(0))
	f.Add(sampleEntry(2, sampleID)[:100], byte(5))
	f.Add(bytes.Repeat(sampleID[:7], 20), byte(60))
	f.Fuzz(func(t *testing.T, between []byte, harm byte) {
		first, last := sampleEntry(1, sampleID), sampleEntry(9, sampleID)
		first[int(harm)%len(first)] ^= 0x10
		data := slices.Concat(first, between, last)
		whole := 0
		for off := int64(0); ; {
			e, _, next, err := findEntry(bytes.NewReader(data), sampleID, off, int64(len(data)), 0)
			if err != nil {
				break
			}
			if at := next - entrySize(len(e.batch)); spoolID(data[at:]) != sampleID || next <= off {
				t.Fatalf("an entry at %d, looked for from %d on, that is none of this spool", at, off)
			}
			whole, off = whole+1, next
			if e.number == 9 && int(next) == len(data) {
				return
			}
		}
		if !bytes.Contains(between, sampleID[:]) {
			t.Errorf("the entry behind %d strange bytes is not found, %d others are", len(between), whole)
		}
	})
}

// FuzzUnpack has bodies of every codec that a sum does not vouch for.
func FuzzUnpack(f *testing.F) {
	for _, name := range []Compression{CompressionNone, CompressionSnappy, CompressionLZ4, CompressionZstd} {
		c, err := newCompressor(name)
		if err != nil {
			f.Fatal(err)
		}
		wire, _ := c.wireOf(sample(), nil)
		f.Add(int16(c.codec), 3, wire[recordsAt:])
	}
	f.Fuzz(func(t *testing.T, codec int16, count int, body []byte) {
		if count < 1 || count > 1<<20 || len(body) > 1<<20 {
			return
		}
		b := &batch{wire: append(make([]byte, recordsAt), body...), count: count}
		binary.BigEndian.PutUint16(b.wire[offAttributes:], uint16(codec))
		if err := b.unpack(); err != nil {
			if !errors.Is(err, errDamaged) {
				t.Errorf("unpack = %v, want damaged", err)
			}
			return
		}
		n, charge := 0, int64(0)
		b.each(func(_ int64, key, value []byte) {
			n++
			charge += recordCharge(len(key), len(value))
		})
		if n != count || charge != b.charge {
			t.Errorf("%d records that charge %d, want %d that charge %d", n, charge, count, b.charge)
		}
	})
}

func FuzzMarks(f *testing.F) {
	f.Add(markValues{done: 3, sent: 5, ceiling: 36, id: sampleID}.encode([16]byte{1}))
	f.Add(marksOfFormat1(markValues{done: 3, sent: 5, ceiling: 36}, [16]byte{1}))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := parseMarks(data, [16]byte{1})
		if err == nil && (v.done > v.sent || v.sent > v.ceiling) {
			t.Errorf("parseMarks = %+v", v)
		}
	})
}

// lazyDisk skips the syncs.
type lazyDisk struct{ osDisk }

func (lazyDisk) fsync(*os.File) error { return nil }

// testSpools is a spool of nobody's with small segments.
func testSpools(t *testing.T, dir string, boot byte) *spools {
	t.Helper()
	m := newSpoolMetrics()
	return &spools{
		dir: dir, limit: 1 << 30, segmentBytes: 1000, disk: lazyDisk{}, metrics: &m,
		logger: slog.New(slog.DiscardHandler), bootID: [16]byte{boot},
		spoolState: spoolState{claimed: make(map[string]bool), noted: true, works: make(map[*work]bool)},
	}
}

// writeEntries appends n batches of one record each, whose value is their number.
func writeEntries(t *testing.T, s *spoolLog, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		b := &batch{}
		b.reset()
		b.add(noon, "key", fmt.Appendf(nil, "%d %s", i, strings.Repeat("z", 200)), nil)
		b.frame(b.buf, 0)
		err := s.append([]write{{records: 1, oldest: noon, head: b.buf[offBaseOffset:recordsAt], rest: b.buf[recordsAt:]}})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// readEntries reads to the end and returns the numbers, and how many are lost.
func readEntries(t *testing.T, s *spoolLog) (numbers []int, lost uint64) {
	t.Helper()
	for {
		f := s.readNext()
		lost += f.lost
		if f.batch == nil {
			return numbers, lost
		}
		if err := f.batch.unpack(); err != nil {
			t.Fatal(err)
		}
		f.batch.each(func(_ int64, _, value []byte) {
			var n int
			if _, err := fmt.Sscan(string(value), &n); err != nil {
				t.Fatal(err)
			}
			numbers = append(numbers, n)
		})
	}
}

func segmentsOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestDamageCostsWhatItHits flips each byte of a spool of several segments in
// turn: the entries that it is not in are read, and what is lost is known.
func TestDamageCostsWhatItHits(t *testing.T) {
	origin := t.TempDir()
	s := newSpoolLog(testSpools(t, origin, 1), filepath.Join(origin, "7"))
	writeEntries(t, s, 1, 12)
	s.close()
	files := segmentsOf(t, s.dir)
	if len(files) < 3 {
		t.Fatalf("%d segments, want several", len(files))
	}
	for _, name := range files[:len(files)-1] { // the last one's end is a torn tail
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(content); at += 7 {
			content[at] ^= 0x40
			if err := os.WriteFile(name, content, 0o600); err != nil {
				t.Fatal(err)
			}
			content[at] ^= 0x40
			back, err := openSpoolLog(testSpools(t, origin, 1), s.dir)
			if err != nil {
				t.Fatal(err)
			}
			records, _ := back.left()
			numbers, lost := readEntries(t, back)
			back.close()
			if len(numbers) != 11 || lost != 1 || records != 12 {
				t.Fatalf("byte %d of %s flipped: read %v, %d lost of %d, want 11 and 1 of 12", at, filepath.Base(name), numbers, lost, records)
			}
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTornTailIsCut cuts the last file at each byte: whole entries before stay.
func TestTornTailIsCut(t *testing.T) {
	dir := t.TempDir()
	s := newSpoolLog(testSpools(t, dir, 1), filepath.Join(dir, "7"))
	writeEntries(t, s, 1, 6)
	s.close()
	files := segmentsOf(t, s.dir)
	last := files[len(files)-1]
	content, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	size := len(sampleOf(t, 1))
	inLast := len(content) / size
	for cut := 0; cut <= len(content); cut += 13 {
		for _, tail := range []string{"", "\xff\xff\xff\xff", strings.Repeat("MSPE\x01", 40)} {
			if err := os.WriteFile(last, append(content[:cut:cut], tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			store := testSpools(t, dir, 1)
			back, err := openSpoolLog(store, s.dir)
			if err != nil {
				t.Fatal(err)
			}
			want := 6 - inLast + cut/size
			numbers, lost := readEntries(t, back)
			if len(numbers) != want || lost != 0 {
				t.Fatalf("cut at %d: read %v, %d lost, want the first %d", cut, numbers, lost, want)
			}
			writeEntries(t, back, want+1, 1) // it goes on behind them
			if numbers, lost = readEntries(t, back); len(numbers) != 1 || numbers[0] != want+1 || lost != 0 {
				t.Fatalf("cut at %d: then read %v, %d lost", cut, numbers, lost)
			}
			back.close()
			for _, f := range segmentsOf(t, s.dir) {
				if f > last {
					_ = os.Remove(f)
				}
			}
		}
	}
}

// sampleOf is the entry that writeEntries makes.
func sampleOf(t *testing.T, number int) []byte {
	t.Helper()
	dir := t.TempDir()
	s := newSpoolLog(testSpools(t, dir, 1), dir)
	writeEntries(t, s, number, 1)
	s.close()
	content, err := os.ReadFile(segmentsOf(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// TestMarksAfterAKillAndAfterALossOfPower: what was settled is not sent again,
// and exactly what may have been sent is doubtful; without power, what the last
// sync allows.
func TestMarksAfterAKillAndAfterALossOfPower(t *testing.T) {
	dir := t.TempDir()
	s := newSpoolLog(testSpools(t, dir, 1), filepath.Join(dir, "7"))
	writeEntries(t, s, 1, 60)
	for range 5 {
		s.readNext()
		s.sending()
		s.settle()
	}
	s.readNext()
	s.readNext()
	s.sending() // 6 and 7, without an answer
	s.close()
	for boot, want := range map[byte]uint64{1: 2, 2: 32 - 5} {
		back, err := openSpoolLog(testSpools(t, dir, boot), s.dir)
		if err != nil {
			t.Fatal(err)
		}
		if records, doubtful := back.left(); records != 55 || doubtful != want {
			t.Errorf("boot %d: %d records left, %d doubtful, want 55 and %d", boot, records, doubtful, want)
		}
		if numbers, lost := readEntries(t, back); len(numbers) != 55 || numbers[0] != 6 || lost != 0 {
			t.Errorf("boot %d: read %v, %d lost, want 6 to 60", boot, numbers, lost)
		}
		back.close()
	}
	if err := os.WriteFile(filepath.Join(s.dir, marksName), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	back, err := openSpoolLog(testSpools(t, dir, 1), s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer back.close()
	if records, doubtful := back.left(); records != doubtful || records < 55 {
		t.Errorf("without marks: %d left, %d doubtful, want all", records, doubtful)
	}
}

func TestSettledSegmentsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	store := testSpools(t, dir, 1)
	s := newSpoolLog(store, filepath.Join(dir, "7"))
	writeEntries(t, s, 1, 30)
	most := store.usage()
	for n := 1; n <= 30; n++ {
		if f := s.readNext(); f.batch == nil {
			t.Fatalf("entry %d is not there", n)
		}
		s.settle()
	}
	if n := len(segmentsOf(t, s.dir)); n > 2 || store.usage() > most/3 {
		t.Errorf("%d segments of %d bytes are left", n, store.usage())
	}
	s.remove()
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) || store.usage() != 0 {
		t.Errorf("after remove: %v, %d bytes", err, store.usage())
	}
}

func TestNewOfABadSpoolNamesIt(t *testing.T) {
	dir := t.TempDir()
	open := func() (*Log, error) {
		opts := Options{Brokers: []string{"127.0.0.1:1"}, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()}
		opts.SpoolDir = dir
		return New(opts)
	}
	l, err := open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("opening it twice = %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = open(); err != nil {
		t.Fatalf("after Close: %v", err)
	}
	_ = l.Close()
	if _, err := os.Stat(filepath.Join(dir, DefaultTopic)); err != nil {
		t.Error(err)
	}
	newer := []byte(`{"version":3,"topic":"hids_svr","partitions":8}`)
	if err := os.WriteFile(filepath.Join(dir, DefaultTopic, topicFile), newer, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("opening a newer one = %v", err)
	}
}
