// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"muster/fleet"
)

// balanceEvery is how often a node looks whether other ones should have some of
// its agents; fleet.Balancer counts in seconds.
const balanceEvery = time.Second

// shedding is how this node gives agents away.
type shedding struct {
	drained atomic.Bool // an operator wants this node empty
	last    atomic.Pointer[fleet.Step]
}

// step is what was last decided.
func (s *shedding) step() fleet.Step {
	if step := s.last.Load(); step != nil {
		return *step
	}
	return fleet.Step{}
}

// balance sends those agents away that other nodes should have.
func (n *Node) balance(ctx context.Context) error {
	tick := time.NewTicker(balanceEvery)
	defer tick.Stop()
	balancer := fleet.Balancer{Rate: n.cfg.Agents.ShedRate}
	story := balanceStory{log: n.log}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		n.shedding.drained.Store(n.Draining(n.trust.serverID))
		step := balancer.Step(time.Now(), n.members.Members(), n.cfg.NodeID, n.agents.StreamCount())
		n.shedding.last.Store(&step)
		n.agents.RefuseNew(step.RefuseNew)
		shed := 0
		if step.Shed > 0 {
			shed = n.agents.Shed(step.Shed)
			balancer.Sent(shed)
		}
		story.tell(step, n.shedding.drained.Load(), shed, n.agents.SessionCount())
	}
}

// balanceStory writes a line when something begins or ends.
type balanceStory struct {
	log      *slog.Logger
	drained  bool
	empty    bool
	shedding bool
	waits    string
	shed     int
}

func (s *balanceStory) tell(step fleet.Step, drained bool, shed, left int) {
	if drained != s.drained {
		s.drained, s.empty = drained, false
		if drained {
			s.log.Info("draining: this node gives all its agents away and takes no more", "agents", left)
		} else {
			s.log.Info("no more draining: this node takes agents again", "agents", left)
		}
	}
	if step.Shedding && !s.shedding && !drained {
		s.log.Info("agents are sent to less loaded nodes", "agents", left+shed, "share", math.Round(step.Share))
	}
	s.shed += shed
	if !step.Shedding && s.shedding {
		s.log.Info("no more agents are sent away", "sent", s.shed, "left", left, "share", math.Round(step.Share))
		s.shed = 0
	}
	s.shedding = step.Shedding
	if drained && left == 0 && !s.empty {
		s.log.Info("drained: this node has no agents any more")
	}
	s.empty = left == 0
	if step.Waits != s.waits {
		if s.waits = step.Waits; s.waits != "" {
			s.log.Warn("agents should be sent to other nodes, but are not", "why", s.waits, "left", left)
		}
	}
}

// drainKey is where the replicated state marks a server that is to be emptied. A
// server's ID may be longer than a key.
func drainKey(serverID string) string {
	sum := sha256.Sum256([]byte(serverID))
	return "drain." + hex.EncodeToString(sum[:16])
}

// drainMark is the mark's value; any other one means that it was taken away.
const drainMark = "1"

// Draining tells whether an operator wants a node empty, as far as this one knows.
func (n *Node) Draining(serverID string) bool {
	mark, _ := n.store.Meta(drainKey(serverID))
	return string(mark) == drainMark
}

// SetDraining marks a node to be emptied, or takes the mark away. It is kept over
// restarts, of that node too.
func (n *Node) SetDraining(ctx context.Context, serverID string, draining bool) error {
	mark := ""
	if draining {
		mark = drainMark
	}
	return n.store.PutMeta(ctx, drainKey(serverID), []byte(mark))
}
