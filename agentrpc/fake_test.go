// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"context"
	"slices"
	"sync"
	"time"

	"muster/fleet"
)

// fakeLog is a RecordLog that keeps what it was given.
type fakeLog struct {
	// before is called, if set, before the records are kept; its error is returned.
	before func(ctx context.Context, key string) error

	mu     sync.Mutex
	values map[string][][]byte
	tries  int
}

func (l *fakeLog) Append(ctx context.Context, key string, records [][]byte, suffix []byte) error {
	l.mu.Lock()
	before := l.before
	l.mu.Unlock()
	if before != nil {
		if err := before(ctx, key); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.values == nil {
		l.values = make(map[string][][]byte)
	}
	for _, r := range records {
		l.values[key] = append(l.values[key], slices.Concat(r, suffix))
	}
	return nil
}

// TryAppend declines every other time, and whenever Append would do more.
func (l *fakeLog) TryAppend(came time.Time, key string, records [][]byte, suffix []byte) bool {
	l.mu.Lock()
	l.tries++
	declined := l.before != nil || l.tries%2 == 0
	l.mu.Unlock()
	return !declined && l.Append(context.Background(), key, records, suffix) == nil
}

func (l *fakeLog) of(key string) [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.values[key])
}

func (l *fakeLog) block(before func(ctx context.Context, key string) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before = before
}

// fakeStore stands for the replicated store: what the function fields say, and
// a record of what it was told.
type fakeStore struct {
	desired func(id string) (fleet.Desired, error)
	current func() bool
	vouched func() time.Time // when the leader was last asked; nil: just now
	pending func(id string) []fleet.Dispatch
	mark    func(marks []fleet.TaskMark) ([]bool, error)
	result  func(r []fleet.TaskResult) error
	report  func(r []fleet.AgentReport) error
	subTask func(token string) (fleet.SubTask, error)
	task    func(id string) (fleet.Task, error)

	mu       sync.Mutex
	watchers map[fleet.Table][]chan struct{}
	marks    [][]fleet.TaskMark
	results  []fleet.TaskResult
	reports  [][]fleet.AgentReport
}

// set changes the function fields while the server runs.
func (f *fakeStore) set(change func(f *fakeStore)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeStore) notify(table fleet.Table) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.watchers[table] {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (f *fakeStore) Desired(id string) (fleet.Desired, error) {
	f.mu.Lock()
	fn := f.desired
	f.mu.Unlock()
	if fn == nil {
		return fleet.Desired{}, nil
	}
	return fn(id)
}

func (f *fakeStore) Current() bool {
	f.mu.Lock()
	fn := f.current
	f.mu.Unlock()
	return fn == nil || fn()
}

func (f *fakeStore) CurrentSince(at time.Time) bool {
	f.mu.Lock()
	fn := f.vouched
	f.mu.Unlock()
	return f.Current() && (fn == nil || fn().After(at))
}

func (f *fakeStore) Watch(tables ...fleet.Table) (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watchers == nil {
		f.watchers = make(map[fleet.Table][]chan struct{})
	}
	for _, t := range tables {
		f.watchers[t] = append(f.watchers[t], c)
	}
	return c, func() {}
}

func (f *fakeStore) PendingDispatch(id string) []fleet.Dispatch {
	f.mu.Lock()
	fn := f.pending
	f.mu.Unlock()
	if fn == nil {
		return nil
	}
	return fn(id)
}

func (f *fakeStore) Due(ids []string) []string {
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return len(f.PendingDispatch(id)) == 0 })
}

func (f *fakeStore) MarkSent(ctx context.Context, _ string, marks []fleet.TaskMark) ([]bool, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	f.mu.Lock()
	fn := f.mark
	f.marks = append(f.marks, slices.Clone(marks))
	f.mu.Unlock()
	if fn != nil {
		return fn(marks)
	}
	granted := make([]bool, len(marks))
	for i := range granted {
		granted[i] = true
	}
	return granted, nil
}

func (f *fakeStore) SetResults(ctx context.Context, results []fleet.TaskResult) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f.mu.Lock()
	fn := f.result
	f.mu.Unlock()
	if fn != nil {
		if err := fn(results); err != nil {
			return err
		}
	}
	if ctx.Err() != nil { // while fn took its time
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.results = append(f.results, results...)
	return nil
}

func (f *fakeStore) ReportAgents(ctx context.Context, reports []fleet.AgentReport) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f.mu.Lock()
	fn := f.report
	f.mu.Unlock()
	if fn != nil {
		if err := fn(reports); err != nil {
			return err
		}
	}
	if ctx.Err() != nil { // while fn took its time
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reports = append(f.reports, slices.Clone(reports))
	return nil
}

func (f *fakeStore) SubTaskByToken(token string) (fleet.SubTask, error) {
	f.mu.Lock()
	fn := f.subTask
	f.mu.Unlock()
	if fn == nil {
		return fleet.SubTask{}, fleet.ErrNotFound
	}
	return fn(token)
}

func (f *fakeStore) Task(id string) (fleet.Task, error) {
	f.mu.Lock()
	fn := f.task
	f.mu.Unlock()
	if fn == nil {
		return fleet.Task{}, fleet.ErrNotFound
	}
	return fn(id)
}

func (f *fakeStore) allResults() []fleet.TaskResult {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.results)
}

func (f *fakeStore) allMarks() []fleet.TaskMark {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Concat(f.marks...)
}

func (f *fakeStore) allReports() []fleet.AgentReport {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Concat(f.reports...)
}

// taskBook is a store's tasks for tests that need marks to have an effect: a
// once task is granted once, an ended one never.
type taskBook struct {
	mu    sync.Mutex
	open  map[string]*fleet.Dispatch // by task ID
	ended map[string]bool
}

func (b *taskBook) put(d fleet.Dispatch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil {
		b.open, b.ended = make(map[string]*fleet.Dispatch), make(map[string]bool)
	}
	b.open[d.TaskID] = &d
}

func (b *taskBook) end(taskID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended[taskID] = true
}

func (b *taskBook) pending(id string) []fleet.Dispatch {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []fleet.Dispatch
	for _, d := range b.open {
		once := d.Delivery == fleet.DeliveryOnce && d.Kind != fleet.TaskKindConfig
		if d.AgentID == id && !b.ended[d.TaskID] && !(d.Sent && once) {
			out = append(out, *d)
		}
	}
	return out
}

func (b *taskBook) mark(marks []fleet.TaskMark) ([]bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	granted := make([]bool, len(marks))
	for i, m := range marks {
		d := b.open[m.TaskID]
		granted[i] = d != nil && !b.ended[m.TaskID] && !(d.Sent && d.Delivery == fleet.DeliveryOnce)
		if d != nil {
			d.Sent = true
		}
	}
	return granted, nil
}

func (b *taskBook) install(f *fakeStore) {
	f.set(func(f *fakeStore) { f.pending, f.mark = b.pending, b.mark })
}
