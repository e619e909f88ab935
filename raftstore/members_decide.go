// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"slices"

	"muster/fleet"
)

// metaRemoved is the key in bucketMeta of the list of removedNode.
const metaRemoved = "removed"

// maxRemoved bounds the list; the oldest are forgotten.
const maxRemoved = 1000

// removedNode is a server that must not come back. Its ID is never used again.
type removedNode struct {
	ServerID string `json:"server_id"`
	At       int64  `json:"at"`
}

func loadRemoved(r reader) []removedNode {
	list, _ := load[[]removedNode](r, bucketMeta, metaRemoved)
	return list
}

func hasRemoved(list []removedNode, id string) bool {
	return slices.ContainsFunc(list, func(n removedNode) bool { return n.ServerID == id })
}

// removeNode notes that a server was removed. It is applied before raft itself
// forgets the server, so that nobody takes it back in between.
type removeNode struct {
	ServerID string `json:"server_id"`
}

func (*removeNode) kind() string { return "node.remove" }

func (n *removeNode) decide(c *change) (any, error) {
	list := loadRemoved(c)
	if hasRemoved(list, n.ServerID) {
		return nil, nil
	}
	list = append(list, removedNode{ServerID: n.ServerID, At: c.now})
	c.store(bucketMeta, metaRemoved, slices.Delete(list, 0, max(0, len(list)-maxRemoved)))
	return nil, nil
}

// raiseFormat lets all nodes go on by the rules of a higher format. The leader
// proposes it once every configured server knows them.
type raiseFormat struct {
	Format int `json:"format"`
}

func (*raiseFormat) kind() string { return "format.raise" }

func (f *raiseFormat) decide(c *change) (any, error) {
	now, ok := load[cluster](c, bucketMeta, metaCluster)
	if !ok {
		return nil, fleet.Refuse(fleet.CodeConflict, "there is no cluster yet")
	}
	if f.Format > now.Format {
		now.Format = f.Format
		c.store(bucketMeta, metaCluster, now)
	}
	return nil, nil
}
