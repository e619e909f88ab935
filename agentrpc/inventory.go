// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"sync"
	"time"

	"muster/fleet"
	"muster/internal/rarelog"
)

const (
	// reportPause is the least time between two proposals of reports.
	reportPause = 100 * time.Millisecond
	// reportOverhead is about what a report costs in a proposal besides its texts.
	reportOverhead = 256
)

// inventory takes reports of agents to the store. Reports of one agent that
// wait are merged: the last one counts.
type inventory struct {
	store   Inventory
	metrics *metrics
	logs    *rarelog.Logger
	limit   int
	wake    chan struct{} // of one

	mu      sync.Mutex
	waiting map[string]*report
	order   []string           // IDs in waiting, oldest first
	flying  map[string]*report // being proposed
}

// report is one that waits or is being proposed.
type report struct {
	fleet.AgentReport
	epoch uint64 // of the session that it comes from
	// outdated means that another node has the agent and reports it.
	outdated bool
}

// inventoryLimit is how many agents may wait to be reported: those that are
// connected and as many that have just left. Above it reports are dropped and
// counted; the agent's next heartbeat tries again.
func inventoryLimit(sessions int) int { return 2*sessions + maxBatch }

func newInventory(store Inventory, m *metrics, logs *rarelog.Logger, limit int) *inventory {
	return &inventory{
		store: store, metrics: m, logs: logs, limit: limit,
		wake: make(chan struct{}, 1), waiting: make(map[string]*report), flying: make(map[string]*report),
	}
}

// add never blocks; false means that the report was dropped. That of a session
// which is not the agent's newest any more is not needed.
func (v *inventory) add(sess *session, r fleet.AgentReport) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	epoch := sess.claim.epoch.Load()
	if w := v.waiting[r.AgentID]; sess.claim.lost.Load() || (w != nil && w.epoch > epoch) {
		return true
	}
	if _, merged := v.waiting[r.AgentID]; !merged {
		if len(v.waiting) >= v.limit {
			v.metrics.reports.WithLabelValues("dropped").Inc()
			return false
		}
		v.order = append(v.order, r.AgentID)
	}
	v.waiting[r.AgentID] = &report{AgentReport: r, epoch: epoch}
	select {
	case v.wake <- struct{}{}:
	default:
	}
	return true
}

// waits counts the agents that wait to be reported.
func (v *inventory) waits() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.waiting)
}

// take removes a batch, which is in flight then.
func (v *inventory) take() []fleet.AgentReport {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.flying)
	var batch []fleet.AgentReport
	size, taken := 0, 0
	for _, id := range v.order {
		r := v.waiting[id]
		if !r.outdated {
			size += reportBytes(r.AgentReport)
			if len(batch) == maxBatch || (len(batch) > 0 && size > maxBatchBytes) {
				break
			}
			batch = append(batch, r.AgentReport)
			v.flying[id] = r
		}
		taken++
		delete(v.waiting, id)
	}
	v.order = v.order[taken:]
	if len(v.order) == 0 {
		v.order = nil
	}
	return batch
}

// putBack returns the batch in flight, which the store could not take; a newer
// report of the same agent wins. It may exceed the limit by the batch.
func (v *inventory) putBack() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, r := range v.flying {
		if _, newer := v.waiting[id]; !newer {
			v.waiting[id] = r
			v.order = append(v.order, id)
		}
	}
	clear(v.flying)
}

// overtaken drops what waits about agents that have a newer session on another
// node: what that node reports would be overwritten with older news.
func (v *inventory) overtaken(claims []fleet.Claim) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.waiting) == 0 && len(v.flying) == 0 {
		return
	}
	for _, c := range claims {
		for _, m := range []map[string]*report{v.waiting, v.flying} {
			if r := m[c.AgentID]; r != nil && r.epoch < c.Epoch {
				r.outdated = true
			}
		}
	}
}

func (v *inventory) run(ctx context.Context) error {
	for {
		select {
		case <-v.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		for {
			more, stored := v.step(ctx)
			if !more {
				break
			}
			wait := reportPause
			if !stored {
				wait = retryPause
			}
			if !pause(ctx, wait) {
				return ctx.Err()
			}
		}
	}
}

// step proposes one batch. It tells whether there was one, and whether the
// store has taken or refused it.
func (v *inventory) step(ctx context.Context) (more, settled bool) {
	batch := v.take()
	if len(batch) == 0 {
		return false, true
	}
	outcome, err := propose(ctx, func(ctx context.Context) error { return v.store.ReportAgents(ctx, batch) })
	switch outcome {
	case proposalTaken:
		v.metrics.reports.WithLabelValues("stored").Add(float64(len(batch)))
	case proposalRefused:
		v.logs.Warn("reports of agents refused", "count", len(batch), "error", err)
		v.metrics.reports.WithLabelValues("refused").Add(float64(len(batch)))
	case proposalLater:
		if ctx.Err() == nil { // else flush tries again, and tells what it loses
			v.logs.Warn("reports of agents cannot be stored: they wait", "count", len(batch), "error", err)
		}
		v.putBack()
		return true, false
	}
	return true, true
}

// flush gives the store what waits, until ctx ends.
func (v *inventory) flush(ctx context.Context) {
	for {
		more, settled := v.step(ctx)
		if !more {
			return
		}
		if !settled && !pause(ctx, retryPause) {
			break
		}
	}
	v.mu.Lock()
	lost := len(v.waiting)
	v.mu.Unlock()
	v.metrics.reports.WithLabelValues("dropped").Add(float64(lost))
	v.logs.Error("reports of agents lost at the end: what was last seen of them is old until they come again", "count", lost)
}

func reportBytes(r fleet.AgentReport) int {
	size := reportOverhead + len(r.AgentID) + len(r.Hostname) + len(r.Version) + len(r.Product)
	for _, list := range [][]string{r.IntranetIPv4, r.ExtranetIPv4, r.IntranetIPv6, r.ExtranetIPv6} {
		for _, s := range list {
			size += len(s) + 3
		}
	}
	for _, m := range []map[string]string{r.Facts, r.Plugins} {
		for k, v := range m {
			size += len(k) + len(v) + 6
		}
	}
	return size
}
