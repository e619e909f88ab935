// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"muster/raftstore"
)

// journal collects the lines of all nodes.
type journal struct {
	mu    sync.Mutex
	lines []string
}

// hide are attributes that differ from run to run.
var hide = []string{"for", "after", "took", "bytes", "applied", "index", "entries", "term", "following"}

// handler writes into the journal of its world.
type handler struct {
	j    *journal
	node string
}

func (handler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (h handler) WithAttrs([]slog.Attr) slog.Handler         { return h }
func (h handler) WithGroup(string) slog.Handler              { return h }

func (h handler) Handle(_ context.Context, r slog.Record) error {
	line := fmt.Sprintf("%s %-5s %s", h.node, r.Level, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		value := a.Value.String()
		if slices.Contains(hide, a.Key) {
			value = "*"
		}
		line += fmt.Sprintf(" %s=%s", a.Key, value)
		return true
	})
	h.j.mu.Lock()
	defer h.j.mu.Unlock()
	h.j.lines = append(h.j.lines, line)
	return nil
}

// listen keeps what all nodes log from now on.
func (w *world) listen() *journal {
	j := &journal{}
	tune := w.tune
	w.tune = func(o *raftstore.Options) {
		if tune != nil {
			tune(o)
		}
		o.Logger = slog.New(handler{j, o.NodeName})
	}
	return j
}

// since cuts off and returns what the nodes logged, one after the other, with
// their parts in place of server IDs and names.
func (j *journal) since(w *world, parts map[*member]string) string {
	w.mu.Lock()
	var pairs []string
	for m, part := range parts {
		pairs = append(pairs, m.serverID, part, m.name, part)
	}
	w.mu.Unlock()
	j.mu.Lock()
	text := strings.NewReplacer(pairs...).Replace(strings.Join(j.lines, "\n"))
	j.lines = nil
	j.mu.Unlock()
	lines := slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool {
		return strings.HasPrefix(line, "other") && strings.Contains(line, " wants to become leader ") || // it may, or be late
			strings.HasPrefix(line, "dead ") // nobody hears what it still says
	})
	slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(strings.Fields(a)[0], strings.Fields(b)[0]) })
	return strings.Join(lines, "\n") + "\n"
}

// Forming a cluster, losing leaders and getting nodes back read like a story: one
// line per step, in order, by each node.
func TestStory(t *testing.T) {
	bubble(t, func(w *world) {
		w.tune = func(o *raftstore.Options) {
			o.Tuning.SnapshotEntries, o.Tuning.TrailingLogs, o.Tuning.SegmentBytes = 50, 50, 32<<10
		}
		j := w.listen()
		all := w.form(3)
		pass(2 * time.Second)
		var told strings.Builder
		tell := func(title string, parts map[*member]string) {
			fmt.Fprintf(&told, "%s\n\n%s\n", title, j.since(w, parts))
		}
		tell("Forming", map[*member]string{all[0]: "founder", all[1]: "second", all[2]: "third"})

		dead := w.leader()
		dead.die()
		j.since(w, nil)
		dead.bury() // that takes time, in which the others may notice
		eventually(w.t, "another leads", func() bool { return w.leader() != nil })
		pass(10 * time.Second)
		next := w.leader()
		other := w.others(next)[0]
		parts := map[*member]string{dead: "dead", next: "next", other: "other"}
		tell("The leader dies", parts)

		fill(w, "a", 300)
		pass(3 * time.Minute)
		back := dead.again()
		w.settled(3)
		parts = map[*member]string{back: "back", next: "next", other: "other"}
		tell("It comes back after three minutes", parts)

		must(w.t, next.Raft().LeadershipTransferToServer(raftID(back), raftAddr(back)).Error())
		eventually(w.t, "it leads", back.Leads)
		tell("The leadership is given to it", parts)

		must(w.t, next.Remove(w.t.Context(), other.name))
		pass(2 * time.Second)
		other.stop()
		tell("A node is removed", parts)

		back.isolate()
		pass(10 * time.Minute)
		tell("The leader is alone for ten minutes", parts)
		back.rejoin()
		w.settled(2)
		golden(w.t, "story.txt", told.String())
	})
}

// A link that comes and goes does not fill the disk.
func TestStoryIsShort(t *testing.T) {
	bubble(t, func(w *world) {
		j := w.listen()
		w.form(3)
		j.since(w, nil)
		const minutes = 10
		for begin := time.Now(); time.Since(begin) < minutes*time.Minute; {
			m := w.leader()
			if m == nil {
				pass(time.Second)
				continue
			}
			m.isolate()
			pass(2 * time.Second)
			m.rejoin()
			pass(time.Second)
		}
		w.settled(3)
		lines := strings.Split(strings.TrimSpace(j.since(w, nil)), "\n")
		most := 3 * (20 + minutes*6 + 1)
		w.t.Logf("%d lines of three nodes, at most %d", len(lines), most)
		if len(lines) > most || len(lines) < most/2 || !strings.Contains(strings.Join(lines, "\n"), "lines_left_out=") {
			w.t.Errorf("they begin with:\n%s", strings.Join(lines[:min(len(lines), 30)], "\n"))
		}
	})
}
