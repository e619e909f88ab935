// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"muster/fleet"
	"muster/internal/rarelog"
)

const (
	// claimGather is how long a claim waits for others to share its call.
	claimGather = 50 * time.Millisecond
	// maxClaims bounds one call.
	maxClaims = 1000
	// claimTimeout bounds the first call to a node; while a node does not answer
	// the bound doubles up to maxClaimTimeout, so that a slow one can.
	claimTimeout    = time.Second
	maxClaimTimeout = 8 * time.Second
	// claimRetry is the wait after a call that was not answered.
	claimRetry = 250 * time.Millisecond
	// claimTick is how often the list of nodes is read and contests are judged.
	claimTick = 100 * time.Millisecond
	// contestWait is how long a refused session may take to deliver a message.
	// With gather, call and tick it stays below 2 s.
	contestWait = time.Second
)

// Claims reaches the other nodes of the cluster.
type Claims interface {
	// Nodes returns the server IDs of the other live nodes, never this node's
	// own. It must not block.
	Nodes() []string
	// Claim tells a node which sessions this node holds; its Server.HandleClaims
	// answers with its own claims for the agents that have a newer session there.
	// It returns soon after ctx has ended. After an error the claims are sent again,
	// whether they were heard or not.
	Claim(ctx context.Context, serverID string, claims []fleet.Claim) (refused []fleet.Claim, err error)
}

// claim is what a session has to do with other nodes.
type claim struct {
	// epoch is written under the registry's lock.
	epoch atomic.Uint64
	// raised is set when the session has taken a higher epoch after a refusal;
	// guarded by claims.mu.
	raised bool
	// lost is set when the agent has its newer session on another node.
	lost atomic.Bool
}

// claims tells every other live node of every session here, until it has
// answered. A node that appears hears of all sessions. The pending claims of a
// node are a set of sessions, which say their present epoch when it is their
// turn: so nothing piles up, and what has ended is not sent.
type claims struct {
	server *Server
	peers  Claims
	moves  *moves
	// cloneLogs is apart, so that nothing else silences it.
	cloneLogs *rarelog.Logger

	mu        sync.Mutex // taken before the registry's, never after
	nodes     map[string]*claimNode
	contested map[*session]contest
}

// claimNode is another node. The goroutine that makes its calls ends when it is
// gone, and takes it out.
type claimNode struct {
	id      string
	pending map[*session]struct{} // guarded by claims.mu
	flying  int                   // claims in the call that is under way; guarded by claims.mu
	wake    chan struct{}         // of one
	cancel  context.CancelFunc
}

// asked is one claim on its way, with what its session had delivered before.
type asked struct {
	sess            *session
	epoch, messages uint64
}

func newClaims(s *Server) *claims {
	return &claims{
		server: s, peers: s.opts.Peers, moves: newMoves(s.opts.Limit), cloneLogs: rarelog.New(s.opts.Logger, logEvery),
		nodes: make(map[string]*claimNode), contested: make(map[*session]contest),
	}
}

// run follows the nodes until ctx ends, and waits for the calls that are under way.
func (c *claims) run(ctx context.Context) error {
	var calls sync.WaitGroup
	defer calls.Wait()
	tick := time.NewTicker(claimTick)
	defer tick.Stop()
	for {
		c.follow(ctx, &calls)
		c.settle()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow takes in the nodes that are new and lets go of those that are gone.
func (c *claims) follow(ctx context.Context, calls *sync.WaitGroup) {
	live := make(map[string]bool)
	for _, id := range c.peers.Nodes() {
		live[id] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, n := range c.nodes {
		if !live[id] {
			n.cancel()
		}
		delete(live, id)
	}
	for id := range live {
		n := &claimNode{id: id, pending: make(map[*session]struct{}), wake: make(chan struct{}, 1)}
		for _, sess := range c.server.registry.all() {
			n.pending[sess] = struct{}{}
		}
		n.wake <- struct{}{}
		var nodeCtx context.Context
		nodeCtx, n.cancel = context.WithCancel(ctx)
		c.nodes[id] = n
		calls.Go(func() { c.tell(nodeCtx, n) })
	}
}

// joined makes the claim of a session: every node is to hear its present epoch.
func (c *claims) joined(sess *session) {
	if sess.previous == nil && c.moves.gained(sess.id) {
		c.warnOfClone(sess)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.claim(sess)
}

// claim needs c.mu.
func (c *claims) claim(sess *session) {
	for _, n := range c.nodes {
		n.pending[sess] = struct{}{}
		select {
		case n.wake <- struct{}{}:
		default:
		}
	}
}

// drop forgets the claims of a session that has ended; without it they would
// wait for the end of a call that hangs.
func (c *claims) drop(sess *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		delete(n.pending, sess)
	}
}

// waiting counts the claims that are yet to be answered.
func (c *claims) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := 0
	for _, n := range c.nodes {
		count += len(n.pending) + n.flying
	}
	return count
}

// tell sends a node its pending claims, one call at a time, while it is there.
func (c *claims) tell(ctx context.Context, n *claimNode) {
	defer func() {
		n.cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.nodes, n.id)
	}()
	timeout := claimTimeout
	for {
		select {
		case <-n.wake:
		case <-ctx.Done():
			return
		}
		for wait := claimGather; pause(ctx, wait); {
			batch := c.take(n)
			if len(batch) == 0 {
				break
			}
			if c.call(ctx, n, batch, timeout) {
				wait, timeout = claimGather, claimTimeout
				if len(batch) == maxClaims {
					wait = 0 // there is enough for another one
				}
				continue
			}
			if timeout == 2*claimTimeout && ctx.Err() == nil { // the second time, once until it answers
				c.server.logs.Warn("a node does not answer claims of sessions: they are sent again", "server_id", n.id)
			}
			wait, timeout = claimRetry, min(2*timeout, maxClaimTimeout)
		}
	}
}

// take removes claims from those that are pending; call puts them back unless
// they are answered.
func (c *claims) take(n *claimNode) []asked {
	c.mu.Lock()
	defer c.mu.Unlock()
	batch := make([]asked, 0, min(len(n.pending), maxClaims))
	for sess := range n.pending {
		if len(batch) == maxClaims {
			break
		}
		delete(n.pending, sess)
		if !sess.isEnded() {
			batch = append(batch, asked{sess: sess, epoch: sess.claim.epoch.Load(), messages: sess.received.messages.Load()})
		}
	}
	if len(n.pending) == 0 {
		n.pending = make(map[*session]struct{}) // one that was large stays slow
	}
	n.flying = len(batch)
	return batch
}

// call makes one call; false means that it was not answered.
func (c *claims) call(ctx context.Context, n *claimNode, batch []asked, timeout time.Duration) bool {
	list := make([]fleet.Claim, len(batch))
	for i, a := range batch {
		list[i] = fleet.Claim{AgentID: a.sess.id, Epoch: a.epoch}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	refused, err := c.peers.Claim(ctx, n.id, list)
	cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	n.flying = 0
	if err != nil {
		c.server.metrics.claims.WithLabelValues("unanswered").Add(float64(len(batch)))
		for _, a := range batch {
			n.pending[a.sess] = struct{}{} // take skips it if it has ended
		}
		return false
	}
	contested := 0
	if len(refused) > 0 {
		contested = c.contest(batch, refused)
	}
	c.server.metrics.claims.WithLabelValues("refused").Add(float64(contested))
	c.server.metrics.claims.WithLabelValues("accepted").Add(float64(len(batch) - contested))
	return true
}

// contest notes which claims were refused. It needs c.mu.
func (c *claims) contest(batch []asked, refused []fleet.Claim) (count int) {
	held := make(map[string]uint64, len(refused))
	for _, r := range refused {
		c.server.registry.clock.observe(r.Epoch)
		held[r.AgentID] = max(r.Epoch, held[r.AgentID])
	}
	for _, a := range batch {
		epoch, isRefused := held[a.sess.id]
		if !isRefused {
			continue
		}
		count++
		if a.sess.isEnded() || epoch < a.sess.claim.epoch.Load() {
			continue // the claim was raised since, which that node is yet to hear
		}
		before, again := c.contested[a.sess]
		if !again {
			before = contest{messages: a.messages, until: time.Now().Add(contestWait)}
		}
		before.held = max(before.held, epoch)
		c.contested[a.sess] = before
	}
	return count
}

// settle judges the sessions whose claims were refused.
func (c *claims) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for sess, con := range c.contested {
		switch judge(con, outlook{
			delivered: sess.received.messages.Load() > con.messages,
			raised:    sess.claim.raised,
			cloned:    c.moves.cloned(sess.id),
			late:      !time.Now().Before(con.until),
		}) {
		case contestWaits:
			continue
		case contestRaises:
			sess.claim.raised = true
			c.server.registry.clock.observe(con.held + 1)
			if c.server.registry.raise(sess, con.held+1) {
				c.claim(sess)
			}
		case contestEnds:
			if c.server.registry.remove(sess) {
				c.server.lose(sess, "outclaimed")
			}
		}
		delete(c.contested, sess)
	}
}

// HandleClaims judges the claims of another node: a session here that is older
// than the claim is ended, and a newer one is answered with its own claim.
// Whatever was heard, the epochs of sessions to come are above it. It does not
// block, and may be called with the same claims again.
func (s *Server) HandleClaims(claims []fleet.Claim) (refused []fleet.Claim) {
	if len(claims) == 0 {
		return nil
	}
	var newest uint64
	for _, c := range claims {
		newest = max(newest, c.Epoch)
	}
	// First the clock: a session that joins from now on is newer than the claims.
	s.registry.clock.observe(newest)
	lost, refused := s.registry.yield(claims)
	for _, sess := range lost {
		s.lose(sess, "moved")
		if s.parts.claims.moves.lost(sess.id) {
			s.parts.claims.warnOfClone(sess)
		}
	}
	s.parts.inventory.overtaken(claims)
	s.metrics.heard.WithLabelValues("yielded").Add(float64(len(lost)))
	s.metrics.heard.WithLabelValues("refused").Add(float64(len(refused)))
	s.metrics.heard.WithLabelValues("no_session").Add(float64(len(claims) - len(lost) - len(refused)))
	return refused
}

// lose ends a session that was taken out because the agent has a newer one on
// another node. That node reports the agent from now on.
func (s *Server) lose(sess *session, cause string) {
	sess.claim.lost.Store(true)
	if sess.end(status.Error(codes.Aborted, "the agent has a newer stream on another node")) {
		s.metrics.closed.WithLabelValues(cause).Inc()
	}
}
