// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"cmp"
	"net/http"
	"slices"
	"sync"
	"time"

	"muster/fleet"
	"muster/internal/apiv1"
)

// boardAge is how old the list may be that streams share.
const boardAge = streamPoll / 2

// nodeBoard is the list of all nodes, as the streams show it: by name and server
// ID, without asking any node. It is made when a stream looks, for all of them.
type nodeBoard struct {
	mu    sync.Mutex
	at    time.Time
	nodes []apiv1.Node // never changed
}

func (a *API) boardNodes() ([]apiv1.Node, error) {
	b := &a.streams.board
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.nodes != nil && time.Since(b.at) < boardAge {
		return b.nodes, nil
	}
	views, err := a.nodeViews()
	if err != nil {
		return nil, err
	}
	b.at, b.nodes = time.Now(), convert(views, a.nodeShower(views))
	return b.nodes, nil
}

// v1WatchNodes is GET /v1/nodes as a stream.
func (a *API) v1WatchNodes(w http.ResponseWriter, r *http.Request, c *call) error {
	for name := range r.URL.Query() {
		return fleet.Invalid(clip(name), "does not go with %s, which shows all nodes", eventType)
	}
	shown, err := a.boardNodes()
	if err != nil {
		return err
	}
	s := &eventStream{}
	if err := s.event("nodes", apiv1.Page[apiv1.Node]{Items: shown}); err != nil {
		return err
	}
	return a.serveEvents(w, r, c, s, func(s *eventStream) error {
		nodes, err := a.boardNodes()
		if err != nil {
			return err
		}
		for _, change := range nodeChanges(shown, nodes) {
			if err := s.event("node", change); err != nil {
				return err
			}
		}
		shown = nodes
		return nil
	})
}

// nodeChanges compares two boards.
func nodeChanges(before, after []apiv1.Node) (changes []apiv1.NodeChange) {
	for len(before) > 0 || len(after) > 0 {
		order := len(before) - len(after) // one of them is empty
		if len(before) > 0 && len(after) > 0 {
			order = cmp.Compare(boardKey(&before[0]), boardKey(&after[0]))
		}
		switch {
		case len(after) == 0 || len(before) > 0 && order < 0:
			changes = append(changes, apiv1.NodeChange{Change: "left", Node: before[0]})
			before = before[1:]
		case len(before) == 0 || order > 0:
			changes = append(changes, apiv1.NodeChange{Change: "joined", Node: after[0]})
			after = after[1:]
		default:
			if change := nodeChange(&before[0], &after[0]); change != "" {
				changes = append(changes, apiv1.NodeChange{Change: change, Node: after[0]})
			}
			before, after = before[1:], after[1:]
		}
	}
	return changes
}

// boardKey is nodeView.key.
func boardKey(n *apiv1.Node) string { return n.Name + "~" + n.ServerID }

// nodeChange names what changed about a node, or nothing. How far it is in the
// log and when it reported is no change.
func nodeChange(before, after *apiv1.Node) string {
	dead := after.State == "dead"
	switch x, y := before, after; {
	case dead && before.State != "dead":
		return "dead"
	case x.State != y.State, x.Draining != y.Draining, x.Role != y.Role, x.Kafka != y.Kafka, x.Self != y.Self,
		x.Version != y.Version, x.Format != y.Format, x.Zone != y.Zone, x.Addresses != y.Addresses, !x.StartedAt.Equal(y.StartedAt):
		return "state"
	case !dead && !slices.Equal(x.Degraded, y.Degraded), !dead && x.SafeToStop != y.SafeToStop: // of a dead one they say for how long
		return "state"
	}
	x, y := before.Load, after.Load
	x.Applied, y.Applied = 0, 0
	if x != y || before.FairShare != after.FairShare {
		return "load"
	}
	return ""
}
