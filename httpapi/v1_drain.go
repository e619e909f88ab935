// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"muster/fleet"
	"muster/internal/apiv1"
)

// Drains keeps the marks of the nodes that should be empty, by server ID, in the
// replicated state. A node reads its own mark and sends its agents away.
type Drains interface {
	// SetDraining sets or takes away a mark, through whichever node leads, and
	// returns when this node shows it. One that is so already is no error.
	SetDraining(ctx context.Context, serverID string, draining bool) error
	// Draining must not block.
	Draining(serverID string) bool
}

func (a *API) v1DrainRoutes() []Route {
	return []Route{
		{
			Method: http.MethodPost, Path: "/v1/nodes/:id/drain", Access: permit(fleet.PermAdmin), handle: a.v1Drain,
			Summary: "Empty a node before maintenance, by its name or server ID: it takes no agents any more and sends away those that it has. Repeating it changes nothing. " +
				"safe_to_stop of the answer, and of GET /v1/nodes/:id later, says when it may be stopped. The mark stays until undrain; a dead node obeys it when it comes back. " +
				"While no other node can take agents, only with ?force=true.",
			Query: struct {
				pathID
				apiv1.DrainQuery
			}{}, Response: apiv1.Node{},
		},
		{
			Method: http.MethodPost, Path: "/v1/nodes/:id/undrain", Access: permit(fleet.PermAdmin), handle: a.v1Undrain,
			Summary: "Let a node take agents again, by its name or server ID. Repeating it changes nothing.",
			Query:   pathID{}, Response: apiv1.Node{},
		},
	}
}

func (a *API) v1Drain(w http.ResponseWriter, r *http.Request, c *call) error {
	force, err := forced(r)
	if err != nil {
		return err
	}
	return a.setDraining(w, r, c, true, force)
}

func (a *API) v1Undrain(w http.ResponseWriter, r *http.Request, c *call) error {
	for name := range r.URL.Query() {
		return fleet.Invalid(clip(name), "is not a parameter of this route, which has none")
	}
	return a.setDraining(w, r, c, false, false)
}

func (a *API) setDraining(w http.ResponseWriter, r *http.Request, c *call, draining, force bool) error {
	if a.opts.Drains == nil {
		return fmt.Errorf("mark a node: this one keeps no marks: %w", fleet.ErrUnavailable)
	}
	views, err := a.nodeViews()
	if err != nil {
		return err
	}
	target, err := findNode(views, c.param("id"))
	if err != nil {
		return err
	}
	if target.server.ID == "" {
		return fleet.Refuse(fleet.CodeConflict, "node %s is not a member of this cluster: it cannot be drained; to be rid of it, stop it", target.name())
	}
	id := target.server.ID
	if draining && !force {
		if err := mayDrain(views, target, a.opts.Now()); err != nil {
			return err
		}
	}
	if err := a.opts.Drains.SetDraining(r.Context(), id, draining); err != nil {
		a.log.Warn("a node's drain mark was not changed", "node", target.name(), "server", id, "draining", draining, "by", c.caller.name(), "error", err)
		return err
	}
	a.log.Info("a node's drain mark was set on request", "node", target.name(), "server", id, "draining", draining, "by", c.caller.name(), "from", sourceKey(r), "forced", force)
	if views, err = a.nodeViews(); err != nil {
		return err
	}
	return a.respondNode(w, r, views, id)
}

// draining tells whether the node is marked, or empties itself for another reason:
// a moment after the mark was taken away, or because it stops.
func (v *nodeView) draining() bool { return v.marked || v.alive && v.member.Load.Draining }

// standing is fleet's word for what the node is to agents, also before it has
// reported that it drains.
func (v *nodeView) standing(now time.Time) string {
	m := v.member
	m.Alive = v.alive
	m.Load.Draining = m.Load.Draining || v.marked
	return m.Standing(now)
}

// room is how many agents the node can take.
func (v *nodeView) room(now time.Time) uint64 {
	switch v.standing(now) {
	case fleet.StandingHealthy, fleet.StandingDegraded:
		return uint64(v.member.Load.Limit - v.member.Load.Sessions)
	}
	return 0
}

// outlook is what all nodes together have, of which one is to go.
type outlook struct {
	now    time.Time
	room   uint64
	voters voters
}

func outlookOf(views []nodeView, now time.Time) outlook {
	o := outlook{now: now, voters: countVoters(views, "")}
	for i := range views {
		o.room += views[i].room(now)
	}
	return o
}

// beside is the room on the other nodes.
func (o outlook) beside(v *nodeView) uint64 { return o.room - v.room(o.now) }

// mayDrain refuses what would leave the agents nowhere to go. A node that takes
// none now may be marked at any time.
func mayDrain(views []nodeView, target *nodeView, now time.Time) error {
	if !target.alive || target.draining() || outlookOf(views, now).beside(target) > 0 {
		return nil
	}
	var others []string
	for i := range views {
		if other := &views[i]; other.key() != target.key() {
			word := other.standing(now)
			if !other.alive {
				word = "dead"
			}
			others = append(others, other.name()+" is "+word)
		}
	}
	return fleet.Refuse(fleet.CodeConflict, "no other node can take agents (%s): node %s would keep its %d. See to the others first, or repeat with ?force=true (muster node drain --force)",
		cmp.Or(strings.Join(others, ", "), "there is none"), target.name(), target.member.Load.Sessions)
}

// whyNotStop is the one judgement of whether a node may be stopped: what speaks
// against it, by what this node knows. It is never nil.
func (o outlook) whyNotStop(v *nodeView) []string {
	reasons := []string{}
	if !v.alive {
		return []string{"it is dead for all that this node hears: nobody knows what it holds"}
	}
	l := v.member.Load
	switch {
	case !v.draining():
		reasons = append(reasons, "it is not draining: agents may be sent to it")
	case !l.Draining:
		reasons = append(reasons, "it has not said yet that it drains")
	}
	if left := o.beside(v); l.Sessions > 0 && left < uint64(l.Sessions) {
		reasons = append(reasons, fmt.Sprintf("it holds %d agents, and the other nodes have room for %d", l.Sessions, left))
	} else if l.Sessions > 0 {
		reasons = append(reasons, fmt.Sprintf("it holds %d agents", l.Sessions))
	}
	if l.KafkaBacklog > 0 {
		reasons = append(reasons, fmt.Sprintf("it holds %d records that are not in Kafka yet: while it is stopped they stay on its disk", l.KafkaBacklog))
	}
	count, without := o.voters, o.voters
	if v.server.Voter {
		without.alive-- // v is alive
	}
	switch {
	case without.alive >= count.quorum():
	case count.all == 1 && v.server.Voter:
		reasons = append(reasons, "it is the only voter: while it is stopped nothing can be changed")
	default:
		reasons = append(reasons, fmt.Sprintf("without it %d of %d voters are alive, and %d must be: nothing could be changed", without.alive, count.all, count.quorum()))
	}
	return reasons
}
