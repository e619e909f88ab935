// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"muster/fleet"
	"muster/internal/lifecycle"
)

// Deadlines of what may wait.
const (
	// writeWait bounds every write, from the call to the answer.
	writeWait = 10 * time.Second
	// stopWait bounds each step of stopping.
	stopWait = 5 * time.Second
)

// Store is this node's part in the replicated state. Its methods are safe for
// concurrent use. Reads are of the state applied here and return
// fleet.ErrClosed once Run has ended. Writes return when this node has applied
// them: a refusal is a *fleet.Refusal; fleet.ErrUnavailable means that there
// was no leader to ask, or that its answer did not come, in which case the
// write may still happen.
type Store struct {
	opts    Options
	logger  *slog.Logger
	metrics *metrics
	files   *files
	fsm     *fsm
	raft    atomic.Pointer[raft.Raft]
	// transport is set by Run, before raft is.
	transport *patientTransport
	life

	writers
	members  members
	configs  parsedConfigs
	hashes   hashHistory
	failOnce sync.Once
}

// life is how far this node has come.
type life struct {
	begun time.Time
	// started is closed when raft runs, ready when this node was current once.
	started, ready chan struct{}
	// leadTerm is the term in which this node leads and has applied all before it.
	leadTerm atomic.Uint64
	// vouchedAt is when the leader was last asked for an index that this node has
	// applied since; nil: never.
	vouchedAt atomic.Pointer[time.Time]
	// vouchWanted, of one, has the leader asked before it is time.
	vouchWanted chan struct{}
	plan        *recoveryPlan // what Recover has to do; nil without Options.Recover
	recovery    *Recovery     // what it did
	story       story
}

// writers is what bounds the writes under way.
type writers struct {
	gate     gate
	forwards atomic.Int64 // writes that wait for another node
	// leaderChange is fired when this node follows another leader, or none.
	leaderChange signal
	waits        sync.WaitGroup // goroutines that wait for raft's futures
	stopMu       sync.RWMutex
	stopped      bool // guarded by stopMu: no new writes
}

// files are what a Store holds open from New to the end of Run.
type files struct {
	lock  *dirLock
	log   *raftLog
	state *stateHolder

	mu   sync.Mutex
	node nodeFile
}

// New opens the directory, checks everything in it and refuses, changing
// nothing, what cannot be right; its errors say what to do. The Store takes
// part in Raft once Run is called. Call Close instead if Run never is.
func New(opts Options) (*Store, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	s := &Store{
		opts: opts, logger: opts.Logger,
		members: newMembers(),
		life:    life{started: make(chan struct{}), ready: make(chan struct{}), vouchWanted: make(chan struct{}, 1)},
	}
	if opts.Recover {
		if err := checkRecoverable(opts.Dir); err != nil {
			return nil, fmt.Errorf("raftstore: %w", err)
		}
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("raftstore: making the data directory: %w", err)
	}
	lock, err := lockDir(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("raftstore: %w", err)
	}
	s.files = &files{lock: lock, state: &stateHolder{}}
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("raftstore: %w", withRoom(opts.Dir, err)), s.files.close())
	}
	return s, nil
}

func (s *Store) open() (err error) {
	dir := s.opts.Dir
	if s.files.node, err = openNodeFile(dir, s.opts.NodeName); err != nil {
		return err
	}
	if err := removeLeftovers(dir); err != nil {
		return err
	}
	state, pos, err := openState(dir, s.opts.Tuning.MmapBytes)
	if err != nil {
		return err
	}
	s.files.state.current = state
	if s.files.log, err = openLog(dir, pos, &s.opts); err != nil {
		return err
	}
	if err := s.files.log.reconcile(dir, pos, &s.opts); err != nil {
		return err
	}
	s.metrics = newMetrics(s)
	s.fsm = &fsm{
		state: s.files.state, active: newActiveTasks(), watches: newWatches(), metrics: s.metrics, fail: s.fail,
		hashes:   &s.hashes,
		restored: s.trustAgain,
		snaps: &snapshotStore{
			dir: dir, mmapBytes: s.opts.Tuning.MmapBytes, state: s.files.state, step: func(string) {}, logger: s.logger,
			quarantined: s.quarantined, story: &s.story,
		},
	}
	s.fsm.numbers.Store(new(agentNumbers))
	s.fsm.format.Store(formatNow)
	if err := s.fsm.reload(state); err != nil {
		return err
	}
	if s.hashes.wrong = s.files.node.Wrong; s.hashes.wrong != "" {
		s.logger.Error("the state of this node was found to differ from the others', so it pushes nothing to agents", "reason", s.hashes.wrong)
	}
	if err := s.noteCluster(); err != nil {
		return err
	}
	prepare := func() error { return s.noteRecovered(false) }
	if s.opts.Recover {
		prepare = s.planRecovery
	}
	if err := prepare(); err != nil {
		return err
	}
	return s.metrics.register(s.opts.Registerer)
}

// noteCluster copies the cluster's ID into the node file, and refuses a state
// of another cluster.
func (s *Store) noteCluster() error {
	id := s.fsm.last.Load().cluster.ID
	if id == "" {
		return nil
	}
	was := id
	err := s.files.change(s.opts.Dir, func(n *nodeFile) {
		was = cmp.Or(n.ClusterID, id)
		n.ClusterID = was
	})
	if err == nil && was != id {
		err = fmt.Errorf("data directory %s is a member of cluster %s but its state is of cluster %s: files of two clusters were mixed; %s",
			s.opts.Dir, was, id, reseed(s.opts.Dir))
	}
	return err
}

func (f *files) close() error {
	var errs []error
	if f.log != nil {
		errs = append(errs, f.log.close())
	}
	errs = append(errs, f.state.replace(nil), f.lock.release())
	return errors.Join(errs...)
}

// Close frees the directory of a Store that was never run.
func (s *Store) Close() error { return s.files.close() }

// Run takes part in Raft until ctx ends, then hands leadership over if it can,
// and closes all files. It may be called once.
func (s *Store) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, s.files.close()) }()
	if s.plan != nil && s.recovery == nil {
		return fmt.Errorf("raftstore: Options.Recover is set, but Recover was not called or failed: nothing may run as if it had been done")
	}
	id := s.serverID()
	if s.transport, err = s.newTransport(id); err != nil {
		return err
	}
	s.begun = time.Now()
	conf := s.opts.raftConfig(id)
	fail := s.fail
	s.files.log.faults.fail.Store(&fail)
	s.story.begin(s.logger, id, conf.HeartbeatTimeout)
	r, err := raft.NewRaft(conf, s.fsm, s.files.log, s.files.log, s.fsm.snaps, s.transport)
	if err != nil {
		return fmt.Errorf("starting raft: %w", err)
	}
	s.raft.Store(r)
	close(s.started)
	g := lifecycle.NewGroup(ctx)
	g.Go("leadership", func(ctx context.Context) error { return s.watchLeadership(ctx, r) })
	g.Go("leader", func(ctx context.Context) error { return s.watchLeader(ctx, r) })
	g.Go("members", func(ctx context.Context) error { return s.keepMembers(ctx, r) })
	g.Go("comparison", func(ctx context.Context) error { return s.keepComparing(ctx, r) })
	g.Go("currency", func(ctx context.Context) error { return s.keepVouched(ctx, r) })
	g.Go("readiness", func(ctx context.Context) error { return s.becomeReady(ctx, r) })
	g.Go("clock", func(ctx context.Context) error { return s.keepTime(ctx, r) })
	return errors.Join(g.Wait(), s.stop(r))
}

// stop refuses new writes, waits for those under way and ends raft, which
// closes its transport.
func (s *Store) stop(r *raft.Raft) error {
	s.stopMu.Lock()
	s.stopped = true
	s.stopMu.Unlock()
	within := func(step func(ctx context.Context) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), stopWait)
		defer cancel()
		return step(ctx)
	}
	_ = within(s.drain)
	if r.State() == raft.Leader && s.hasOtherVoters(r) {
		if err := within(func(ctx context.Context) error { return s.handOver(ctx, r, awaitLast) }); err != nil {
			s.logger.Warn("leadership was not handed over", "error", err)
		}
	}
	close(s.transport.stopped)
	return within(func(ctx context.Context) error { return awaitLast(ctx, r.Shutdown()) })
}

// drain waits for the writes under way.
func (s *Store) drain(ctx context.Context) error {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		s.waits.Wait()
		close(done)
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.logger.Warn("stopping although writes are still under way")
		return ctx.Err()
	}
}

func (s *Store) hasOtherVoters(r *raft.Raft) bool {
	f := r.GetConfiguration()
	if f.Error() != nil {
		return false
	}
	for _, server := range f.Configuration().Servers {
		if server.Suffrage == raft.Voter && string(server.ID) != s.serverID() {
			return true
		}
	}
	return false
}

// await waits for one of raft's futures no longer than ctx. It is refused while
// the store stops.
func (s *Store) await(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	if !s.spawn(func() { done <- f.Error() }) {
		return fleet.ErrClosed
	}
	return awaitDone(ctx, done)
}

// awaitLast is await for the end of Run itself. Raft answers every future in the
// end, at the latest when it is shut down.
func awaitLast(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	var answer sync.WaitGroup
	answer.Go(func() { done <- f.Error() })
	return awaitDone(ctx, done)
}

func awaitDone(ctx context.Context, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fail ends everything because the storage failed or lied. The first error
// counts; it reaches Options.Fatal before anyone is answered.
func (s *Store) fail(err error) {
	s.fsm.broken.Store(true)
	if errors.Is(err, fleet.ErrClosed) {
		return // Run has ended before raft did: nothing is wrong with the disk
	}
	s.failOnce.Do(func() {
		if fault, ok := errors.AsType[*storageError](err); ok && !isFull(err) {
			s.logger.Error("storage fault", "error", err, "stack", fault.stack)
		}
		s.opts.Fatal(withRoom(s.opts.Dir, err))
	})
}

func (s *Store) serverID() string {
	s.files.mu.Lock()
	defer s.files.mu.Unlock()
	return s.files.node.ServerID
}

// Watch returns a channel that holds one wake-up after each change of any of
// the tables, however many there were, and after a restore of the whole state.
// The function ends the watch; the channel is never closed.
func (s *Store) Watch(tables ...fleet.Table) (wake <-chan struct{}, stop func()) {
	return s.fsm.watches.add(tables)
}
