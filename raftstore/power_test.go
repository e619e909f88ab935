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

	"muster/fleet"
	"muster/raftstore"
)

const pageBytes = 4096

// history of a directory: what its files held after each acknowledged write.
type pictures struct {
	dirs []string
	// ids[i] was acknowledged before picture i was taken, with all before it.
	ids []string
}

func takePictures(t *testing.T, writes int) pictures {
	t.Helper()
	base := t.TempDir()
	dir := filepath.Join(base, "n1")
	opts := options(dir)
	opts.Tuning.SegmentBytes = 128 << 10
	n := run(t, opts)
	must(t, n.Bootstrap(t.Context(), "cluster-1", []byte("ca")))
	if !n.Syncs() {
		t.Fatal("the state is not synced at each commit; the tests below would be of no use")
	}
	var p pictures
	for i := range writes {
		id := fmt.Sprintf("a%03d", i)
		must(t, n.ReportAgents(t.Context(), []fleet.AgentReport{{
			Identity: fleet.Identity{AgentID: id, Hostname: strings.Repeat("h", 10+rand.IntN(3000))}, SeenAt: 1,
		}}))
		picture := filepath.Join(base, fmt.Sprint("picture", i))
		copyDir(t, dir, picture)
		p.dirs, p.ids = append(p.dirs, picture), append(p.ids, id)
	}
	n.stop()
	return p
}

func readFile(t *testing.T, parts ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	must(t, err)
	return data
}

// torn returns old with a random part of the blocks in which it differs from
// next taken from next. The first keep blocks stay old.
func torn(old, next []byte, block, keep int) []byte {
	out := make([]byte, len(next))
	copy(out, old)
	for at := keep * block; at < len(next); at += block {
		end := min(at+block, len(next))
		if rand.IntN(2) == 0 && !bytes.Equal(out[at:end], next[at:end]) {
			copy(out[at:end], next[at:end])
		}
	}
	return out
}

// holds wants everything that was acknowledged up to picture i.
func (p pictures) holds(t *testing.T, s *raftstore.Store, i int) {
	t.Helper()
	for _, id := range p.ids[:i+1] {
		if _, err := s.Agent(id); err != nil {
			t.Fatalf("acknowledged and lost: %s: %v", id, err)
		}
	}
}

// The power fails while the log or the state is written: of what was written
// since the last sync, only a random part reached the disk.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	p := takePictures(t, 12)
	segment, err := filepath.Glob(filepath.Join(p.dirs[0], "log", "*.wal"))
	must(t, err)
	wal := filepath.Join("log", filepath.Base(segment[0]))
	for round := range 40 {
		i := rand.IntN(len(p.dirs) - 1)
		old, next := p.dirs[i], p.dirs[i+1]
		dir := filepath.Join(t.TempDir(), "d")
		copyDir(t, old, dir)
		oldState, nextState := readFile(t, old, "state.db"), readFile(t, next, "state.db")
		nextLog := readFile(t, next, wal)
		kind := "log torn"
		switch round % 3 {
		case 0: // before the log is synced
			must(t, os.WriteFile(filepath.Join(dir, wal), torn(readFile(t, old, wal), nextLog, 512, 0), 0o600))
		case 1: // the log is synced, the state's pages are not; its two metas are written after them
			kind = "state torn"
			must(t, os.WriteFile(filepath.Join(dir, wal), nextLog, 0o600))
			must(t, os.WriteFile(filepath.Join(dir, "state.db"), torn(oldState, nextState, pageBytes, 2), 0o600))
		case 2: // the pages are synced, the metas perhaps
			kind = "metas torn"
			must(t, os.WriteFile(filepath.Join(dir, wal), nextLog, 0o600))
			image := bytes.Clone(nextState)
			copy(image, torn(oldState[:2*pageBytes], nextState[:2*pageBytes], 512, 0))
			must(t, os.WriteFile(filepath.Join(dir, "state.db"), image, 0o600))
		}
		s, err := raftstore.New(options(dir))
		if err != nil {
			t.Fatalf("%s: New = %v", kind, err)
		}
		checkState(t, s)
		p.holds(t, s, i)
		must(t, s.Close())
		if round%10 != 0 {
			continue
		}
		n := lone(t, dir)
		if got := n.AgentCount(); got < i+1 || got > i+2 {
			t.Errorf("%s: %d agents after the start, want %d or %d", kind, got, i+1, i+2)
		}
		reportOne(t, n.Store, "after-the-power-loss")
		n.stop()
	}
}

// A disk that lies about syncing leaves a mix of old and new pages. bbolt's own
// check may not see it; the walk over the pages and the hash over the state do.
func TestLyingDisk(t *testing.T) {
	t.Parallel()
	p := takePictures(t, 20)
	last := len(p.dirs) - 1
	opened, refused := 0, 0
	for range 20 {
		i := rand.IntN(last)
		dir := filepath.Join(t.TempDir(), "d")
		copyDir(t, p.dirs[last], dir)
		next := readFile(t, p.dirs[last], "state.db")
		image := torn(readFile(t, p.dirs[i], "state.db"), next, pageBytes, 0)
		copy(image, next[:2*pageBytes]) // the newest metas arrived
		must(t, os.WriteFile(filepath.Join(dir, "state.db"), image, 0o600))
		s, err := raftstore.New(options(dir))
		if err != nil {
			if !strings.Contains(err.Error(), "move") {
				t.Fatalf("New = %v, which does not say what to do", err)
			}
			refused++
			continue
		}
		must(t, s.Close())
		// The pages that are in use are an older state as a whole: the log
		// brings back the rest.
		n := lone(t, dir)
		p.holds(t, n.Store, last)
		n.stop()
		opened++
	}
	t.Logf("%d opened with everything, %d refused", opened, refused)
	if refused == 0 {
		t.Error("no page was lost: the test tests nothing")
	}
}
