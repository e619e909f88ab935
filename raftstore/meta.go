// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"errors"

	"muster/fleet"
)

// Keys of bucketMeta.
const (
	metaClock    = "clock"    // the log's time: the largest stamp so far, Unix seconds
	metaCounters = "counters" // see counters
	metaCluster  = "cluster"  // see cluster
	metaRequests = "requests" // how many request IDs are kept
)

// formatNow is the only replicated format so far. Raising it is a command of
// its own, once every configured server knows the higher one.
const formatNow = 1

// MetaCA is the key under which Bootstrap stores the sealed CA.
const MetaCA = "ca"

const (
	maxMetaKeyBytes = 64
	maxMetaBytes    = 64 << 10
)

// Retention of answers by request ID.
const (
	requestSeconds = 24 * 3600
	maxRequests    = 100_000
	// pruneItems bounds what one tick removes of each kind.
	pruneItems = 1000
)

// counters are the totals that would be slow to count.
type counters struct {
	// LastNumber is the highest agent number ever given.
	LastNumber uint32 `json:"last_number"`
	Agents     int    `json:"agents"`
	Tasks      int    `json:"tasks"`
}

// cluster is what founding one decided.
type cluster struct {
	ID     string `json:"id"`
	Format int    `json:"format"`
}

// keptAnswer remembers what a request was told, and when.
type keptAnswer struct {
	At     int64  `json:"at"`
	Answer answer `json:"answer"`
}

func loadCounters(r reader) counters {
	n, _ := load[counters](r, bucketMeta, metaCounters)
	return n
}

func (c *change) setCounters(n counters) { c.store(bucketMeta, metaCounters, n) }

// asRefusal tells a decision from a fault.
func asRefusal(err error) (*fleet.Refusal, error) {
	if r, ok := errors.AsType[*fleet.Refusal](err); ok {
		return r, nil
	}
	return nil, err
}

// keepAnswer remembers ans and drops the oldest answer beyond the bound.
func (c *change) keepAnswer(request string, ans answer) {
	kept, _ := load[int](c, bucketMeta, metaRequests)
	if kept >= maxRequests {
		kept -= c.dropRequests(1, func(int64) bool { return true })
	}
	c.store(bucketRequests, request, keptAnswer{At: c.now, Answer: ans})
	c.put(bucketRequestTimes, timeKey(c.now, request), nil)
	c.store(bucketMeta, metaRequests, kept+1)
}

// dropRequests removes up to limit of the oldest answers while due says so.
func (c *change) dropRequests(limit int, due func(at int64) bool) (dropped int) {
	c.scan(bucketRequestTimes, nil, func(k, _ []byte) bool {
		at, request := splitTimeKey(k)
		if dropped == limit || !due(at) {
			return false
		}
		c.remove(bucketRequestTimes, k)
		c.remove(bucketRequests, []byte(request))
		dropped++
		return true
	})
	return dropped
}

// foundCluster is the first command of a cluster.
type foundCluster struct {
	ClusterID string `json:"cluster_id"`
	CA        []byte `json:"ca"`
}

func (*foundCluster) kind() string { return "cluster.found" }

func (f *foundCluster) decide(c *change) (any, error) {
	if old, ok := load[cluster](c, bucketMeta, metaCluster); ok {
		return nil, fleet.Refuse(fleet.CodeExists, "the cluster was founded before, with ID %s", old.ID)
	}
	c.store(bucketMeta, metaCluster, cluster{ID: f.ClusterID, Format: formatNow})
	c.put(bucketOpaque, []byte(MetaCA), f.CA)
	return nil, nil
}

// putMeta sets a small value that the store does not look into.
type putMeta struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

func (*putMeta) kind() string { return "meta.put" }

func (p *putMeta) decide(c *change) (any, error) {
	c.put(bucketOpaque, []byte(p.Key), p.Value)
	return nil, nil
}

// tick lets the log's time pass: deadlines, expiry, retention.
type tick struct{}

func (*tick) kind() string { return "tick" }

func (*tick) decide(c *change) (any, error) {
	c.endDueTasks()
	c.forgetTasks()
	c.expireTokens()
	due := func(at int64) bool { return at <= c.now-requestSeconds }
	if n := c.dropRequests(pruneItems, due); n > 0 {
		kept, _ := load[int](c, bucketMeta, metaRequests)
		c.store(bucketMeta, metaRequests, kept-n)
	}
	return nil, nil
}

// tickDue tells whether a tick at now would change anything.
func tickDue(r reader, now int64) bool {
	for _, d := range []struct {
		bucket bucket
		keep   int64
	}{
		{bucketTaskDue, 0},
		{bucketTaskEnded, taskKeepSeconds},
		{bucketTokenExpiry, 0},
		{bucketRequestTimes, requestSeconds},
	} {
		due := false
		r.scan(d.bucket, nil, func(k, _ []byte) bool {
			at, _ := splitTimeKey(k)
			due = at <= now-d.keep
			return false
		})
		if due {
			return true
		}
	}
	return false
}
