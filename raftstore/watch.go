// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"sync"

	"muster/fleet"
)

// watches wake those who wait for a change of a table.
type watches struct {
	mu   sync.Mutex
	next int
	subs map[int]watch
}

type watch struct {
	tables []fleet.Table
	wake   chan struct{}
}

func newWatches() *watches { return &watches{subs: make(map[int]watch)} }

func (w *watches) add(tables []fleet.Table) (<-chan struct{}, func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := w.next
	w.next++
	wake := make(chan struct{}, 1)
	w.subs[id] = watch{tables, wake}
	return wake, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subs, id)
	}
}

// notify wakes the watchers of any of the tables; with all, everybody.
func (w *watches) notify(tables map[fleet.Table]bool, all bool) {
	if len(tables) == 0 && !all {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.subs {
		hit := all
		for _, t := range s.tables {
			hit = hit || tables[t]
		}
		if !hit {
			continue
		}
		select {
		case s.wake <- struct{}{}:
		default: // a wake-up is waiting there already
		}
	}
}
