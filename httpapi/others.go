// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"

	"muster/fleet"
)

// Others is how a node reaches the other nodes of its cluster. The zero value
// is that of a node that is alone.
type Others struct {
	// Cluster is the cluster as the replicated store sees it; nil: there is
	// nothing to wait for, and nobody to remove.
	Cluster Cluster
	// NodeState asks a node, this one included, how far its state is; nil: this
	// node answers for itself alone. It must return soon after ctx ends.
	NodeState func(ctx context.Context, serverID string) (fleet.NodeState, error)
	// Fleet lists the other live nodes, to ask for the agents whose streams they
	// hold; nil: there are none.
	Fleet func() []Peer
	// Drains are the marks of the nodes that should be empty; nil: there are none,
	// and none can be set.
	Drains Drains
}

// Cluster is the membership of the replicated store, and its order of reads and
// writes. Errors are refusals of fleet, a *fleet.NotVisible, or wrap
// fleet.ErrUnavailable or fleet.ErrTimeout.
type Cluster interface {
	// Servers lists the members, in the order in which they were added.
	Servers() ([]fleet.Server, error)
	// Remove removes a member for good, by its name or server ID, through
	// whichever node leads. One that was removed before is no error.
	Remove(ctx context.Context, nameOrID string) error
	// ReadIndex returns an index that covers every write that any node
	// acknowledged before the call. It waits for a leader, at most 10 s.
	ReadIndex(ctx context.Context) (uint64, error)
	// WaitApplied returns when this node has applied everything up to the index,
	// or a *fleet.NotVisible when ctx ends, or after 10 s.
	WaitApplied(ctx context.Context, index uint64) error
}
