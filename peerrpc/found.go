// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"muster/internal/pki"
)

// Seen is a live node as gossip tells of it.
type Seen struct {
	ServerID  string
	ClusterID string // "" while it has no state
	Expect    int    // its --bootstrap-expect; 0: it only joins
	NodeAddr  string
}

// Situation is what a node without a cluster knows.
type Situation struct {
	Self Candidate
	// Others are the live nodes except this one.
	Others []Seen
	// Given is whom this node has promised, see Promises.Given.
	Given string
	// Granted are the others that have promised this node, by server ID, since it
	// was started. They stay promised, so asking again is harmless.
	Granted map[string]bool
}

// Action is what a node without a cluster does next.
type Action string

// The actions.
const (
	// ActionWait means that nothing can be done before others are seen.
	ActionWait Action = "wait"
	// ActionAsk means to ask for the promises of Step.Servers; this node's own is
	// among them until it is given, and must be given before the others are asked.
	ActionAsk Action = "ask"
	// ActionFound means to make the cluster.
	ActionFound Action = "found"
	// ActionJoin means to enrol at one of Step.Servers.
	ActionJoin Action = "join"
)

// Step is a decision. Why says in words what it follows from or waits for.
type Step struct {
	Action  Action
	Servers []string
	Why     string
}

// Decide is the whole rule of how a cluster is founded, as a function of what a
// node knows: at most one node founds, because each promises once and N
// promises are more than half of the nodes that start empty.
func Decide(s Situation) Step {
	if step, ok := decideJoin(s); ok {
		return step
	}
	n := s.Self.Expect
	if n == 0 {
		return wait("this node only joins (--bootstrap-expect 0), and no member of a cluster is seen yet: check --join, the cluster secret and the firewall")
	}
	var peers []string
	lowest := s.Self.ServerID
	for _, o := range s.Others {
		switch o.Expect {
		case n:
			peers = append(peers, o.ServerID)
			if lowerID(o.ServerID, lowest) {
				lowest = o.ServerID
			}
		case 0: // joins later
		default:
			return wait("%s has --bootstrap-expect %d, this node %d: give all new nodes the same", o.ServerID, o.Expect, n)
		}
	}
	slices.SortFunc(peers, compareIDs)
	switch {
	case len(peers)+1 < n:
		return wait("%d of %d new nodes are seen: %s", len(peers)+1, n, strings.Join(append(peers, s.Self.ServerID), ", "))
	case s.Given != "" && s.Given != s.Self.ServerID && !slices.Contains(peers, s.Given):
		return wait("this node has promised %s to let it found the cluster, and does not see it: start it; if its data is lost, stop this node and remove the file of its promise", s.Given)
	case s.Given != "" && s.Given != s.Self.ServerID:
		return wait("this node has promised %s to let it found the cluster", s.Given)
	case lowest != s.Self.ServerID && s.Given == "":
		return wait("%s founds the cluster", lowest)
	case s.Given == "":
		return Step{ActionAsk, append([]string{s.Self.ServerID}, peers...), "this node has the lowest ID"}
	}
	// Once this node has promised itself, nobody lower can get its promise: it
	// goes on even if a lower one appears.
	var missing []string
	granted := 0
	for _, id := range peers {
		if s.Granted[id] {
			granted++
		} else {
			missing = append(missing, id)
		}
	}
	if granted >= n-1 {
		return Step{ActionFound, nil, fmt.Sprintf("%d of %d nodes have promised it", granted+1, n)}
	}
	return Step{ActionAsk, missing, fmt.Sprintf("%d of %d nodes have promised it", granted+1, n)}
}

// decideJoin answers when any member of a cluster is seen: then none is founded.
func decideJoin(s Situation) (Step, bool) {
	ids := map[string]string{} // cluster ID -> a member
	var members []string
	for _, o := range s.Others {
		if o.ClusterID == "" {
			continue
		}
		ids[o.ClusterID] = o.ServerID
		members = append(members, o.ServerID)
	}
	switch len(ids) {
	case 0:
		return Step{}, false
	case 1:
		slices.SortFunc(members, compareIDs)
		return Step{ActionJoin, members, "a cluster exists"}, true
	}
	var parts []string
	for id, member := range ids {
		parts = append(parts, fmt.Sprintf("%s is a member of %s", member, id))
	}
	slices.Sort(parts)
	return wait("nodes of several clusters are seen: %s: correct the --join lists", strings.Join(parts, ", ")), true
}

func wait(format string, args ...any) Step {
	return Step{ActionWait, nil, fmt.Sprintf(format, args...)}
}

// compareIDs orders by name, then by the whole server ID.
func compareIDs(a, b string) int {
	nameA, _ := pki.NodeName(a)
	nameB, _ := pki.NodeName(b)
	return cmp.Or(strings.Compare(nameA, nameB), strings.Compare(a, b))
}

func lowerID(a, b string) bool { return compareIDs(a, b) < 0 }
