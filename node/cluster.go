// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"muster/fleet"
	"muster/peerrpc"
	"muster/raftstore"
)

const (
	// lookEvery is how often a node without a cluster looks again when gossip
	// tells nothing new.
	lookEvery = time.Second
	// sayEvery is when a node first repeats what it waits for, and sayAtLeast how
	// often it does in the end.
	sayEvery   = 30 * time.Second
	sayAtLeast = 10 * time.Minute
	// newsAtOnce is how many different texts are said at once, and newsEvery how
	// often another one after that: some hold numbers that change all the time.
	newsAtOnce = 10
	newsEvery  = 10 * time.Second
	// askWithin bounds one question to another node while a cluster forms.
	askWithin = 5 * time.Second
	// nameWait is how long a node that others refuse goes on asking: the node
	// that had its name may just have died.
	nameWait = 60 * time.Second
	// seedWait bounds how long a start waits for the first answer of gossip.
	seedWait = 3 * time.Second
)

// enter makes this node a member of the cluster, or finds that it is one, and
// returns when its replicated state is as new as any. Each step can be repeated
// after a crash. runState lets the replicated state take part in Raft.
func (n *Node) enter(ctx context.Context, runState func()) error {
	n.awaitGossip(ctx)
	select {
	case rival := <-n.members.Rivals():
		if err := n.judgeRival(ctx, rival, true); err != nil {
			return err
		}
	default:
	}
	n.members.RivalGone()
	if n.store.Removed(n.trust.serverID) {
		return errRemoved(n)
	}
	if n.cfg.Cluster.Recover {
		if err := n.recoverAlone(ctx); err != nil {
			return err
		}
	}
	runState()
	if !n.store.Bootstrapped() {
		if err := n.becomeMember(ctx); err != nil {
			return err
		}
		if err := n.members.Update(n.self()); err != nil {
			return err
		}
	}
	if err := n.awaitState(ctx); err != nil {
		return err
	}
	if n.trust.ca.Load() == nil {
		ca, ok := n.store.Meta(raftstore.MetaCA)
		if !ok {
			return errors.New("the replicated state holds no CA: restore the data directory from a backup")
		}
		if err := n.trust.open(n.store.Status().ClusterID, ca); err != nil {
			return err
		}
	}
	if err := n.members.Update(n.self()); err != nil {
		return err
	}
	if n.store.Leads() {
		return n.firstUser(ctx)
	}
	return nil
}

// awaitGossip waits until the nodes to join have been called once.
func (n *Node) awaitGossip(ctx context.Context) {
	timer := time.NewTimer(seedWait)
	defer timer.Stop()
	select {
	case <-n.members.Tried():
	case <-timer.C:
	case <-ctx.Done():
	}
}

// becomeMember founds the cluster with the other new nodes, or enrols in one.
func (n *Node) becomeMember(ctx context.Context) error {
	changes, stop := n.members.Subscribe()
	defer stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	f := founding{n: n, granted: make(map[string]bool)}
	for {
		done, err := f.step(ctx)
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changes:
		case <-tick.C:
		}
	}
}

// founding is a node's way from an empty data directory to membership.
type founding struct {
	n *Node
	// granted are the other nodes that have promised this one.
	granted map[string]bool
	// refusedSince is when a member first refused this node; zero: none did.
	refusedSince time.Time
	repeat       repeat
}

// step does what is right by what is known now, and tells whether this node is a
// member.
func (f *founding) step(ctx context.Context) (done bool, err error) {
	n := f.n
	s := peerrpc.Situation{
		Self:  peerrpc.Candidate{ServerID: n.trust.serverID, Expect: n.cfg.Cluster.BootstrapExpect},
		Given: n.promises.Given(), Granted: f.granted,
	}
	addrs := make(map[string]string)
	for _, m := range n.members.Members() {
		if m.Alive && m.ServerID != n.trust.serverID && m.ServerID != "" {
			s.Others = append(s.Others, peerrpc.Seen{ServerID: m.ServerID, ClusterID: m.ClusterID, Expect: m.Expect, NodeAddr: m.NodeAddr})
			addrs[m.ServerID] = m.NodeAddr
		}
	}
	step := peerrpc.Decide(s)
	switch step.Action {
	case peerrpc.ActionWait:
		f.waitFor(step.Why)
	case peerrpc.ActionAsk:
		if err := f.ask(ctx, s.Self, step.Servers, addrs); err != nil || len(s.Others) > 0 {
			return false, err
		}
		return f.step(ctx) // alone: there is nothing to wait for
	case peerrpc.ActionFound:
		return true, n.foundCluster(ctx, step.Why)
	case peerrpc.ActionJoin:
		return f.enrol(ctx, step.Servers, addrs)
	}
	return false, nil
}

func (f *founding) waitFor(why string) {
	f.n.waits.Store(&why)
	if f.repeat.due(why) {
		f.n.log.Info("waiting to found or join a cluster", "for", why)
	}
}

// ask collects promises. This node's own comes first: whoever asks others has
// promised nobody else.
func (f *founding) ask(ctx context.Context, self peerrpc.Candidate, servers []string, addrs map[string]string) error {
	var missing []string
	for _, id := range servers {
		if id == self.ServerID {
			err := f.n.promises.Promise(ctx, self)
			if no, refused := errors.AsType[*fleet.Refusal](err); refused {
				f.waitFor(no.Error()) // a cluster was heard of just now: the next step joins it
				return nil
			}
			if err != nil {
				return fmt.Errorf("promise to found the cluster: %w", err)
			}
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, askWithin)
		err := f.n.port.AskPromise(ctx, addrs[id], id, self)
		cancel()
		if err != nil {
			missing = append(missing, err.Error())
			continue
		}
		f.granted[id] = true
		f.n.log.Info("a new node lets this one found the cluster", "server", id)
	}
	if len(missing) > 0 {
		f.waitFor("promises: " + strings.Join(missing, "; "))
	}
	return nil
}

// foundCluster makes the cluster's ID and CA and starts Raft with this node alone.
func (n *Node) foundCluster(ctx context.Context, why string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, foundWithin,
		fmt.Errorf("the state was not ready within %s: the log above says what it waited for", foundWithin))
	defer cancel()
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails, see its documentation
	clusterID := hex.EncodeToString(random[:])
	ca, err := n.trust.newAuthority(clusterID)
	if err != nil {
		return err
	}
	if err := n.store.Bootstrap(ctx, clusterID, ca); err != nil {
		return fmt.Errorf("found the cluster: %w", err)
	}
	// A start before this one may have come this far: what is replicated counts.
	clusterID = n.store.Status().ClusterID
	if ca, ok := n.store.Meta(raftstore.MetaCA); !ok {
		return errors.New("found the cluster: its CA was not stored")
	} else if err := n.trust.open(clusterID, ca); err != nil {
		return err
	}
	n.log.Info("cluster founded", "cluster", clusterID, "why", why)
	return nil
}

// enrol gets this node's certificate from any member.
func (f *founding) enrol(ctx context.Context, members []string, addrs map[string]string) (done bool, err error) {
	n := f.n
	for _, id := range members {
		ctx, cancel := context.WithTimeout(ctx, askWithin)
		m, err := n.port.Enrol(ctx, addrs[id])
		cancel()
		if err == nil {
			n.trust.member.Store(m)
			n.log.Info("enrolled in the cluster, its leader will add this node", "cluster", m.ClusterID, "by", id)
			return true, nil
		}
		f.waitFor(fmt.Sprintf("a certificate of the cluster that exists: %v", err))
		if _, refused := errors.AsType[*fleet.Refusal](err); !refused {
			continue
		}
		if f.refusedSince.IsZero() {
			f.refusedSince = time.Now()
		}
		if time.Since(f.refusedSince) >= nameWait {
			return false, fmt.Errorf("%s refuses this node: %w", id, err)
		}
		return false, nil
	}
	return false, nil
}

// awaitState waits until the replicated state may be read, and says what that
// takes.
func (n *Node) awaitState(ctx context.Context) error {
	var again repeat
	for {
		wait, cancel := context.WithTimeout(ctx, lookEvery)
		err := n.store.WaitReady(wait)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the state: %w", context.Cause(ctx))
		}
		why := n.whyNotCurrent()
		n.waits.Store(&why)
		if again.due(why) {
			n.log.Info("waiting for the replicated state", "for", why)
		}
	}
}

// whyNotCurrent says why the replicated state here is not known to be new.
func (n *Node) whyNotCurrent() string {
	status := n.store.Status()
	switch {
	case n.store.Removed(n.trust.serverID):
		return errRemoved(n).Error()
	case status.Leader != "" && status.Applied < status.LastIndex:
		return fmt.Sprintf("catching up with the leader %s: %d of %d entries are applied", status.Leader, status.Applied, status.LastIndex)
	case status.Leader != "":
		return fmt.Sprintf("catching up with the leader %s", status.Leader)
	}
	return n.whyNoLeader()
}

// whyNoLeader says why nobody leads this node.
func (n *Node) whyNoLeader() string {
	servers, err := n.store.Servers()
	if err != nil || len(servers) == 0 {
		return n.whyNotAdded()
	}
	return "a leader: " + n.quorum(servers)
}

// whyNotAdded speaks of a node that has enrolled and is in no configuration.
func (n *Node) whyNotAdded() string {
	var without []string
	for _, m := range n.members.Members() {
		if m.Alive && m.ServerID != n.trust.serverID && m.ClusterID == n.trust.clusterID() && m.Load.Leaderless && m.Load.Applied > 0 {
			without = append(without, m.NodeID)
		}
	}
	if len(without) == 0 {
		return "the cluster's leader to add this node"
	}
	return fmt.Sprintf("the cluster's leader to add this node, but the members with data (%s) hear no leader: quorum is lost; start the missing members with their data; %s",
		strings.Join(without, ", "), howToRecover)
}

// howToRecover ends every text about a lost quorum.
const howToRecover = "if that is lost for good, stop one of those that are left, the one whose log goes furthest (each says how far), and start it once with --recover --yes"

// quorum says how many voters are up, and what to do when these are too few.
func (n *Node) quorum(servers []fleet.Server) string {
	up := map[string]bool{n.trust.serverID: true}
	for _, m := range n.members.Members() {
		if m.Alive {
			up[m.ServerID] = true
		}
	}
	voters, present := 0, 0
	var missing []string
	for _, s := range servers {
		if !s.Voter {
			continue
		}
		voters++
		if up[s.ID] {
			present++
		} else {
			missing = append(missing, s.ID)
		}
	}
	text := fmt.Sprintf("%d of %d voters are up", present, voters)
	if len(missing) > 0 {
		slices.Sort(missing)
		text += ", missing: " + strings.Join(missing, ", ")
	}
	if 2*present > voters {
		return text
	}
	index, term := n.store.LogEnd()
	return fmt.Sprintf("%s: quorum is lost; this node's log goes to index %d of term %d; start the missing nodes with their data; %s", text, index, term, howToRecover)
}

func errRemoved(n *Node) error {
	return fmt.Errorf("%s was removed from the cluster for good: to use the machine again, move its data directory %s away and start it as a new node",
		n.trust.serverID, n.cfg.DataDir)
}

// repeat tells when a line of the log is worth being said: when it is new, unless
// there was much news lately, and from time to time, more and more seldom.
type repeat struct {
	text  string
	at    time.Time
	pause time.Duration
	// news is how many new texts may be said, as of counted.
	news    float64
	counted time.Time
}

func (r *repeat) due(text string) bool {
	now := time.Now()
	switch {
	case text != r.text:
		r.news = min(newsAtOnce, r.news+float64(now.Sub(r.counted))/float64(newsEvery))
		r.counted = now
		if r.news < 1 {
			return false
		}
		r.news--
		r.pause = sayEvery
	case now.Sub(r.at) < r.pause:
		return false
	default:
		r.pause = min(2*r.pause, sayAtLeast)
	}
	r.text, r.at = text, now
	return true
}
