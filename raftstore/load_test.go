// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"muster/fleet"
)

// load is clients that write through every node, whatever happens.
type load struct {
	w      *world
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu           sync.Mutex
	acknowledged []string
	failed       int
}

// load starts a client for each node number up to n.
func (w *world) load(n int) *load {
	ctx, cancel := context.WithCancel(w.t.Context())
	l := &load{w: w, cancel: cancel}
	for i := 1; i <= n; i++ {
		l.wg.Go(func() { l.client(ctx, i) })
	}
	w.t.Cleanup(func() {
		l.cancel()
		l.wg.Wait()
	})
	return l
}

func (l *load) client(ctx context.Context, i int) {
	for k := 0; ctx.Err() == nil; k++ {
		if m := l.w.member(i); m != nil {
			id := fmt.Sprintf("w%d-%06d", i, k)
			err := m.ReportAgents(ctx, []fleet.AgentReport{{Identity: fleet.Identity{AgentID: id}, SeenAt: 1}})
			l.mu.Lock()
			if err == nil {
				l.acknowledged = append(l.acknowledged, id)
			} else {
				l.failed++
			}
			l.mu.Unlock()
		}
		pass(100 * time.Millisecond)
	}
}

func (w *world) member(i int) *member {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.members[fmt.Sprintf("n%d", i)]; m != nil && m.alive {
		return m
	}
	return nil
}

// end stops the clients and checks that every node has all they were promised.
func (l *load) end() {
	w := l.w
	w.t.Helper()
	l.cancel()
	l.wg.Wait()
	w.same()
	for _, m := range w.running() {
		for _, id := range l.acknowledged {
			if _, err := m.Agent(id); err != nil {
				w.t.Fatalf("%s lost %s, which was acknowledged: %v", m.name, id, err)
			}
		}
	}
	w.t.Logf("%d writes were acknowledged, %d failed", len(l.acknowledged), l.failed)
	if len(l.acknowledged) < 50 {
		w.t.Errorf("only %d writes were acknowledged", len(l.acknowledged))
	}
}
