// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// markEvery is the distance of the indexes at which every node notes its hash.
	markEvery = 64
	// keptHashes is how many hashes of each kind are kept.
	keptHashes = 64
	// compareEvery is how often a follower compares its hash with the leader's.
	compareEvery = time.Minute
	// compareWait bounds one comparison.
	compareWait = 5 * time.Second
)

// hashHistory is what the state's hash was lately: at the end of each batch,
// which differ from node to node, and at marks, which do not.
type hashHistory struct {
	mu          sync.Mutex
	ends, marks []HashAt // oldest first
	// wrong says how the state differs from the leader's, as node.json does; it
	// stays until the state is replaced.
	wrong string
}

func (h *hashHistory) add(marks []HashAt, end HashAt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.marks = keepNewest(append(h.marks, marks...))
	h.ends = keepNewest(append(h.ends, end))
}

func keepNewest(list []HashAt) []HashAt {
	return slices.Delete(list, 0, max(0, len(list)-keptHashes))
}

// restart forgets everything, because the state was replaced.
func (h *hashHistory) restart(end HashAt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.marks, h.ends = nil, []HashAt{end}
}

func (h *hashHistory) lastMark() (at HashAt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.marks); n > 0 {
		at = h.marks[n-1]
	}
	return at
}

// State returns the index of the last entry applied here and the logical hash
// of the state at it.
func (s *Store) State() (applied uint64, hash string) {
	p := s.fsm.last.Load()
	return p.Index, p.Hash
}

// HandleState answers Peers.State. A quarantined node gives no hashes, so that
// nobody is judged by them.
func (s *Store) HandleState() PeerState {
	index, hash := s.State()
	if s.quarantined() != "" {
		return PeerState{Applied: HashAt{Index: index}, Format: int(s.fsm.format.Load())}
	}
	return PeerState{Applied: HashAt{index, hash}, Mark: s.hashes.lastMark(), Format: int(s.fsm.format.Load())}
}

// Hashes returns the hashes of the last states that are still known, in order
// of their indexes: those after each of the last batches and at the last marks.
func (s *Store) Hashes() []HashAt {
	h := &s.hashes
	h.mu.Lock()
	all := slices.Concat(h.ends, h.marks)
	h.mu.Unlock()
	slices.SortFunc(all, func(a, b HashAt) int { return int(int64(a.Index) - int64(b.Index)) })
	return slices.Compact(all)
}

// matches compares with this node's own history. It returns false, false when
// this node no longer knows, or does not know yet, what its hash was at that index.
func (s *Store) matches(at HashAt) (same, known bool) {
	if at.Hash == "" {
		return false, false
	}
	for _, own := range s.Hashes() {
		if own.Index == at.Index {
			return own.Hash == at.Hash, true
		}
	}
	return false, false
}

// agrees compares what a member said of itself with this node's own history.
func (s *Store) agrees(p PeerState) (same, known bool) {
	if same, known = s.matches(p.Applied); known {
		return same, true
	}
	return s.matches(p.Mark)
}

// quarantine says why this node's state is wrong, and keeps it over restarts.
func (s *Store) quarantine(why string) {
	s.hashes.mu.Lock()
	first := s.hashes.wrong == ""
	if first {
		s.hashes.wrong = why
	}
	s.hashes.mu.Unlock()
	if first {
		s.logger.Error("the state of this node differs from the others', so it pushes nothing to agents any more", "reason", why)
	}
	// What cannot be written now is tried again with the next comparison.
	if err := s.noteWrong(); err != nil {
		s.logger.Error("the quarantine was not noted on the disk, a restart would forget it", "error", err)
	}
}

// trustAgain ends the quarantine, because the state was replaced by another node's.
func (s *Store) trustAgain() error {
	s.hashes.mu.Lock()
	was := s.hashes.wrong
	s.hashes.wrong = ""
	s.hashes.mu.Unlock()
	if was != "" {
		s.logger.Warn("the state that differed was replaced by a snapshot of the leader's, so this node can be trusted again", "reason", was)
	}
	return s.noteWrong()
}

// noteWrong makes node.json say whether this node is quarantined.
func (s *Store) noteWrong() error {
	return s.files.change(s.opts.Dir, func(n *nodeFile) { n.Wrong = s.quarantined() })
}

func (s *Store) quarantined() string {
	s.hashes.mu.Lock()
	defer s.hashes.mu.Unlock()
	return s.hashes.wrong
}

// keepComparing compares this node with its leader, at once when it is ready
// and then from time to time.
func (s *Store) keepComparing(ctx context.Context, r *raft.Raft) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ready:
	}
	t := time.NewTicker(compareEvery)
	defer t.Stop()
	for {
		if s.opts.Peers != nil && r.State() == raft.Follower {
			s.compare(ctx, r)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

// compare looks whether this node and the leader agree. If they do not, this node
// is the one in the wrong, unless more of the others agree with it than with the
// leader. It does without an answer: the next comparison is soon enough.
func (s *Store) compare(ctx context.Context, r *raft.Raft) {
	ctx, cancel := context.WithTimeout(ctx, compareWait)
	defer cancel()
	var leader PeerState
	var leaderID string
	err := s.askLeader(ctx, r, func(ctx context.Context, id string) (err error) {
		leaderID = id
		leader, err = s.opts.Peers.State(ctx, id)
		return err
	})
	if err != nil || s.WaitApplied(ctx, leader.Applied.Index) != nil {
		return
	}
	if same, known := s.agrees(leader); same || !known {
		return
	}
	servers, err := configured(r)
	if err != nil {
		return
	}
	with, against := 0, 0
	for _, c := range servers {
		if id := string(c.ID); id != leaderID && id != s.serverID() {
			state, err := s.opts.Peers.State(ctx, id)
			if same, known := s.agrees(state); err == nil && known && same {
				with++
			} else if err == nil && known {
				against++
			}
		}
	}
	if with > against {
		s.logger.Error("the state of the leader differs from this node's, with which more of the others agree", "leader", leaderID, "agree", with, "differ", against)
		return
	}
	if same, known := s.agrees(leader); same || !known {
		return // the state was replaced meanwhile
	}
	what := "move the data directory away and let the node join as a new one"
	if with+against == 0 {
		what = "no third node could be asked which of the two is right: have it compared with one before anything is moved away"
	}
	s.quarantine(fmt.Sprintf("at index %d the state differs from that of the leader %s: %s", leader.Applied.Index, leaderID, what))
}

// doubt is the leader's part: it is the one in the wrong if more of the voters
// that it knows the state of differ from it than agree with it, itself among them.
func (s *Store) doubt(servers []raft.Server) {
	with, against := 1, 0
	for _, c := range servers {
		if c.Suffrage != raft.Voter {
			continue // who is only joining judges nobody
		}
		seen := s.members.sighting(c.ID)
		if same, known := s.agrees(seen.PeerState); known && same {
			with++
		} else if known {
			against++
		}
	}
	if against > with {
		s.quarantine(fmt.Sprintf("the states of %d other servers differ from that of this leader, %d agree: move the data directory away and let the node join as a new one",
			against, with-1))
	}
}
