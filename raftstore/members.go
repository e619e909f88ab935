// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"muster/fleet"
)

// kindMembers is the kind of a request to the leader that changes Raft's own
// configuration. It travels like a command but never enters the log.
const kindMembers = "members"

// memberRequest asks for one of these.
type memberRequest struct {
	Join   *joiner `json:"join,omitempty"`
	Remove string  `json:"remove,omitempty"` // node name or server ID
	Demote string  `json:"demote,omitempty"` // server ID of a quarantined voter
}

type joiner struct {
	ServerID string `json:"server_id"`
	Name     string `json:"name"`
	Address  string `json:"address"`
}

// members is what the leader knows of the other servers.
type members struct {
	// changing is held while the configuration is changed.
	changing chan struct{}
	// asked is when this quarantined node last asked to lose its vote, keepsVote
	// that it was refused, stuckIn the term in which it could not hand over and said
	// so; of keepMembers alone.
	asked     time.Time
	keepsVote bool
	stuckIn   uint64

	mu   sync.Mutex
	seen map[string]sighting // by server ID; empty on followers
}

// sighting is a server's last answer.
type sighting struct {
	PeerState
	at time.Time
	// ripe counts the answers in a row in which the server was close to the leader.
	ripe int
}

func newMembers() members {
	return members{changing: make(chan struct{}, 1), seen: make(map[string]sighting)}
}

// Servers returns all members in the order in which they were added.
func (s *Store) Servers() ([]fleet.Server, error) {
	r := s.raft.Load()
	if r == nil {
		return nil, fmt.Errorf("listing the servers: the store is not running: %w", fleet.ErrUnavailable)
	}
	f := r.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, fmt.Errorf("listing the servers: %w: %w", err, fleet.ErrUnavailable)
	}
	_, leader := r.LeaderWithID()
	own := s.HandleState()
	s.members.mu.Lock()
	defer s.members.mu.Unlock()
	var list []fleet.Server
	for _, c := range f.Configuration().Servers {
		id := string(c.ID)
		server := fleet.Server{
			ID: id, Name: nodeNameOf(id), Address: string(c.Address),
			Voter: c.Suffrage == raft.Voter, Leader: c.ID == leader,
		}
		if id == s.serverID() {
			server.Applied, server.Format = own.Applied.Index, own.Format
		} else if seen, ok := s.members.seen[id]; ok {
			server.Applied, server.Format, server.Age = seen.Applied.Index, seen.Format, time.Since(seen.at)
			server.Lag = lag(own.Applied.Index, seen.Applied.Index)
		}
		list = append(list, server)
	}
	return list, nil
}

func lag(leader, server uint64) uint64 { return leader - min(leader, server) }

// nodeNameOf takes the random part off a server ID.
func nodeNameOf(id string) string {
	if i := strings.LastIndexByte(id, '~'); i >= 0 {
		return id[:i]
	}
	return id
}

// Leads tells whether this node leads now.
func (s *Store) Leads() bool {
	r := s.raft.Load()
	return r != nil && s.leads(r)
}

// Removed tells whether a server was removed from the cluster, so that it must
// not be taken back, nor spoken to.
func (s *Store) Removed(serverID string) bool {
	found := false
	err := s.read(func(v view) error {
		found = hasRemoved(loadRemoved(v), serverID)
		return nil
	})
	return found && err == nil
}

// Join has the leader add a server, which may be called again and again. An
// earlier server of the same node name is removed first, unless it still
// answers. The new one copies the state and becomes a voter when it has caught
// up; Join does not wait for that.
func (s *Store) Join(ctx context.Context, serverID, nodeName, address string) error {
	if serverID == "" || nodeNameOf(serverID) != nodeName {
		return fleet.Invalid("server_id", "%q is not an ID of node %q", serverID, nodeName)
	}
	if address == "" {
		return fleet.Invalid("address", "is empty")
	}
	return s.askMembers(ctx, memberRequest{Join: &joiner{ServerID: serverID, Name: nodeName, Address: address}})
}

// Remove has the leader remove a server, by its ID or its node's name, for good:
// its data directory cannot join again. Removing one that is gone is no error.
func (s *Store) Remove(ctx context.Context, nodeNameOrID string) error {
	if nodeNameOrID == "" {
		return fleet.Invalid("node", "is empty")
	}
	// A name may be another server's by the time that a try is repeated.
	if servers, err := s.Servers(); err == nil {
		for _, c := range servers {
			if c.Name == nodeNameOrID {
				nodeNameOrID = c.ID
				break
			}
		}
	}
	return s.askMembers(ctx, memberRequest{Remove: nodeNameOrID})
}

func (s *Store) askMembers(ctx context.Context, req memberRequest) error {
	ctx, cancel := context.WithTimeoutCause(ctx, writeWait, fleet.ErrTimeout)
	defer cancel()
	ans, err := s.submit(ctx, envelope{Kind: kindMembers, Body: mustEncode(req)})
	if err != nil {
		return fmt.Errorf("changing the members: %w", err)
	}
	if ans.Refusal != nil {
		return ans.Refusal
	}
	return nil
}

// changeMembers carries out a request on the leader, one at a time.
func (s *Store) changeMembers(ctx context.Context, r *raft.Raft, body json.RawMessage) (answer, uint64, error) {
	var req memberRequest
	if err := decodeJSON(body, &req); err != nil {
		return answer{}, 0, fleet.Refuse(fleet.CodeInvalid, "a request to change the members cannot be read: %v", err)
	}
	if err := s.untilLeads(ctx, r); err != nil {
		return answer{}, 0, err
	}
	select {
	case s.members.changing <- struct{}{}:
		defer func() { <-s.members.changing }()
	case <-ctx.Done():
		return answer{}, 0, fmt.Errorf("waiting for another change of the members: %w", context.Cause(ctx))
	}
	var err error
	switch {
	case req.Join != nil:
		err = s.join(ctx, r, *req.Join)
	case req.Demote != "":
		err = s.demote(ctx, r, req.Demote)
	default:
		err = s.remove(ctx, r, req.Remove)
	}
	if refusal, ok := errors.AsType[*fleet.Refusal](err); ok {
		return answer{Refusal: refusal}, s.fsm.last.Load().Index, nil
	}
	return answer{}, s.fsm.last.Load().Index, err
}

func (s *Store) join(ctx context.Context, r *raft.Raft, j joiner) error {
	if s.Removed(j.ServerID) {
		return fleet.Refuse(fleet.CodeConflict, "server %s was removed from this cluster: start node %s with an empty data directory", j.ServerID, j.Name)
	}
	servers, err := configured(r)
	if err != nil {
		return err
	}
	for _, old := range servers {
		id := string(old.ID)
		if id == j.ServerID {
			if string(old.Address) == j.Address {
				return nil
			}
			continue
		}
		if nodeNameOf(id) != j.Name {
			continue
		}
		if id == s.serverID() || s.answers(ctx, id) {
			return fleet.Refuse(fleet.CodeConflict, "node name %s is in use by the live server %s: give the new node another --node-id, or stop the old one", j.Name, id)
		}
		s.logger.Info("removing the earlier server of a node that comes with a new one", "old", id, "new", j.ServerID)
		if err := s.removeServer(ctx, r, id); err != nil {
			return err
		}
	}
	return s.add(ctx, r, servers, j)
}

// add adds the server without a vote, or corrects its address.
func (s *Store) add(ctx context.Context, r *raft.Raft, servers []raft.Server, j joiner) error {
	id, addr := raft.ServerID(j.ServerID), raft.ServerAddress(j.Address)
	change := r.AddNonvoter
	for _, c := range servers {
		if c.ID == id && c.Suffrage == raft.Voter {
			change = r.AddVoter
		}
	}
	if err := s.configure(ctx, r, change(id, addr, 0, untilDeadline(ctx))); err != nil {
		return fmt.Errorf("adding server %s: %w", j.ServerID, err)
	}
	s.logger.Info("added a server", "server", j.ServerID, "address", j.Address)
	return nil
}

// answers tells whether a server is alive beyond doubt.
func (s *Store) answers(ctx context.Context, id string) bool {
	if s.opts.Peers == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, pollWait)
	defer cancel()
	_, err := s.opts.Peers.State(ctx, id)
	return err == nil
}

func (s *Store) remove(ctx context.Context, r *raft.Raft, nameOrID string) error {
	servers, err := configured(r)
	if err != nil {
		return err
	}
	voters, id := 0, ""
	for _, c := range servers {
		if c.Suffrage == raft.Voter {
			voters++
		}
		if string(c.ID) == nameOrID || id == "" && nodeNameOf(string(c.ID)) == nameOrID {
			id = string(c.ID)
		}
	}
	switch {
	case id == "":
		if s.wasRemoved(nameOrID) {
			return nil
		}
		return fleet.Refuse(fleet.CodeNotFound, "there is no node %q in this cluster", nameOrID)
	case id == s.serverID() && voters == 1:
		return fleet.Refuse(fleet.CodeConflict, "%s is the only voter of this cluster: it cannot be removed", id)
	case id == s.serverID():
		if err := s.handOver(ctx, r, s.await); err != nil {
			return fmt.Errorf("handing over the leadership of the node to remove: %w", err)
		}
		return &NotLeaderError{} // the next leader is asked
	}
	return s.removeServer(ctx, r, id)
}

// wasRemoved tells whether a server of that name or ID was removed.
func (s *Store) wasRemoved(nameOrID string) bool {
	found := false
	err := s.read(func(v view) error {
		for _, n := range loadRemoved(v) {
			found = found || n.ServerID == nameOrID || nodeNameOf(n.ServerID) == nameOrID
		}
		return nil
	})
	return found && err == nil
}

// mayGo refuses to remove a voter without which too few would answer: there
// would be no majority to take anything back. A new leader waits for the answers.
func (s *Store) mayGo(ctx context.Context, r *raft.Raft, id string) error {
	for began := time.Now(); ; {
		servers, err := configured(r)
		if err != nil {
			return err
		}
		rest := slices.DeleteFunc(slices.Clone(servers), func(c raft.Server) bool {
			return c.Suffrage != raft.Voter || string(c.ID) == id
		})
		live := s.transport.heardLately(rest, freshAnswer)
		if indexOf(rest, raft.ServerID(s.serverID())) >= 0 {
			live++
		}
		i := indexOf(servers, raft.ServerID(id))
		switch {
		case i < 0 || servers[i].Suffrage != raft.Voter || live >= len(rest)/2+1:
			return nil
		case time.Since(began) > freshAnswer:
			return fleet.Refuse(fleet.CodeConflict, "without server %s %d of %d voters would answer, and %d must be: start the others first",
				id, live, len(rest), len(rest)/2+1)
		}
		if err := s.pause(ctx); err != nil {
			return err
		}
	}
}

func (s *Store) removeServer(ctx context.Context, r *raft.Raft, id string) error {
	if err := s.mayGo(ctx, r, id); err != nil {
		return err
	}
	cmd := &removeNode{ServerID: id}
	ans, _, err := s.proposeHere(ctx, r, envelope{Kind: cmd.kind(), Body: mustEncode(cmd)})
	if err == nil && ans.Refusal != nil {
		err = ans.Refusal
	}
	if err == nil {
		err = s.configure(ctx, r, r.RemoveServer(raft.ServerID(id), 0, untilDeadline(ctx)))
	}
	if err != nil {
		return fmt.Errorf("removing server %s: %w", id, err)
	}
	s.logger.Info("removed a server", "server", id)
	return nil
}

// configure waits for a change of the configuration.
func (s *Store) configure(ctx context.Context, r *raft.Raft, f raft.IndexFuture) error {
	if err := s.await(ctx, f); err != nil {
		return s.writeError(ctx, r, err)
	}
	return nil
}

func configured(r *raft.Raft) ([]raft.Server, error) {
	f := r.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w: %w", err, fleet.ErrUnavailable)
	}
	return f.Configuration().Servers, nil
}

// indexOf returns where a server stands in the list, or -1.
func indexOf(servers []raft.Server, id raft.ServerID) int {
	return slices.IndexFunc(servers, func(c raft.Server) bool { return c.ID == id })
}

func untilDeadline(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return writeWait
	}
	return max(time.Until(deadline), time.Millisecond)
}
