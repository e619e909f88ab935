// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"muster/fleet"
	"muster/raftstore"
)

const marker = "a-host-name-that-is-easy-to-find"

// flipByte changes one byte of the first, or else of every, place where the
// marker stands in the files that match.
func flipByte(t *testing.T, pattern string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	must(t, err)
	flipped := 0
	for _, path := range files {
		data, err := os.ReadFile(path)
		must(t, err)
		for rest := data; ; {
			i := bytes.Index(rest, []byte(marker))
			if i < 0 {
				break
			}
			rest[i+3] ^= 0x10
			rest = rest[i+len(marker):]
			flipped++
		}
		must(t, os.WriteFile(path, data, 0o600))
	}
	if flipped == 0 {
		t.Fatalf("no %s in %v", marker, files)
	}
}

func marked(t *testing.T, dir string) {
	t.Helper()
	n := lone(t, dir)
	must(t, n.ReportAgents(t.Context(), []fleet.AgentReport{{Identity: fleet.Identity{AgentID: "a1", Hostname: marker}, SeenAt: 1}}))
	reportOne(t, n.Store, "a2") // so that the marked entry is not raft-wal's last, which it checks itself
	n.stop()
}

func TestFlippedBitIsNoticed(t *testing.T) {
	for what, file := range map[string]string{"state": "state.db", "log": "log/*.wal"} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			marked(t, dir)
			flipByte(t, filepath.Join(dir, file))
			_, err := raftstore.New(options(dir))
			if err == nil || !strings.Contains(err.Error(), "checksum") || !strings.Contains(err.Error(), "move") {
				t.Fatalf("New = %v, want a word on the checksum and on what to do", err)
			}
		})
	}
}

// A bit that flips while the node runs ends it before anything is answered.
func TestFlippedBitWhileRunning(t *testing.T) {
	dir := t.TempDir()
	opts := options(dir)
	fatal := make(chan error, 1)
	opts.Fatal = func(err error) { fatal <- err }
	marked(t, dir)
	s, err := raftstore.New(opts)
	must(t, err)
	defer s.Close()
	// In place: the file is mapped.
	f, err := os.OpenFile(filepath.Join(dir, "state.db"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	data, err := os.ReadFile(f.Name())
	must(t, err)
	for i := range data {
		if bytes.HasPrefix(data[i:], []byte(marker)) {
			_, err = f.WriteAt([]byte("X"), int64(i))
			must(t, err)
		}
	}
	if a, err := s.Agent("a1"); err == nil {
		t.Fatalf("Agent = %+v without an error", a)
	}
	if err := <-fatal; !strings.Contains(err.Error(), "checksum") {
		t.Fatalf("Fatal(%v)", err)
	}
	if _, err := s.Agent("a2"); err == nil {
		t.Fatal("a store that cannot be trusted answers")
	}
	if _, err := s.ApplyBatch(raftstore.Entry(1000, 1, "", &raftstore.Tick{})); err == nil {
		t.Fatal("a store that cannot be trusted applies")
	}
}

// An entry that cannot be decoded stops the node and changes nothing.
func TestUnreadableEntryIsFatal(t *testing.T) {
	opts := options(t.TempDir())
	fatal := make(chan error, 1)
	opts.Fatal = func(err error) { fatal <- err }
	s, err := raftstore.New(opts)
	must(t, err)
	defer s.Close()
	good := raftstore.Entry(1, 1, "", &raftstore.PutMetaCmd{Key: "k", Value: []byte("v")})
	bad := raftstore.Entry(2, 1, "", &raftstore.Tick{})
	bad.Data[3] ^= 1
	hash := s.Status().Hash
	if _, err := s.ApplyBatch(good, bad); err == nil {
		t.Fatal("a damaged entry was applied")
	}
	if err := <-fatal; !strings.Contains(err.Error(), "entry 2 of the log") {
		t.Fatalf("Fatal(%v)", err)
	}
	if s.Status().Hash != hash {
		t.Fatal("half a batch was applied")
	}
}

func TestDirectories(t *testing.T) {
	dir := t.TempDir()
	marked(t, dir)
	edit := func(file, from, to string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, file)
			data, err := os.ReadFile(path)
			must(t, err)
			must(t, os.WriteFile(path, bytes.ReplaceAll(data, []byte(from), []byte(to)), 0o600))
		}
	}
	remove := func(file string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Join(dir, file))) }
	}
	for what, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		want  string
	}{
		"another node's":     {edit("node.json", `"n1"`, `"n7"`), "belongs to node \"n7\""},
		"a newer version's":  {edit("node.json", `"format": 1`, `"format": 2`), "newer version"},
		"another cluster's":  {edit("node.json", `"cluster-1"`, `"cluster-2"`), "two clusters were mixed"},
		"torn identity":      {edit("node.json", `{`, ``), "node.json is damaged"},
		"no identity":        {remove("node.json"), "no node.json"},
		"no log":             {remove("log"), "log in"},
		"torn state":         {func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, "state.db"), 5000)) }, "cannot be trusted"},
		"torn raft-wal meta": {func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, "log/wal-meta.db"), 9000)) }, "cannot be trusted"},
	} {
		t.Run(what, func(t *testing.T) {
			spoilt := filepath.Join(t.TempDir(), "d")
			copyDir(t, dir, spoilt)
			c.spoil(t, spoilt)
			_, err := raftstore.New(options(spoilt))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("New = %v, want one line with %q", err, c.want)
			}
		})
	}

	s, err := raftstore.New(options(dir))
	must(t, err)
	if _, err := raftstore.New(options(dir)); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Fatalf("a second New = %v", err)
	}
	must(t, s.Close())
}

// A state older than the log's beginning means that entries are missing.
func TestStateBehindLog(t *testing.T) {
	dir := t.TempDir()
	opts := options(dir)
	opts.Tuning.SegmentBytes, opts.Tuning.TrailingLogs = 32<<10, 1
	n := run(t, opts)
	must(t, n.Bootstrap(t.Context(), "cluster-1", nil))
	old := filepath.Join(t.TempDir(), "old")
	copyDir(t, dir, old)
	for range 40 {
		reportOne(t, n.Store, "a1")
	}
	must(t, n.Raft().Snapshot().Error())
	n.stop()
	must(t, os.Rename(filepath.Join(old, "state.db"), filepath.Join(dir, "state.db")))
	_, err := raftstore.New(opts)
	if err == nil || !strings.Contains(err.Error(), "entries are missing") || !strings.Contains(err.Error(), "join") {
		t.Fatalf("New = %v", err)
	}
}
