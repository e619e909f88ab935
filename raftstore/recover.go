// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"
)

// Recovery is what Recover did.
type Recovery struct {
	ServerID string
	// Dropped are the IDs of the servers that belong to the cluster no more.
	// They are on the list of removed servers, so their data directories are
	// refused from now on.
	Dropped []string
	// Index is the last entry of this node's log before the recovery: everything
	// up to it stands, and whatever only the others had is lost.
	Index uint64
	// Applied is how many of those entries this node had not applied yet.
	Applied int
	// Voted tells whether this node had a vote. One without may have been far behind.
	Voted bool
}

// String says it in words.
func (r Recovery) String() string {
	if len(r.Dropped) == 0 {
		return fmt.Sprintf("%s is the only server of the cluster already: nothing was changed", r.ServerID)
	}
	vote := ""
	if !r.Voted {
		vote = "; it had no vote and may have been far behind"
	}
	return fmt.Sprintf("%s is the only server of the cluster now, from its own state and log, which end at index %d (%d entries had not been applied)%s. "+
		"Dropped for good: %s. Whatever only they had is lost. Never start them on their old data directories again: let them join with empty ones",
		r.ServerID, r.Index, r.Applied, vote, strings.Join(r.Dropped, ", "))
}

// Recovery returns what Recover did, nil before it was called.
func (s *Store) Recovery() *Recovery { return s.recovery }

// recoveryPlan is what Recover will do.
type recoveryPlan struct {
	did   Recovery
	alone []raft.Server
	last  position // the end of the log
}

// checkRecoverable refuses, before anything is made, a directory without a past.
func checkRecoverable(dir string) error {
	_, err := os.Stat(filepath.Join(dir, nodeFileName))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("data directory %s has no state to recover from: name the directory of a node that is left, or leave --recover out to join as a new node", dir)
	}
	return err
}

// planRecovery finds out what Recover has to do, and refuses a directory that
// nobody can recover from. It changes nothing.
func (s *Store) planRecovery() error {
	servers, last, err := s.lastConfiguration()
	if err != nil {
		return err
	}
	p := &recoveryPlan{did: Recovery{ServerID: s.serverID(), Index: last.Index}, last: last}
	r := &p.did
	for _, server := range servers {
		if id := string(server.ID); id != r.ServerID {
			r.Dropped = append(r.Dropped, id)
			continue
		}
		r.Voted = server.Suffrage == raft.Voter
		server.Suffrage = raft.Voter
		p.alone = []raft.Server{server}
	}
	dir := s.opts.Dir
	switch {
	case s.Removed(r.ServerID):
		return fmt.Errorf("data directory %s belongs to server %s, which was removed from the cluster: recover from a node that was a member to the end", dir, r.ServerID)
	case p.alone == nil || s.files.node.ClusterID == "":
		return fmt.Errorf("data directory %s is not a member's (server %s): recover from a node that is one, or leave --recover out to join as a new node", dir, r.ServerID)
	case s.quarantined() != "":
		return fmt.Errorf("the state in data directory %s is wrong (%s): recover from another node. If this is the only one left, and a wrong state is better than none, "+
			"take the line \"wrong\" out of %s first", dir, s.quarantined(), filepath.Join(dir, nodeFileName))
	case len(r.Dropped) > 0 && s.files.node.Recovered:
		return fmt.Errorf("data directory %s was recovered by the start before this one, and has got other servers since (%s), which --recover would drop: leave it out. "+
			"If their majority is lost for good too, start once without it and then with it", dir, strings.Join(r.Dropped, ", "))
	}
	s.plan = p
	return nil
}

// Recover does what Options.Recover asks for, once, between New and Run. It
// writes what a leader would have written to remove the others, one by one, at the
// end of this node's own log, in one append: from then on the log says that this
// node alone decides, so all of it is committed, and is applied at once. Until then
// nothing has changed; repeated by another start, it finds nothing to do.
func (s *Store) Recover() (err error) {
	switch {
	case s.plan == nil:
		return fmt.Errorf("raftstore: recovering: Options.Recover was not set")
	case s.recovery != nil:
		return fmt.Errorf("raftstore: recovering: it was done already")
	}
	r := s.plan.did
	if len(r.Dropped) > 0 {
		if err := s.appendRecovery(r.Dropped, s.plan.alone, s.plan.last); err != nil {
			return fmt.Errorf("raftstore: writing the recovery into the log: %w", err)
		}
	}
	if r.Applied, err = s.applyRest(r.Index); err != nil {
		return fmt.Errorf("raftstore: applying the rest of the log: %w", err)
	}
	if err := s.noteRecovered(true); err != nil {
		return fmt.Errorf("raftstore: %w", err)
	}
	s.recovery = &r
	s.logger.Warn("started with --recover", "what", r.String(), "index", r.Index, "dropped", r.Dropped)
	return nil
}

// Voters returns the server IDs of those that vote, as far as this node's log
// tells; it may be called before Run.
func (s *Store) Voters() ([]string, error) {
	servers, _, err := s.lastConfiguration()
	var voters []string
	for _, c := range servers {
		if c.Suffrage == raft.Voter {
			voters = append(voters, string(c.ID))
		}
	}
	return voters, err
}

// lastConfiguration returns the newest configuration that this node knows, and
// the end of its log.
func (s *Store) lastConfiguration() (servers []raft.Server, last position, err error) {
	var conf configuration
	if err := s.read(func(v view) error {
		last, conf = readPosition(v)
		return nil
	}); err != nil {
		return nil, last, err
	}
	end, err := s.files.log.LastIndex()
	if err != nil {
		return nil, last, fmt.Errorf("reading the log: %w", err)
	}
	for i := last.Index + 1; i <= end; i++ {
		var l raft.Log
		if err := s.files.log.GetLog(i, &l); err != nil {
			return nil, last, fmt.Errorf("reading entry %d of the log: %w", i, err)
		}
		if l.Type == raft.LogConfiguration {
			conf.Config = raft.DecodeConfiguration(l.Data)
		}
		last.Index, last.Term = l.Index, l.Term
	}
	return conf.Config.Servers, last, nil
}

// appendRecovery adds, in a term that nobody has seen, the commands that keep the
// others out and the configuration without them.
func (s *Store) appendRecovery(dropped []string, alone []raft.Server, last position) error {
	term, err := s.files.log.GetUint64([]byte(stableTerm))
	if err != nil && err.Error() != "not found" { // raft's own test
		return err
	}
	term = max(term, last.Term) + 1
	var entries []*raft.Log
	add := func(kind raft.LogType, data []byte) {
		last.Index++
		entries = append(entries, &raft.Log{Index: last.Index, Term: term, Type: kind, Data: data})
	}
	for _, id := range dropped {
		cmd := &removeNode{ServerID: id}
		data, err := encodeEntry(envelope{Kind: cmd.kind(), At: s.now(), Body: mustEncode(cmd)})
		if err != nil {
			return err
		}
		add(raft.LogCommand, data)
	}
	add(raft.LogConfiguration, raft.EncodeConfiguration(raft.Configuration{Servers: alone}))
	if err := s.files.log.SetUint64([]byte(stableTerm), term); err != nil {
		return err
	}
	return s.files.log.StoreLogs(entries)
}

// stableTerm is the name under which raft keeps its term.
const stableTerm = "CurrentTerm"

// applyRest applies the log to its end, and returns how many entries up to
// index there were among them.
func (s *Store) applyRest(index uint64) (applied int, err error) {
	end, err := s.files.log.LastIndex()
	if err != nil {
		return 0, err
	}
	var batch []*raft.Log
	for i := s.fsm.last.Load().Index + 1; i <= end; i++ {
		l := new(raft.Log)
		if err := s.files.log.GetLog(i, l); err != nil {
			return applied, err
		}
		if l.Type == raft.LogCommand || l.Type == raft.LogConfiguration {
			batch = append(batch, l)
		}
		if i <= index {
			applied++
		}
		if len(batch) == 0 || len(batch) < groupWrites && i < end {
			continue
		}
		if err := s.fsm.commit(batch, make([]outcome, len(batch))); err != nil {
			return applied, err
		}
		batch = nil
	}
	return applied, nil
}

// noteRecovered keeps in mind whether this start was a recovery, so that a flag
// that was left in a unit file does not drop the servers that join afterwards.
func (s *Store) noteRecovered(yes bool) error {
	return s.files.change(s.opts.Dir, func(n *nodeFile) { n.Recovered = yes })
}
