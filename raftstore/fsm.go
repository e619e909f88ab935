// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"muster/fleet"
)

// progress is how far the state is, for reads that need no transaction.
type progress struct {
	position
	logTime int64
	cluster cluster
	agents  int
}

// outcome is what the FSM tells the proposer of an entry.
type outcome struct {
	answer answer
	err    error // the storage's: nothing is known to be applied
}

// fsm applies the log to the state. Raft calls it from one goroutine.
type fsm struct {
	state   *stateHolder
	active  *activeTasks
	numbers atomic.Pointer[agentNumbers]
	watches *watches
	metrics *metrics
	snaps   *snapshotStore
	// fail reports a storage error; after it nothing is applied any more.
	fail   func(error)
	broken atomic.Bool
	// restored is told when the state was replaced.
	restored func() error

	last atomic.Pointer[progress]
	// applied is fired when last moves.
	applied signal
	// hashes takes the state's hash from time to time.
	hashes *hashHistory
	// format is the highest replicated format that this program knows.
	format atomic.Int32
	// logBytes counts the log since it was last cut.
	logBytes atomic.Uint64
}

var _ raft.BatchingFSM = (*fsm)(nil)

// Apply implements raft.FSM.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM: one transaction, one sync. When the
// storage fails, fail is called before any entry is answered.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	outcomes := make([]outcome, len(logs))
	err := fmt.Errorf("applying the log: %w", fleet.ErrClosed)
	if !f.broken.Load() {
		start := time.Now()
		err = f.commit(logs, outcomes)
		f.metrics.applySeconds.Observe(time.Since(start).Seconds())
		f.metrics.batchEntries.Observe(float64(len(logs)))
		if err != nil {
			f.broken.Store(true)
			f.fail(err)
		}
	}
	out := make([]any, len(logs))
	for i := range outcomes {
		if err != nil {
			outcomes[i] = outcome{err: err}
		}
		out[i] = outcomes[i]
	}
	return out
}

func (f *fsm) commit(logs []*raft.Log, outcomes []outcome) error {
	file, err := f.state.acquire()
	if err != nil {
		return err
	}
	defer f.state.release(file)
	var (
		b  *batch
		up activeUpdate
		p  progress
		// newer is set when a batch raises the format above what is known here.
		newer error
	)
	err = file.write(func(tx *bbolt.Tx) error {
		if b, err = newBatch(tx); err != nil {
			return err
		}
		for i, l := range logs {
			if outcomes[i].answer, err = b.entry(l); err != nil {
				return fmt.Errorf("entry %d of the log: %w", l.Index, err)
			}
		}
		for _, w := range b.dirty {
			up.note(view{tx}, w.bucket, w.key, w.content)
		}
		if err := b.finish(); err != nil {
			return err
		}
		p = readProgress(view{tx})
		newer = f.checkFormat(p)
		return newer
	})
	if newer != nil {
		return newer // the file is sound, and as it was
	}
	if err != nil {
		return err
	}
	for _, l := range logs {
		f.logBytes.Add(uint64(len(l.Data)))
	}
	for code, n := range b.refused {
		f.metrics.refused.WithLabelValues(string(code)).Add(float64(n))
	}
	f.active.apply(&up)
	f.hashes.add(b.marks, HashAt{p.Index, p.Hash})
	f.last.Store(&p)
	f.applied.fire()
	f.watches.notify(b.tables, false)
	return nil
}

// entry applies one entry, unless the state has it already.
func (b *batch) entry(l *raft.Log) (ans answer, err error) {
	if l.Index <= b.pos.Index {
		return answer{}, nil
	}
	b.mark(l.Index)
	switch l.Type {
	case raft.LogConfiguration:
		b.conf = configuration{Index: l.Index, Config: raft.DecodeConfiguration(l.Data)}
		err = putLocal(b.tx, keyConfiguration, b.conf)
	case raft.LogCommand:
		var e envelope
		var cmd command
		if e, cmd, err = decodeCommand(l.Data); err == nil {
			ans, err = b.apply(l.Index, e, cmd)
		}
	default:
	}
	b.pos.Index, b.pos.Term = l.Index, l.Term
	return ans, err
}

func readProgress(v view) progress {
	pos, _ := readPosition(v)
	p := progress{position: pos, agents: loadCounters(v).Agents}
	p.logTime, _ = load[int64](v, bucketMeta, metaClock)
	p.cluster, _ = load[cluster](v, bucketMeta, metaCluster)
	return p
}

// reload rebuilds from the state what is kept in memory.
func (f *fsm) reload(file *stateFile) error {
	return file.read(func(v view) error {
		f.active.rebuild(v)
		p := readProgress(v)
		f.hashes.restart(HashAt{p.Index, p.Hash})
		f.last.Store(&p)
		f.applied.fire()
		return f.checkFormat(p)
	})
}

// checkFormat refuses a state that this program would continue wrongly.
func (f *fsm) checkFormat(p progress) error {
	if known := int(f.format.Load()); p.cluster.Format > known {
		return fmt.Errorf("the cluster uses format %d, this version knows %d: start the newer version", p.cluster.Format, known)
	}
	return nil
}

// Snapshot implements raft.FSM. The state file is the snapshot; what is left to
// do is to note that it covers the log up to the index that raft names.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) { return localSnapshot{f}, nil }

type localSnapshot struct{ fsm *fsm }

// Persist implements raft.FSMSnapshot. Raft cuts its log at the sink's index,
// which is above our position if the last entries were none of ours (barriers);
// the position must follow, or the next start would miss entries.
func (s localSnapshot) Persist(sink raft.SnapshotSink) error {
	own, ok := sink.(*snapshotSink)
	if !ok {
		return fmt.Errorf("a snapshot sink of type %T is not ours", sink)
	}
	if s.fsm.broken.Load() {
		return fmt.Errorf("taking a snapshot: %w", fleet.ErrClosed)
	}
	file, err := s.fsm.state.acquire()
	if err != nil {
		return err
	}
	defer s.fsm.state.release(file)
	err = file.write(func(tx *bbolt.Tx) error {
		pos, _ := readPosition(view{tx})
		if pos.Index >= own.meta.Index {
			return nil
		}
		pos.Index, pos.Term = own.meta.Index, own.meta.Term
		return putLocal(tx, keyPosition, pos)
	})
	if err != nil {
		s.fsm.broken.Store(true)
		s.fsm.fail(err)
		return err
	}
	s.fsm.logBytes.Store(0)
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (localSnapshot) Release() {}

// Restore implements raft.FSM: the file that the sink received, and checked,
// becomes the state. The stream is that same file, so it is not read again.
func (f *fsm) Restore(io.ReadCloser) error {
	if err := f.restore(); err != nil {
		f.broken.Store(true)
		f.fail(err)
		return err
	}
	f.metrics.restores.Inc()
	f.watches.notify(nil, true)
	return nil
}

func (f *fsm) restore() error {
	before := f.last.Load().Index
	next, err := f.snaps.installReceived()
	if err != nil {
		return err
	}
	if err := f.reload(next); err != nil {
		return err
	}
	f.logBytes.Store(0)
	f.snaps.installed(next, f.last.Load().Index, before)
	err = f.state.replace(next)
	// Whoever read the state before notes it in what is thrown away here.
	f.numbers.Store(new(agentNumbers))
	return errors.Join(err, f.restored())
}
