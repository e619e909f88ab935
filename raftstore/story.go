// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// A node tells at most tellBurst lines of its story at once, and then one
	// each tellEvery, so that a flapping link cannot fill the disk.
	tellBurst = 20
	tellEvery = 10 * time.Second
	// A node without a leader says so again after remindFirst, then after twice as
	// long each time, up to remindMost.
	remindFirst = 10 * time.Second
	remindMost  = time.Hour
)

// story tells in the log, one line per step, who leads and who can be reached.
type story struct {
	logger *slog.Logger
	self   raft.ServerID
	// timeout is the silence after which a leader is given up.
	timeout time.Duration

	mu sync.Mutex
	// What this node was when it last looked.
	member, voter bool
	leader        raft.ServerID // whom this node follows, or itself; empty: nobody
	term          uint64        // of the leader
	// since is when the present leader was found or the last one lost.
	since    time.Time
	episode  episode
	reminder reminder
	silent   map[raft.ServerID]time.Time // on the leader: who does not answer, since when
	budget   budget
}

// episode is a time without a leader.
type episode struct {
	former raft.ServerID // the leader whose loss is still to be told
	wants  uint64        // the term in which this node asked for votes
	given  bool          // because the leader told it to
	told   bool
}

// reminder is when the missing leader is mentioned next.
type reminder struct {
	at    time.Time
	pause time.Duration
}

// budget bounds the lines.
type budget struct {
	tokens  float64
	filled  time.Time
	leftOut int
}

func (t *story) begin(logger *slog.Logger, self string, timeout time.Duration) {
	now := time.Now()
	t.logger, t.self, t.timeout, t.since = logger, raft.ServerID(self), timeout, now
	t.silent, t.budget = make(map[raft.ServerID]time.Time), budget{tokens: tellBurst, filled: now}
	t.reminder = reminder{now.Add(remindFirst), remindFirst}
}

// tell logs a line unless there were too many. The caller holds mu.
func (t *story) tell(level slog.Level, msg string, args ...any) {
	now, b := time.Now(), &t.budget
	b.tokens = min(tellBurst, b.tokens+float64(now.Sub(b.filled))/float64(tellEvery))
	b.filled = now
	if b.tokens < 1 {
		b.leftOut++
		return
	}
	b.tokens--
	if b.leftOut > 0 {
		args = append(args, "lines_left_out", b.leftOut)
		b.leftOut = 0
	}
	t.logger.Log(context.Background(), level, msg, args...) //nolint:sloglint // the callers' messages are constant
}

// say logs what may happen again and again.
func (t *story) say(level slog.Level, msg string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tell(level, msg, args...)
}

func (t *story) warn(msg string, args ...any) { t.say(slog.LevelWarn, msg, args...) }

// ms is a time as people like to read it.
func ms(d time.Duration) string { return d.Round(time.Millisecond).String() }

// hear takes one of raft's observations.
func (t *story) hear(r *raft.Raft, o any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if servers, err := configured(r); err == nil {
		t.place(servers)
	}
	switch o := o.(type) {
	case raft.LeaderObservation:
		t.hearLeader(r, o.LeaderID)
	case raft.RaftState:
		t.hearState(o)
	case raft.FailedHeartbeatObservation:
		last := o.LastContact
		if last.Before(t.since) {
			last = t.since
		}
		if _, told := t.silent[o.PeerID]; !told && t.leader == t.self && time.Since(last) >= freshAnswer {
			t.silent[o.PeerID] = last
			t.tell(slog.LevelWarn, "a server does not answer", "server", o.PeerID, "for", ms(time.Since(last)))
		}
	case raft.ResumedHeartbeatObservation:
		if since, told := t.silent[o.PeerID]; told {
			delete(t.silent, o.PeerID)
			t.tell(slog.LevelInfo, "a server answers again", "server", o.PeerID, "after", ms(time.Since(since)))
		}
	case raft.PeerObservation:
		if o.Removed {
			delete(t.silent, o.Peer.ID)
		}
	}
}

func (t *story) hearLeader(r *raft.Raft, leader raft.ServerID) {
	now := time.Now()
	switch {
	case leader == t.leader || leader == t.self: // its own is told once it is ready for it
	case leader == "" && t.leader != t.self:
		t.episode.former = t.leader
		if quiet := now.Sub(r.LastContact()); quiet >= t.timeout {
			t.sayLost(quiet)
		} // else it may only be that another one comes, of a newer term
		t.lost(now)
	case leader != "":
		t.term = r.CurrentTerm()
		t.tell(slog.LevelInfo, "follows a leader now", "leader", leader, "term", t.term, "after", ms(now.Sub(t.since)))
		t.leader, t.since, t.episode = leader, now, episode{}
	}
}

// lost notes that there is no leader.
func (t *story) lost(now time.Time) {
	t.leader, t.since = "", now
	t.reminder = reminder{now.Add(remindFirst), remindFirst}
	if t.episode.wants > t.term { // which was heard before the loss
		t.sayWants()
	}
}

func (t *story) sayLost(quiet time.Duration) {
	if t.episode.former != "" && t.member {
		t.tell(slog.LevelWarn, "lost contact with the leader", "leader", t.episode.former, "for", ms(quiet))
	}
	t.episode.former = ""
}

func (t *story) hearState(state raft.RaftState) {
	if now := time.Now(); t.leader == t.self && state != raft.Leader {
		t.tell(slog.LevelWarn, "leads no more", "after", ms(now.Sub(t.since)))
		clear(t.silent)
		t.lost(now)
	}
}

// wantsToLead says, once after each loss of a leader, that this node asks for
// votes: because it hears nothing of a leader, or was given the leadership.
func (t *story) wantsToLead(term uint64, given bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.episode.wants, t.episode.given = term, given
	if t.leader == "" { // else the news of the loss is still under way
		t.sayWants()
	}
}

func (t *story) sayWants() {
	if t.episode.told {
		return
	}
	t.episode.told = true
	if !t.episode.given {
		t.sayLost(t.timeout)
	}
	t.tell(slog.LevelInfo, "wants to become leader", "term", t.episode.wants)
}

// leads says that this node leads and has applied all that was before.
func (t *story) leads(term uint64, servers, following int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.tell(slog.LevelInfo, "leads now", "term", term, "after", ms(now.Sub(t.since)), "following", following, "of", servers-1)
	t.leader, t.since, t.term, t.episode = t.self, now, term, episode{}
}

// place tells what became of this node itself.
func (t *story) place(servers []raft.Server) {
	i := indexOf(servers, t.self)
	voter := i >= 0 && servers[i].Suffrage == raft.Voter
	switch {
	case t.member && i < 0:
		t.tell(slog.LevelWarn, "was removed from the cluster: give this node an empty data directory if it is to join again")
	case t.member && voter && !t.voter:
		t.tell(slog.LevelInfo, "has a vote now")
	case t.member && !voter && t.voter:
		t.tell(slog.LevelWarn, "has no vote any more")
	}
	t.member, t.voter = i >= 0, voter
}

// look makes up for what was not heard, and says from time to time that there
// is still no leader.
func (t *story) look(r *raft.Raft) {
	servers, err := configured(r)
	if err != nil {
		return // raft is stopping
	}
	_, leader := r.LeaderWithID()
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.place(servers)
	t.hearLeader(r, leader)
	if t.leader != "" || !t.member || now.Before(t.reminder.at) {
		return
	}
	voters := 0
	for _, c := range servers {
		if c.Suffrage == raft.Voter {
			voters++
		}
	}
	t.tell(slog.LevelWarn, "still no leader: a majority of the voters must reach each other", "for", ms(now.Sub(t.since)),
		"voters", voters, "majority", voters/2+1)
	pause := min(2*t.reminder.pause, remindMost)
	t.reminder = reminder{now.Add(pause), pause}
}

// watchLeader wakes those who wait for another leader, and tells the story.
func (s *Store) watchLeader(ctx context.Context, r *raft.Raft) error {
	// A full channel drops the news; the signal needs none in particular.
	news := make(chan raft.Observation, 64)
	o := raft.NewObserver(news, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState, raft.PeerObservation, raft.FailedHeartbeatObservation, raft.ResumedHeartbeatObservation:
			return true
		}
		return false
	})
	r.RegisterObserver(o)
	defer r.DeregisterObserver(o)
	s.story.look(r) // at what was before
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case o := <-news:
			s.story.hear(r, o.Data)
			s.leaderChange.fire()
		case <-t.C:
			s.story.look(r)
		}
	}
}
