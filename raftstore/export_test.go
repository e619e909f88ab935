// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"fmt"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
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

// CheckPages runs bbolt's own consistency check.
func (s *Store) CheckPages() error {
	file, err := s.files.state.acquire()
	if err != nil {
		return err
	}
	defer s.files.state.release(file)
	return file.db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			return err
		}
		return nil
	})
}
