// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"muster/fleet"
)

const (
	// asideEvery is how often a quarantined node asks to lose its vote.
	asideEvery = 10 * time.Second
	// askAsideWait bounds that: meanwhile it may become leader, and has to hand over.
	askAsideWait = time.Second
	// asideWait is how long a quarantined node leaves it to others to lead.
	asideWait = 5 * time.Second
	// freshAnswer is the age up to which a server's last answer shows that it lives.
	freshAnswer = 3 * pollEvery
)

// handOver makes another server leader: the one furthest ahead of those that
// live. Raft's own choice may be one that is away, and then nobody could write
// until the try is over. A quarantined node hands over only to one that can be
// trusted: two of them would give it to each other for ever.
func (s *Store) handOver(ctx context.Context, r *raft.Raft, await func(context.Context, raft.Future) error) error {
	servers, err := configured(r)
	if err != nil {
		return err
	}
	wrong := s.quarantined() != ""
	var to []raft.Server
	for _, c := range servers {
		if c.Suffrage == raft.Voter && string(c.ID) != s.serverID() && s.transport.isAway(c.ID) == nil &&
			(!wrong || s.members.sighting(c.ID).trusted()) {
			to = append(to, c)
		}
	}
	slices.SortStableFunc(to, func(a, b raft.Server) int {
		return cmp.Compare(s.members.sighting(b.ID).rank(), s.members.sighting(a.ID).rank())
	})
	err = fmt.Errorf("no other voter that can be trusted answers: %w", fleet.ErrUnavailable)
	for _, c := range to {
		if err = await(ctx, r.LeadershipTransferToServer(c.ID, c.Address)); err == nil {
			s.story.say(slog.LevelInfo, "handed over the leadership", "to", c.ID)
			return nil
		}
		err = fmt.Errorf("handing over to %s: %w: %w", c.ID, err, fleet.ErrUnavailable)
	}
	return err
}

func (m *members) sighting(id raft.ServerID) sighting {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen[string(id)]
}

func (n sighting) fresh() bool { return !n.at.IsZero() && time.Since(n.at) < freshAnswer }

// trusted tells whether the server answered lately and is not quarantined.
func (n sighting) trusted() bool { return n.fresh() && n.Applied.Hash != "" }

// rank is higher for a server that is the better leader: the quarantined come
// last, then those that nothing is known of.
func (n sighting) rank() uint64 {
	switch {
	case n.trusted():
		return n.Applied.Index + 2
	case n.fresh():
		return 0
	default:
		return 1
	}
}

// stepAside is what a quarantined node does in place of the leader's work: as
// leader it looks for another and hands over, as follower it asks to lose its vote.
func (s *Store) stepAside(ctx context.Context, r *raft.Raft) {
	servers, err := configured(r)
	if err != nil {
		return // raft is stopping
	}
	if r.State() == raft.Leader {
		s.poll(ctx, servers)
		term := r.CurrentTerm()
		if err := s.handOver(ctx, r, s.await); err != nil && ctx.Err() == nil && s.members.stuckIn != term {
			s.members.stuckIn = term
			s.story.warn("a quarantined node leads, because no other can: nothing can be written until another is back", "error", err)
		}
		return
	}
	s.members.forget(nil)
	i := indexOf(servers, raft.ServerID(s.serverID()))
	if r.State() != raft.Follower || time.Since(s.members.asked) < asideEvery || i < 0 || servers[i].Suffrage != raft.Voter {
		return
	}
	s.members.asked = time.Now()
	ctx, cancel := context.WithTimeout(ctx, askAsideWait)
	defer cancel()
	err = s.askMembers(ctx, memberRequest{Demote: s.serverID()})
	if _, refused := errors.AsType[*fleet.Refusal](err); refused && !s.members.keepsVote {
		s.members.keepsVote = true
		s.logger.Warn("this quarantined node keeps its vote, but leads only until another can", "reason", err)
	}
}

// demote takes a server's vote, unless the rest could then not lose one more.
func (s *Store) demote(ctx context.Context, r *raft.Raft, id string) error {
	servers, err := configured(r)
	if err != nil {
		return err
	}
	i := indexOf(servers, raft.ServerID(id))
	if i < 0 || servers[i].Suffrage != raft.Voter {
		return nil
	}
	rest, live := 0, 0
	for _, c := range servers {
		if c.Suffrage != raft.Voter || string(c.ID) == id {
			continue
		}
		rest++
		if string(c.ID) == s.serverID() || s.members.sighting(c.ID).trusted() {
			live++
		}
	}
	if majority := rest/2 + 1; live <= majority {
		return fleet.Refuse(fleet.CodeConflict, "without the vote of %s, %d of %d voters would be left that can be trusted now, so that the next failure could leave no majority: replace that node first",
			id, live, rest)
	}
	if err := s.configure(ctx, r, r.DemoteVoter(raft.ServerID(id), 0, untilDeadline(ctx))); err != nil {
		return fmt.Errorf("taking the vote of server %s: %w", id, err)
	}
	s.logger.Warn("a server whose state differs has no vote any more", "server", id)
	return nil
}

// holdsBack tells whether this node should leave it to others to lead: while it
// is quarantined, until they had time to. If none could, this node's log may be the
// longest, and it has to lead until another has that too.
func (s *Store) holdsBack() bool {
	r := s.raft.Load()
	if r == nil || s.quarantined() == "" {
		return false
	}
	contact := r.LastContact()
	if contact.Before(s.begun) { // it has had none yet
		contact = s.begun
	}
	return time.Since(contact) < asideWait
}
