// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
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
