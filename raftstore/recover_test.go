// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/fleet"
	"muster/raftstore"
)

// number is the n of a member's name.
func (m *member) number() (i int) {
	_, err := fmt.Sscanf(m.name, "n%d", &i)
	must(m.w.t, err)
	return i
}

// recovering has the next start of one node recover, and no other.
func (w *world) recovering(m *member) {
	w.tune = func(o *raftstore.Options) { o.Recover = m != nil && o.NodeName == m.name }
}

// loseMajority stops all but one node, which keeps a write that it could not
// commit any more, and returns that one and the lost.
func loseMajority(w *world) (left *member, lost []*member) {
	w.form(3)
	load := w.load(3)
	pass(5 * time.Second)
	load.end()
	left = w.leader()
	for _, m := range w.others(left) {
		lost = append(lost, m)
		m.die()
	}
	wantError(w.t, left.CreateUser(w.t.Context(), user("maybe")), fleet.ErrUnavailable)
	for _, m := range lost {
		m.bury()
	}
	left.stop()
	return left, lost
}

// Two of three disks are gone for good: the third goes on from all it has, the
// two come back empty as new members, and their old directories are refused.
func TestRecover(t *testing.T) {
	bubble(t, func(w *world) {
		left, lost := loseMajority(w)
		before := left.AgentCount()
		w.recovering(left)
		left = left.again()
		did := left.Recovery()
		if did == nil || did.ServerID != left.serverID || len(did.Dropped) != 2 || did.Applied == 0 || !did.Voted {
			w.t.Fatalf("%+v", did)
		}
		for _, m := range lost {
			// At once, not when it leads: nothing that they say may reach it.
			if !slices.Contains(did.Dropped, m.serverID) || !left.Removed(m.serverID) || !strings.Contains(did.String(), m.serverID) {
				w.t.Errorf("%s is not dropped: %s", m.serverID, did)
			}
		}
		must(w.t, left.WaitReady(within(w.t, 10*time.Second)))
		if _, err := left.User("maybe"); err != nil || left.AgentCount() < before {
			w.t.Errorf("what was in the log is lost: %v, %d of %d agents", err, left.AgentCount(), before)
		}
		must(w.t, left.CreateUser(w.t.Context(), user("alone")))

		w.recovering(nil)
		for _, m := range lost {
			next := w.start(m.number(), filepath.Join(w.base, "fresh-"+m.name))
			must(w.t, left.Join(w.t.Context(), next.serverID, next.name, next.addr))
		}
		w.settled(3)
		must(w.t, w.others(left)[0].CreateUser(w.t.Context(), user("three")))
		w.same()

		// An old directory turns up.
		w.others(left)[0].stop()
		old := lost[0]
		if w.others(left)[0].name == old.name {
			old = lost[1]
		}
		again := old.again()
		wantError(w.t, left.Join(w.t.Context(), again.serverID, again.name, again.addr), fleet.ErrConflict)
		pass(time.Minute)
		if again.Ready() || again.Current() || again.Status().Applied > did.Index {
			w.t.Errorf("a dropped server takes part: %+v", again.Status())
		}
		must(w.t, left.CreateUser(w.t.Context(), user("still")))
		again.stop()
	})
}

// A node that has just caught up by a snapshot has next to no log; it recovers
// all the same, as often as must be.
func TestRecoverAfterSnapshot(t *testing.T) {
	bubble(t, func(w *world) {
		small := func(o *raftstore.Options) {
			o.Tuning.SnapshotEntries, o.Tuning.TrailingLogs, o.Tuning.SegmentBytes = 50, 50, 32<<10
		}
		w.tune = small
		w.form(3)
		left := w.others(w.leader())[0]
		left.kill()
		fill(w, "a", 300)
		pass(3 * time.Minute)
		left = left.again()
		w.settled(3)
		for _, m := range w.others(left) {
			m.kill()
		}
		for round := range 2 {
			left.stop()
			w.tune = func(o *raftstore.Options) {
				small(o)
				o.Recover = o.NodeName == left.name
			}
			left = left.again()
			must(w.t, left.WaitReady(within(w.t, 10*time.Second)))
			if n := left.AgentCount(); n != 300+20*round {
				w.t.Fatalf("round %d: %d agents", round, n)
			}
			w.tune = small
			next := w.start(7+round, "")
			must(w.t, left.Join(w.t.Context(), next.serverID, next.name, next.addr))
			w.settled(2)
			fill(w, fmt.Sprint("round", round), 20)
			w.same()
			left.stop()
			left = left.again() // without the flag
			w.settled(2)
			next.kill()
		}
	})
}

// Killed at any step, a recovery goes on with the next start, whether that asks
// for one or not.
func TestRecoverKilledAtEachStep(t *testing.T) {
	bubble(t, func(w *world) {
		left, _ := loseMajority(w)
		done := filepath.Join(w.base, "done")
		copyDir(w.t, left.dir, done)
		opts := options(done)
		opts.NodeName, opts.Recover = left.name, true
		s, err := raftstore.New(opts)
		must(w.t, err)
		must(w.t, s.Recover())
		must(w.t, s.Close())
		// Of the files only the log was written yet; and all but node.json.
		for name, newer := range map[string][]string{"log": {"log"}, "state": {"log", "state.db"}, "all": {"log", "state.db", "node.json"}} {
			for _, ask := range []bool{false, true} {
				dir := filepath.Join(w.base, fmt.Sprint("image-", name, ask))
				copyDir(w.t, left.dir, dir)
				for _, file := range newer {
					must(w.t, os.RemoveAll(filepath.Join(dir, file)))
				}
				must(w.t, os.CopyFS(dir, subset(done, newer)))
				opts := options(dir)
				opts.NodeName, opts.Recover = left.name, ask
				n := run(w.t, opts)
				must(w.t, n.WaitReady(within(w.t, 10*time.Second)))
				if did := n.Recovery(); ask && (did == nil || len(did.Dropped) != 0) || !ask && did != nil {
					w.t.Errorf("killed after %s: done again: %v", name, did)
				}
				if _, err := n.User("maybe"); err != nil {
					w.t.Errorf("killed after %s: %v", name, err)
				}
				must(w.t, n.CreateUser(w.t.Context(), user("after")))
				n.stop()
			}
		}
	})
}

// New alone changes nothing: whether the others are really lost is looked at
// between it and Recover. A store that should have recovered and did not is not run.
func TestRecoverMustBeCalled(t *testing.T) {
	bubble(t, func(w *world) {
		left, lost := loseMajority(w)
		before := contents(w.t, left.dir)
		open := func(yes bool) *raftstore.Store {
			opts := options(left.dir)
			opts.NodeName, opts.Recover = left.name, yes
			s, err := raftstore.New(opts)
			must(w.t, err)
			if s.Recovery() != nil || s.Removed(lost[0].serverID) {
				w.t.Errorf("it was done: %v", s.Recovery())
			}
			return s
		}
		s := open(true)
		if err := s.Run(w.t.Context()); err == nil || !strings.Contains(err.Error(), "Recover was not called") {
			w.t.Errorf("run: %v", err)
		}
		if d := cmp.Diff(before, contents(w.t, left.dir)); d != "" {
			w.t.Error("something was written (-before +now):", d)
		}
		s = open(false)
		if err := s.Recover(); err == nil {
			w.t.Error("recovered unasked")
		}
		must(w.t, s.Close())
		s = open(true)
		must(w.t, s.Recover())
		if err := s.Recover(); err == nil || s.Recovery() == nil {
			w.t.Error("recovered twice")
		}
		must(w.t, s.Close())
	})
}

// contents are the checksums of a directory's files.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	sums := make(map[string]string)
	must(t, fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == "lock" {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, path))
		sums[path] = fmt.Sprintf("%x", sha256.Sum256(data))
		return err
	}))
	return sums
}

// What --recover must not be used for is refused, with what to do, and nothing
// is made or changed.
func TestRecoverRefused(t *testing.T) {
	bubble(t, func(w *world) {
		refused := func(dir, name, want string) {
			w.t.Helper()
			opts := options(dir)
			opts.NodeName, opts.Recover = name, true
			s, err := raftstore.New(opts)
			if err == nil {
				must(w.t, s.Close())
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				w.t.Errorf("got %v, want %q", err, want)
			}
		}
		empty := filepath.Join(w.base, "empty")
		refused(empty, "n1", "no state to recover from")
		if _, err := os.Stat(empty); err == nil {
			w.t.Error("a directory was made")
		}
		stranger := w.start(9, "")
		stranger.stop()
		refused(stranger.dir, stranger.name, "not a member")

		all := w.form(3)
		gone := w.others(w.leader())[0]
		must(w.t, all[0].Remove(w.t.Context(), gone.name))
		eventually(w.t, "the removed one has heard it", func() bool { return gone.Removed(gone.serverID) })
		gone.stop()
		refused(gone.dir, gone.name, "was removed")

		// The flag stays in a unit file: the servers that joined since are not dropped.
		rest := w.running()
		left, other := rest[0], rest[1]
		other.kill()
		left.stop()
		w.recovering(left)
		left = left.again()
		must(w.t, left.WaitReady(within(w.t, 10*time.Second)))
		w.tune = nil
		next := w.start(other.number(), filepath.Join(w.base, "fresh"))
		must(w.t, left.Join(w.t.Context(), next.serverID, next.name, next.addr))
		w.settled(2)
		left.stop()
		refused(left.dir, left.name, "leave it out")
		left = left.again()
		w.settled(2)
		left.stop()
		w.recovering(left)
		left = left.again() // meant, this time
		if did := left.Recovery(); !slices.Equal(did.Dropped, []string{next.serverID}) {
			w.t.Errorf("%+v", did)
		}
	})
}

// subset is a directory with only some of its entries.
func subset(dir string, names []string) fs.FS { return subsetFS{os.DirFS(dir), names} }

type subsetFS struct {
	fs.FS
	names []string
}

// ReadDir implements fs.ReadDirFS.
func (s subsetFS) ReadDir(name string) ([]fs.DirEntry, error) {
	list, err := fs.ReadDir(s.FS, name)
	if name != "." {
		return list, err
	}
	return slices.DeleteFunc(list, func(e fs.DirEntry) bool { return !slices.Contains(s.names, e.Name()) }), err
}
