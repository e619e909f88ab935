// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"muster/fleet"
)

const roleLeader = "leader"

// Bootstrapped tells whether this node is a member of a cluster, so that
// Bootstrap must not be called.
func (s *Store) Bootstrapped() bool {
	s.files.mu.Lock()
	defer s.files.mu.Unlock()
	return s.files.node.ClusterID != "" || s.fsm.last.Load().cluster.ID != ""
}

// Bootstrap founds a cluster with this node as its only voter; ca is kept under
// MetaCA. Run must be running. It may be repeated after a crash: if the cluster
// was founded before, the first call's values stand and nil is returned, so
// read MetaCA and Status().ClusterID afterwards.
func (s *Store) Bootstrap(ctx context.Context, clusterID string, ca []byte) error {
	if clusterID == "" {
		return fmt.Errorf("founding a cluster: the cluster ID is empty")
	}
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	select {
	case <-s.started:
	case <-ctx.Done():
		return fmt.Errorf("founding a cluster: the store is not running: %w", fleet.ErrUnavailable)
	}
	r := s.raft.Load()
	if r.LastIndex() == 0 {
		self := raft.Server{ID: raft.ServerID(s.serverID()), Address: s.transport.LocalAddr()}
		if err := s.await(ctx, r.BootstrapCluster(raft.Configuration{Servers: []raft.Server{self}})); err != nil {
			return fmt.Errorf("founding a cluster: %w", err)
		}
	}
	if err := s.WaitReady(ctx); err != nil {
		return err
	}
	if s.fsm.last.Load().cluster.ID == "" {
		if err := s.propose(ctx, &foundCluster{ClusterID: clusterID, CA: ca}, nil); err != nil {
			return err
		}
	}
	return s.noteCluster()
}

// Status describes this node's part in the store. It never blocks on the disk.
func (s *Store) Status() fleet.StoreStatus {
	p := s.fsm.last.Load()
	st := fleet.StoreStatus{
		ServerID: s.serverID(), ClusterID: p.cluster.ID, Role: strings.ToLower(raft.Shutdown.String()),
		Term: p.Term, Applied: p.Index, LogTime: p.logTime, Hash: p.Hash, Format: p.cluster.Format,
		Current: s.Current(), Agents: p.agents, Quarantined: s.quarantined(),
	}
	if file, err := s.files.state.acquire(); err == nil {
		_ = file.read(func(v view) error {
			st.StateBytes = v.tx.Size()
			return nil
		})
		s.files.state.release(file)
	}
	r := s.raft.Load()
	if r == nil {
		return st
	}
	st.Role = strings.ToLower(r.State().String())
	_, leader := r.LeaderWithID()
	st.Leader, st.Term, st.LastIndex = string(leader), r.CurrentTerm(), r.LastIndex()
	if contact := r.LastContact(); st.Role != roleLeader && !contact.IsZero() {
		st.LeaderContactAgeMS = time.Since(contact).Milliseconds()
	}
	return st
}

// LogEnd returns the index and the term of the last entry that this node has,
// committed or not. Of two logs the one with the higher term, then index, has all
// that was acknowledged to anybody.
func (s *Store) LogEnd() (index, term uint64) {
	p := s.fsm.last.Load()
	index, term = p.Index, p.Term
	last, err := s.files.log.LastIndex()
	if err != nil || last <= index {
		return index, term
	}
	var l raft.Log
	if err := s.files.log.GetLog(last, &l); err != nil {
		return index, term
	}
	return last, l.Term
}

// Meta returns a cluster-wide value that the store does not look into.
func (s *Store) Meta(key string) ([]byte, bool) {
	var value []byte
	found := false
	err := s.read(func(v view) error {
		content := v.get(bucketOpaque, []byte(key))
		value, found = append([]byte{}, content...), content != nil
		return nil
	})
	return value, found && err == nil
}

// PutMeta sets a value of at most 64 KiB under a key of at most 64 bytes.
func (s *Store) PutMeta(ctx context.Context, key string, value []byte) error {
	if key == "" || len(key) > maxMetaKeyBytes || hasControl(key) {
		return fleet.Invalid("key", "%q must be 1 to %d bytes of text", key, maxMetaKeyBytes)
	}
	if len(value) > maxMetaBytes {
		return fleet.Refuse(fleet.CodeTooLarge, "the value of %q is %d bytes long, at most %d are accepted", key, len(value), maxMetaBytes)
	}
	return s.propose(ctx, &putMeta{Key: key, Value: value}, nil)
}

// hasControl tells whether text has control characters; the zero byte separates
// the parts of keys.
func hasControl(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' })
}
