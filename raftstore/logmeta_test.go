// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"muster/raftstore"
)

// A log whose end was taken back is whole after the next start: entries of any
// length, several times over, with its beginning cut or not.
func TestLogAfterItsEndWasTakenBack(t *testing.T) {
	dir := t.TempDir()
	opts := options(dir)
	opts.Tuning.SegmentBytes = 16 << 10
	want := map[uint64][]byte{}
	first, last := uint64(1), uint64(0)
	for life := range 30 {
		log, closeLog, err := raftstore.OpenLog(dir, opts)
		must(t, err)
		if f, _ := log.FirstIndex(); last > 0 && f != first {
			t.Fatalf("life %d: the log begins at %d, want %d", life, f, first)
		}
		if l, _ := log.LastIndex(); l != last {
			t.Fatalf("life %d: the log ends at %d, want %d", life, l, last)
		}
		for i := first; i <= last; i++ {
			var entry raft.Log
			if err := log.GetLog(i, &entry); err != nil || !bytes.Equal(entry.Data, want[i]) {
				t.Fatalf("life %d: entry %d of %d to %d: %v", life, i, first, last, err)
			}
		}
		for range 1 + rand.IntN(40) {
			var batch []*raft.Log
			for range 1 + rand.IntN(3) {
				last++
				want[last] = []byte(strings.Repeat(fmt.Sprint(life), rand.IntN(300)))
				batch = append(batch, &raft.Log{Index: last, Term: uint64(life), Data: want[last]})
			}
			must(t, log.StoreLogs(batch))
		}
		if from := last - rand.Uint64N(min(last-first+1, 30)); rand.IntN(4) > 0 && from > first {
			must(t, log.DeleteRange(from, last))
			last = from - 1
		}
		if to := first + rand.Uint64N(last-first+1); rand.IntN(4) == 0 && to < last {
			must(t, log.DeleteRange(first, to))
			first = to + 1
		}
		must(t, closeLog())
	}
}

// The disk is full while a segment's last entries and its index are written:
// whatever part of them is there, the log has all that came before and goes on.
func TestLogWhoseLastWriteIsTorn(t *testing.T) {
	for name, last := range map[string][]int{"small entries": {300, 10, 400}, "an entry larger than a segment": {20 << 10}} {
		for _, before := range []int{0, 12} {
			t.Run(fmt.Sprint(name, " after ", before), func(t *testing.T) { tearLastWrite(t, before, last) })
		}
	}
}

func tearLastWrite(t *testing.T, before int, lengths []int) {
	base := t.TempDir()
	dir, image := filepath.Join(base, "whole"), filepath.Join(base, "before")
	opts := options(dir)
	opts.Tuning.SegmentBytes = 8 << 10
	if before == 0 {
		opts.Tuning.SegmentBytes = 256 // so that the first write fills it
	}
	log, closeLog, err := raftstore.OpenLog(dir, opts)
	must(t, err)
	entries := func(first uint64, lengths ...int) (batch []*raft.Log) {
		for i, n := range lengths {
			batch = append(batch, &raft.Log{Index: first + uint64(i), Term: 1, Data: bytes.Repeat([]byte{byte(first)}, n)})
		}
		return batch
	}
	for i := range before {
		must(t, log.StoreLogs(entries(uint64(i+1), 600)))
	}
	copyDir(t, dir, image)
	must(t, log.StoreLogs(entries(uint64(before+1), lengths...)))
	segments, err := filepath.Glob(filepath.Join(dir, "log", "*-0000000000000000.wal"))
	must(t, err)
	if len(segments) != 1 {
		t.Fatalf("segments %v", segments)
	}
	name := filepath.Join("log", filepath.Base(segments[0]))
	whole := readFile(t, dir, name)
	must(t, closeLog())
	from := firstDifference(readFile(t, image, name), whole)
	for i := range 20 {
		cut := from + (len(whole)-from)*i/10
		if i >= 10 { // within the index
			cut = len(whole) - 8*(i-10)
		}
		torn := filepath.Join(base, fmt.Sprint("torn", i))
		copyDir(t, image, torn)
		must(t, os.WriteFile(filepath.Join(torn, name), whole[:cut], 0o600))
		last := uint64(0)
		for life := range 2 {
			log, closeLog, err := raftstore.OpenLog(torn, opts)
			if err != nil {
				t.Fatalf("cut at %d of %d to %d, life %d: %v", cut, from, len(whole), life, err)
			}
			newest, err := log.LastIndex()
			must(t, err)
			if newest < uint64(before) || life > 0 && newest != last || life == 0 && newest > uint64(before) && cut < len(whole)-8 {
				t.Fatalf("cut at %d of %d to %d, life %d: the log ends at %d, %d were acknowledged", cut, from, len(whole), life, newest, before)
			}
			for at := uint64(1); at <= newest; at++ {
				var entry raft.Log
				if err := log.GetLog(at, &entry); err != nil || entry.Index != at {
					t.Fatalf("cut at %d of %d to %d, life %d: entry %d of %d: %v", cut, from, len(whole), life, at, newest, err)
				}
			}
			for range 5 {
				newest++
				must(t, log.StoreLogs(entries(newest, 500)))
			}
			last = newest
			must(t, closeLog())
		}
	}
}

func firstDifference(a, b []byte) int {
	for i := range b {
		if i >= len(a) || a[i] != b[i] {
			return i
		}
	}
	return len(b)
}
