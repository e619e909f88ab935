// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"muster/fleet"
)

// patienceEvery is how often a wait for a server looks whether it still makes sense.
const patienceEvery = time.Second

// transport is what raft needs to ask before it disturbs anybody with an election.
type transport interface {
	raft.Transport
	raft.WithPreVote
}

// patientTransport waits with entries and snapshots for a server that is away
// until it answers a heartbeat. Raft itself would try again and again, pause longer
// each time, and so leave a server that comes back after minutes alone for up to
// ten seconds; and before each try at a snapshot it would copy the whole state.
type patientTransport struct {
	transport
	// wanted tells whether this node leads in that term, with that server.
	wanted func(term uint64, id raft.ServerID) bool
	// holdsBack tells whether this node should not ask for votes now, wantsToLead
	// is told when it does.
	holdsBack   func() bool
	wantsToLead func(term uint64, given bool)
	// stopped ends every wait when it is closed.
	stopped chan struct{}

	mu sync.Mutex
	// away holds the servers that did not answer; the channel is closed when
	// they answer a heartbeat.
	away map[raft.ServerID]chan struct{}
	// heard is when each server last answered.
	heard map[raft.ServerID]time.Time
}

// newTransport calls for the transport and makes it patient.
func (s *Store) newTransport(id string) (*patientTransport, error) {
	var inner raft.Transport
	if s.opts.Transport != nil {
		inner = s.opts.Transport(id)
	} else {
		_, inner = raft.NewInmemTransport(raft.ServerAddress(id))
	}
	t, ok := inner.(transport)
	if !ok {
		return nil, fmt.Errorf("raftstore: Options.Transport gives a %T, which has no pre-vote", inner)
	}
	return &patientTransport{
		transport: t, wanted: s.leadsServer, holdsBack: s.holdsBack, wantsToLead: s.story.wantsToLead,
		stopped: make(chan struct{}), away: make(map[raft.ServerID]chan struct{}), heard: make(map[raft.ServerID]time.Time),
	}, nil
}

// leadsServer tells whether this node leads in that term, and that server is one
// of its own.
func (s *Store) leadsServer(term uint64, id raft.ServerID) bool {
	r := s.raft.Load()
	if r == nil || r.State() != raft.Leader || r.CurrentTerm() != term {
		return false
	}
	servers, err := configured(r)
	return err == nil && indexOf(servers, id) >= 0
}

// AppendEntries implements raft.Transport.
func (t *patientTransport) AppendEntries(id raft.ServerID, addr raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	heartbeat := args.PrevLogEntry == 0 && args.LeaderCommitIndex == 0 && len(args.Entries) == 0
	if !heartbeat && !t.wait(id, args.Term) {
		return awayError(id)
	}
	err := t.transport.AppendEntries(id, addr, args, resp)
	if err == nil || !heartbeat {
		t.note(id, err == nil)
	}
	return err
}

// RequestPreVote implements raft.WithPreVote.
func (t *patientTransport) RequestPreVote(id raft.ServerID, addr raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if t.holdsBack() {
		return fmt.Errorf("this node leaves it to others to lead: %w", fleet.ErrUnavailable)
	}
	t.wantsToLead(args.Term, false)
	return t.transport.RequestPreVote(id, addr, args, resp)
}

// RequestVote implements raft.Transport.
func (t *patientTransport) RequestVote(id raft.ServerID, addr raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if args.LeadershipTransfer { // else it asked whether it should
		t.wantsToLead(args.Term, true)
	}
	return t.transport.RequestVote(id, addr, args, resp)
}

// InstallSnapshot implements raft.Transport.
func (t *patientTransport) InstallSnapshot(id raft.ServerID, addr raft.ServerAddress, args *raft.InstallSnapshotRequest,
	resp *raft.InstallSnapshotResponse, data io.Reader,
) error {
	if t.isAway(id) != nil {
		// This copy of the state will be old when the server comes: its space is
		// given back now, and raft makes another one.
		if c, ok := data.(io.Closer); ok {
			_ = c.Close()
		}
		t.wait(id, args.Term)
		return awayError(id)
	}
	err := t.transport.InstallSnapshot(id, addr, args, resp, data)
	t.note(id, err == nil)
	return err
}

func (t *patientTransport) note(id raft.ServerID, answered bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if answered {
		t.heard[id] = time.Now()
	}
	back := t.away[id]
	switch {
	case !answered && back == nil:
		t.away[id] = make(chan struct{})
	case answered && back != nil:
		delete(t.away, id)
		close(back)
	}
}

// heardLately counts the servers of a list that answered this one within that
// time.
func (t *patientTransport) heardLately(servers []raft.Server, within time.Duration) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range servers {
		if at, ok := t.heard[c.ID]; ok && time.Since(at) < within {
			n++
		}
	}
	return n
}

// isAway returns what is closed when the server is back, or nil.
func (t *patientTransport) isAway(id raft.ServerID) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.away[id]
}

func awayError(id raft.ServerID) error {
	return fmt.Errorf("server %s was away: %w", id, fleet.ErrUnavailable)
}

// wait returns true when the server is not away, or not any more, and false
// when waiting makes no sense any more.
func (t *patientTransport) wait(id raft.ServerID, term uint64) bool {
	back := t.isAway(id)
	if back == nil {
		return true
	}
	poll := time.NewTicker(patienceEvery)
	defer poll.Stop()
	for t.wanted(term, id) {
		select {
		case <-back:
			return true
		case <-t.stopped:
			return false
		case <-poll.C:
		}
	}
	return false
}

// Close implements raft.WithClose.
func (t *patientTransport) Close() error {
	if c, ok := t.transport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}
