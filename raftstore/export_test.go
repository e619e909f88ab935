// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"muster/fleet"
)

// Raft gives tests the raft underneath.
func (s *Store) Raft() *raft.Raft { return s.raft.Load() }

// ServerID is this directory's identity.
func (s *Store) ServerID() string { return s.serverID() }

// AtStep calls fn at each step of a snapshot's installation.
func (s *Store) AtStep(fn func(step string)) { s.fsm.snaps.step = fn }

// RecountHash computes the state's hash from scratch.
func (s *Store) RecountHash() (hash string, err error) {
	err = s.read(func(v view) error {
		hash = hashState(v).String()
		return nil
	})
	return hash, err
}

// Dump returns every item of the replicated state, except what a refused
// request leaves: the clock and the kept answers.
func (s *Store) Dump() (items map[string]string, err error) {
	err = s.read(func(v view) error {
		items = dump(v)
		return nil
	})
	return items, err
}

func dump(v view) map[string]string {
	items := make(map[string]string)
	for _, b := range replicatedBuckets() {
		if b == bucketRequests || b == bucketRequestTimes {
			continue
		}
		v.scan(b, nil, func(k, content []byte) bool {
			if b == bucketMeta && (string(k) == metaClock || string(k) == metaRequests) {
				return true
			}
			if b == bucketTaskSets {
				content = []byte(decodeSet(k, content).String())
			}
			items[fmt.Sprintf("%s/%q", b, k)] = string(content)
			return true
		})
	}
	return items
}

// CheckPages runs bbolt's own consistency check. It keeps writers out, for which
// the check is not made.
func (s *Store) CheckPages() error {
	file, err := s.files.state.acquire()
	if err != nil {
		return err
	}
	defer s.files.state.release(file)
	tx, err := file.db.Begin(true)
	if err != nil {
		return err
	}
	var found []error
	for err := range tx.Check() {
		found = append(found, err)
	}
	return errors.Join(append(found, tx.Rollback())...)
}

// The commands, for tests that write the log by hand.
type (
	FoundCluster     = foundCluster
	PutMetaCmd       = putMeta
	Tick             = tick
	RemoveNodeCmd    = removeNode
	RaiseFormatCmd   = raiseFormat
	CreateUserCmd    = createUser
	UpdateUserCmd    = updateUser
	DeleteUsersCmd   = deleteUsers
	CreateTokenCmd   = createToken
	RevokeTokenCmd   = revokeToken
	TouchTokenCmd    = touchToken
	AddKeyCmd        = addKey
	DeleteKeyCmd     = deleteKey
	DefaultConfigCmd = setDefaultConfig
	TagAgentsCmd     = tagAgents
	ReportAgentsCmd  = reportAgents
	CreateTaskCmd    = createTask
	AddTargetsCmd    = addTargets
	SealTaskCmd      = sealTask
	DropTaskCmd      = dropTask
	RunTaskCmd       = runTask
	CancelTaskCmd    = cancelTask
	FailTaskCmd      = failTask
	MarkSentCmd      = markSent
	SetResultsCmd    = setResults
	// Command is any of them.
	Command = command
	// Answer is what an entry was told.
	Answer = answer
)

// Entry makes the log entry of a command.
func Entry(index uint64, at int64, request string, cmd Command) *raft.Log {
	data, err := encodeEnvelope(envelope{Kind: cmd.kind(), At: at, Request: request, Body: mustEncode(cmd)})
	if err != nil {
		panic(err)
	}
	return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: data}
}

// DecodeEntry decodes the bytes of an entry and encodes them again.
func DecodeEntry(data []byte) (again []byte, err error) {
	e, cmd, err := decodeCommand(data)
	if err != nil {
		return nil, err
	}
	return encodeEnvelope(envelope{Kind: cmd.kind(), At: e.At, Request: e.Request, Body: mustEncode(cmd)})
}

// DecodeBothWays decodes the content of an entry as the log does and, the oracle,
// as one piece of JSON; what differs is returned.
func DecodeBothWays(content []byte) (differs string) {
	data := append([]byte{envelopeVersion}, content...)
	e, cmd, err := decodeCommand(binary.LittleEndian.AppendUint32(data, castagnoli(data)))
	var want envelope
	var wantCmd command
	wantErr := decodeJSON(content, &want)
	if wantErr == nil {
		wantCmd, wantErr = want.command(decodeJSON)
	}
	switch {
	case (err == nil) != (wantErr == nil):
		return fmt.Sprintf("%v, want %v", err, wantErr)
	case err == nil && (e.Kind != want.Kind || e.At != want.At || e.Request != want.Request || !bytes.Equal(mustEncode(cmd), mustEncode(wantCmd))):
		return fmt.Sprintf("%+v, want %+v", e, want)
	}
	return ""
}

// ReportSizes returns the length of a report's JSON and what is taken for it.
func ReportSizes(r fleet.AgentReport) (exact, taken int) { return jsonSize(r), reportSize(r) }

// ApplyBatch applies entries in one transaction, without raft.
func (s *Store) ApplyBatch(logs ...*raft.Log) (answers []Answer, err error) {
	for _, o := range s.fsm.ApplyBatch(logs) {
		answers = append(answers, o.(outcome).answer)
		err = o.(outcome).err
	}
	return answers, err
}

// Reset empties the state and stops syncing it: for tests that try very many
// states.
func (s *Store) Reset() error {
	file := s.files.state.current
	file.db.NoSync = true
	if err := file.write(func(tx *bbolt.Tx) error {
		for _, b := range append(replicatedBuckets(), bucketLocal) {
			if err := tx.DeleteBucket([]byte(b)); err != nil {
				return err
			}
			if _, err := tx.CreateBucket([]byte(b)); err != nil {
				return err
			}
		}
		return putLocal(tx, keyPosition, position{FileFormat: stateFileFormat, Hash: stateHash{}.String()})
	}); err != nil {
		return err
	}
	s.fsm.numbers.Store(new(agentNumbers)) // as when another state is installed
	return s.fsm.reload(file)
}

// Rebuild reads again from the state what is kept in memory.
func (s *Store) Rebuild() error { return s.fsm.reload(s.files.state.current) }

// TickDue tells whether the leader would let time pass now.
func (s *Store) TickDue(now int64) (due bool, err error) {
	err = s.read(func(v view) error {
		due = tickDue(v, now)
		return nil
	})
	return due, err
}

// HoldRead calls fn within a read transaction.
func (s *Store) HoldRead(fn func()) error {
	return s.read(func(view) error {
		fn()
		return nil
	})
}

// FirstLogIndex is where raft's log begins.
func (s *Store) FirstLogIndex() uint64 {
	first, err := s.files.log.FirstIndex()
	if err != nil {
		panic(err)
	}
	return first
}

// Syncs tells whether every commit of the state is synced.
func (s *Store) Syncs() bool {
	db := s.files.state.current.db
	return !db.NoSync && !db.NoGrowSync
}

// Gate is what groups writes.
type Gate struct{ gate }

// Enter waits for a turn.
func (g *Gate) Enter(ctx context.Context) error { return g.enter(ctx) }

// Leave ends it.
func (g *Gate) Leave() { g.leave() }

// SetLastNumber makes the next agent get number n+1.
func (s *Store) SetLastNumber(n uint32) error {
	return s.files.state.current.write(func(tx *bbolt.Tx) error {
		b, err := newBatch(tx)
		if err != nil {
			return err
		}
		c := newChange(tx, 0, 0)
		c.setCounters(counters{LastNumber: n})
		if err := b.flush(c); err != nil {
			return err
		}
		return b.finish()
	})
}

// KnowFormat makes the program one that knows formats up to n.
func (s *Store) KnowFormat(n int) { s.fsm.format.Store(int32(n)) }

// Diverge makes the kept hash wrong, as if an entry had been applied otherwise.
func (s *Store) Diverge() { s.shiftHash((*stateHash).add) }

// Mend undoes Diverge.
func (s *Store) Mend() { s.shiftHash((*stateHash).sub) }

func (s *Store) shiftHash(shift func(*stateHash, stateHash)) {
	file, err := s.files.state.acquire()
	if err != nil {
		panic(err)
	}
	defer s.files.state.release(file)
	if err := file.write(func(tx *bbolt.Tx) error {
		pos, _ := readPosition(view{tx})
		h, err := parseHash(pos.Hash)
		if err != nil {
			return err
		}
		shift(&h, stateHash{lo: 1})
		pos.Hash = h.String()
		return putLocal(tx, keyPosition, pos)
	}); err != nil {
		panic(err)
	}
	p := s.fsm.last.Load()
	q := *p
	h, _ := parseHash(p.Hash)
	shift(&h, stateHash{lo: 1})
	q.Hash = h.String()
	s.fsm.last.CompareAndSwap(p, &q)
}

// OpenLog opens the log in dir alone.
func OpenLog(dir string, opts Options) (raft.LogStore, func() error, error) {
	if err := opts.validate(); err != nil {
		return nil, nil, err
	}
	l, err := openLog(dir, position{}, &opts)
	if err != nil {
		return nil, nil, err
	}
	return l, l.close, nil
}
