// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"muster/fleet"
	"muster/internal/apiv1"
)

// voters counts those of the cluster.
type voters struct{ all, alive int }

// quorum is how many of them must be alive for a write.
func (v voters) quorum() int { return v.all/2 + 1 }

// countVoters counts them as they are without the server of that ID.
func countVoters(views []nodeView, without string) voters {
	var count voters
	for _, v := range views {
		if !v.server.Voter || v.server.ID == without {
			continue
		}
		count.all++
		if v.alive {
			count.alive++
		}
	}
	return count
}

func (a *API) v1RemoveNode(w http.ResponseWriter, r *http.Request, c *call) error {
	force, err := forced(r)
	if err != nil {
		return err
	}
	if a.opts.Cluster == nil {
		return fleet.Refuse(fleet.CodeConflict, "this node is alone: there is no cluster to remove a node from")
	}
	views, err := a.nodeViews()
	if err != nil {
		return err
	}
	target, err := memberToRemove(views, c.param("id"))
	if err != nil {
		return err
	}
	id := c.param("id") // of one that is gone, or that only the leader knows
	if target != nil {
		id = target.server.ID
		a.checkAlive(r.Context(), target)
		if err := mayRemove(views, target, force); err != nil {
			return err
		}
	}
	err = a.opts.Cluster.Remove(r.Context(), id)
	if target != nil && target.self && errors.Is(err, fleet.ErrNotVisible) {
		err = nil // who was removed is told nothing any more
	}
	if err != nil {
		a.log.Warn("a node was not removed", "node", id, "by", c.caller.name(), "error", err)
		return err
	}
	a.log.Info("a node was removed on request", "node", id, "by", c.caller.name(), "from", sourceKey(r), "forced", force)
	return respond(w, http.StatusOK, removedNode(views, target, id))
}

// checkAlive asks a node that seems dead, so that none is taken for dead because
// its reports are late.
func (a *API) checkAlive(ctx context.Context, v *nodeView) {
	if v.alive || a.opts.NodeState == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, nodeWait)
	defer cancel()
	_, err := a.opts.NodeState(ctx, v.id())
	v.alive = err == nil
}

func forced(r *http.Request) (bool, error) {
	query := r.URL.Query()
	for name := range query {
		if name != "force" {
			return false, fleet.Invalid(clip(name), "is not a parameter of this route; it knows force")
		}
	}
	switch text := query.Get("force"); text {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, fleet.Invalid("force", "%q is neither true nor false", clip(text))
	}
}

// memberToRemove finds the member that is meant; nil if there is none, and an
// error if there are several, or if it is one that was never taken in.
func memberToRemove(views []nodeView, nameOrID string) (*nodeView, error) {
	var named []*nodeView
	var ids []string
	outside := false
	for i := range views {
		v := &views[i]
		switch {
		case v.server.ID == "":
			outside = outside || v.alive && (v.id() == nameOrID || v.name() == nameOrID)
		case v.server.ID == nameOrID:
			return v, nil
		case v.name() == nameOrID:
			named, ids = append(named, v), append(ids, v.server.ID)
		}
	}
	switch {
	case len(named) == 1:
		return named[0], nil
	case len(named) > 1:
		return nil, fleet.Refuse(fleet.CodeConflict, "%d members are called %q: say which by its server ID, one of %s", len(named), clip(nameOrID), strings.Join(ids, ", "))
	case outside:
		return nil, fleet.Refuse(fleet.CodeConflict, "node %s is not a member of this cluster: there is nothing to remove; to be rid of it, stop it", clip(nameOrID))
	}
	return nil, nil
}

// mayRemove refuses what would stop the cluster, and what is alive unless it is
// forced. Removing is itself a write, which the voters that stay must agree on.
func mayRemove(views []nodeView, target *nodeView, force bool) error {
	now, then := countVoters(views, ""), countVoters(views, target.server.ID)
	switch {
	case target.server.Voter && then.all == 0:
		return fleet.Refuse(fleet.CodeConflict, "node %s is the only voter of this cluster: it cannot be removed", target.name())
	case now.alive < now.quorum():
		return fmt.Errorf("remove a node: %w", &special{
			outcome: outcome{fleet.ErrUnavailable, 503, "unavailable", 503, elkeidUnavailable, ""},
			detail: fmt.Sprintf("%d of %d voters are alive, %d must be: nothing can be changed, and no node removed. Start the others with their data; "+
				"if that is lost for good, stop the node of those that are left whose log goes furthest (/readyz of each says how far), and start it once with --recover --yes", now.alive, now.all, now.quorum()),
		})
	case target.server.Voter && then.alive < then.quorum():
		return fleet.Refuse(fleet.CodeConflict, "without node %s %d of %d voters would be alive, and %d must be: the cluster would stop. Start the dead ones, or remove them first",
			target.name(), then.alive, then.all, then.quorum())
	case target.alive && !force:
		return fleet.Refuse(fleet.CodeConflict, "node %s is alive and holds the streams of %d agents, which would go to other nodes; all nodes would refuse it for good. Stop it first, or repeat with ?force=true (muster node remove --force)",
			target.name(), target.member.Load.Sessions)
	}
	return nil
}

// removedNode says what is left to do.
func removedNode(views []nodeView, target *nodeView, id string) apiv1.RemovedNode {
	if target == nil {
		return apiv1.RemovedNode{Node: id, Voters: countVoters(views, "").all, Next: "It was removed before. Its data directory cannot join again: delete it before muster runs there again."}
	}
	left := countVoters(views, target.server.ID)
	next := "If its machine comes back, delete its data directory before muster runs there again: the cluster refuses it."
	if target.alive {
		next = "Muster ends there by itself now and does not start again; its agents go to the others. To take the machine in again, delete its data directory first."
	}
	if left.all < 3 {
		next += fmt.Sprintf(" The cluster has %d voters now and bears the loss of none: add a node.", left.all)
	}
	return apiv1.RemovedNode{Node: target.name(), ServerID: target.server.ID, Voters: left.all, Next: next}
}
