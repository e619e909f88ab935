// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

// What a spool must not forget at moments that the tests from outside hardly meet.

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// spoolingPartition is a partition of a Log that does not run; its spool has n entries.
func spoolingPartition(t *testing.T, n int) *partition {
	t.Helper()
	opts := Options{Brokers: []string{"127.0.0.1:1"}, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()}
	opts.SpoolDir = t.TempDir()
	l, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	p := newPartition(l, 0)
	p.spool = newSpoolLog(l.spools, l.spools.partitionDir(0))
	l.all = append(l.all, p)
	t.Cleanup(func() { _ = l.Close() })
	if n > 0 {
		writeEntries(t, p.spool, 1, n)
		l.book.recovered(uint64(n), 0)
	}
	return p
}

// TestGivenUpBatchIsSentBeforeOthers: a batch from disk that was given up is
// neither skipped nor settled by those behind it.
func TestGivenUpBatchIsSentBeforeOthers(t *testing.T) {
	p := spoolingPartition(t, 3)
	b, _ := p.toSend(false)
	writeEntries(t, p.spool, 4, 2)
	p.giveUp(b)
	again, _ := p.toSend(false)
	if again != b {
		t.Fatalf("after giving up a batch of %d records the sender takes another one", b.count)
	}
	p.settle(again)
	if done := p.spool.done.number; done != 4 {
		t.Errorf("settled up to entry %d, want 3", done-1)
	}
}

// TestSenderLeavesMemoryToTheSpool: what is in memory while a spool is there goes
// behind what is on disk.
func TestSenderLeavesMemoryToTheSpool(t *testing.T) {
	p := spoolingPartition(t, 0)
	p.put(time.Now(), message{key: "key", records: [][]byte{[]byte("record")}, fits: 1000}, share{})
	if b, _ := p.next(time.Now(), true); b != nil {
		t.Error("the sender takes records past the spool")
	}
}

// TestClockSetBack: a record that was moved from a spool is of a time to come. Those
// behind it do not wait for that.
func TestClockSetBack(t *testing.T) {
	p := spoolingPartition(t, 0)
	p.spool.close()
	p.spool = nil
	now := time.Now()
	p.putAgain(&batch{opened: time.UnixMilli(now.Add(time.Hour).UnixMilli())}, 0, []byte("key"), []byte("record"))
	if b, wait := p.next(now, false); b == nil {
		t.Errorf("it waits for %v, then looks again", wait)
	}
}

// TestFlyingBatchIsNotReadBack: the batch that the sender has when a spool begins
// is there for a crash only.
func TestFlyingBatchIsNotReadBack(t *testing.T) {
	s := newSpoolLog(testSpools(t, t.TempDir(), 1), filepath.Join(t.TempDir(), "7"))
	var writes []write
	for i := range 3 {
		b := &batch{}
		b.reset()
		for range i + 1 { // of different sizes
			b.add(noon, "key", []byte("record"), nil)
		}
		b.frame(b.buf, 0)
		writes = append(writes, write{records: uint32(i + 1), oldest: noon, flying: i == 0, head: b.buf[offBaseOffset:recordsAt], rest: b.buf[recordsAt:]})
	}
	if err := s.append(writes); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	s.settle() // the flying one
	if want := (place{number: 2, records: 1}); s.done != want {
		t.Errorf("settled up to %+v, want %+v", s.done, want)
	}
	var counts []int
	for f := s.readNext(); f.batch != nil; f = s.readNext() {
		counts = append(counts, f.batch.count)
		if f.lost != 0 {
			t.Errorf("%d records are lost", f.lost)
		}
	}
	if !slices.Equal(counts, []int{2, 3}) {
		t.Errorf("read batches of %v records, want 2 and 3", counts)
	}
}

// fullDisk takes nothing while full, and notes whose names it was asked to keep.
type fullDisk struct {
	full   atomic.Bool
	mu     sync.Mutex
	synced []string
}

func (d *fullDisk) writeAt(f *os.File, p []byte, off int64) (int, error) {
	if d.full.Load() {
		return 0, syscall.ENOSPC
	}
	return f.WriteAt(p, off)
}

func (d *fullDisk) fsync(f *os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.synced = append(d.synced, f.Name())
	return nil
}

// TestSpoolIsDrainedWhileTheDiskIsFull: one goroutine removes segments while
// another tries to write.
func TestSpoolIsDrainedWhileTheDiskIsFull(t *testing.T) {
	dir, disk := t.TempDir(), &fullDisk{}
	store := testSpools(t, dir, 1)
	store.disk = disk
	s := newSpoolLog(store, filepath.Join(dir, "7"))
	writeEntries(t, s, 1, 300)
	disk.full.Store(true)
	b := sample()
	b.frame(b.buf, 0)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 300 {
			if s.append([]write{{records: 3, head: b.buf[offBaseOffset:recordsAt], rest: b.buf[recordsAt:]}}) == nil {
				t.Error("a full disk took something")
			}
		}
	})
	for f := s.readNext(); f.batch != nil; f = s.readNext() {
		s.settle()
	}
	wg.Wait()
	if n := s.done.number - 1; n != 300 {
		t.Errorf("%d entries settled, want 300", n)
	}
	s.close()
}

// TestNewDirectoriesAreSynced: what is synced in a file is of no use if the
// directory of the file is lost with the power.
func TestNewDirectoriesAreSynced(t *testing.T) {
	dir, disk := t.TempDir(), &fullDisk{}
	store := testSpools(t, dir, 1)
	store.disk = disk
	s := newSpoolLog(store, filepath.Join(dir, "7"))
	writeEntries(t, s, 1, 1)
	defer s.close()
	for _, want := range []string{dir, s.dir} {
		if !slices.Contains(disk.synced, want) {
			t.Errorf("%s is not synced, only %v", want, disk.synced)
		}
	}
}

// TestRestOfAFailedWriteIsNotRead: a write failed, and what it left could not be cut
// off. The next file has the same numbers for other batches.
func TestRestOfAFailedWriteIsNotRead(t *testing.T) {
	dir := t.TempDir()
	store := testSpools(t, dir, 1)
	s := newSpoolLog(store, filepath.Join(dir, "7"))
	writeEntries(t, s, 1, 2)
	s.tail.bad = true
	writeEntries(t, s, 3, 2)
	s.close()
	first := segmentsOf(t, s.dir)[0]
	f, err := os.OpenFile(first, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		var other []byte
		for number := uint64(3); number < 6; number++ {
			b := sample()
			b.frame(b.buf, 0)
			other = appendEntry(other, s.id, entry{number: number, before: number - 1, records: 1, oldest: noon}, b.buf[offBaseOffset:recordsAt], b.buf[recordsAt:])
		}
		_, err = f.Write(other)
		_ = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	back, err := openSpoolLog(testSpools(t, dir, 1), s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer back.close()
	if numbers, lost := readEntries(t, back); !slices.Equal(numbers, []int{1, 2, 3, 4}) || lost != 0 {
		t.Errorf("read %v, %d lost, want 1 to 4", numbers, lost)
	}
}

// TestDamageBehindTheMarkIsCounted: the first entry that is not settled is
// damaged when the spool is opened.
func TestDamageBehindTheMarkIsCounted(t *testing.T) {
	dir := t.TempDir()
	s := newSpoolLog(testSpools(t, dir, 1), filepath.Join(dir, "7"))
	writeEntries(t, s, 1, 9)
	s.readNext()
	s.sending()
	s.settle()
	s.close()
	first := segmentsOf(t, s.dir)[0]
	content, err := os.ReadFile(first)
	if err == nil {
		content[strings.LastIndex(string(content[:len(content)/2+100]), "2 zzz")+20] ^= 1
		err = os.WriteFile(first, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	back, err := openSpoolLog(testSpools(t, dir, 1), s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer back.close()
	records, _ := back.left()
	if numbers, lost := readEntries(t, back); len(numbers) != 7 || lost != 1 || records != 8 {
		t.Errorf("read %v, %d lost of %d, want 7 and 1 of 8", numbers, lost, records)
	}
}

// TestDamagedEndWhileANewFileBegins: what is written behind a damaged end, to
// another file and while that is read, is not lost with it.
func TestDamagedEndWhileANewFileBegins(t *testing.T) {
	dir := t.TempDir()
	s := newSpoolLog(testSpools(t, dir, 1), filepath.Join(dir, "7"))
	writeEntries(t, s, 1, 1)
	seg, end := s.segs[0], s.segs[0].size
	s.tail.bad = true
	writeEntries(t, s, 2, 1)
	defer s.close()
	if err := os.Truncate(seg.path, 10); err != nil {
		t.Fatal(err)
	}
	if lost := s.giveUpEnd(seg, end); lost != 0 {
		t.Errorf("%d records are given up, those of a new file with them", lost)
	}
	if numbers, lost := readEntries(t, s); !slices.Equal(numbers, []int{2}) || lost != 1 {
		t.Errorf("read %v, %d lost, want 2 and 1 lost", numbers, lost)
	}
}

// TestWriterOfAnEmptiedSpoolSaysSo: also if the partition went away meanwhile, so that
// nobody counts it as spooling for ever.
func TestWriterOfAnEmptiedSpoolSaysSo(t *testing.T) {
	p := spoolingPartition(t, 0)
	s := p.spool
	p.spool, p.retired = nil, true
	if !p.writeSpool(t.Context(), s) {
		t.Error("a spool that is gone counts as one that is to be moved")
	}
}
