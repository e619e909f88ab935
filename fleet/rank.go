// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// MaxLoadAge is how old a node's load report may be before agents are sent
	// elsewhere: reports come each second.
	MaxLoadAge = 3 * time.Second

	// NearTie is how far apart, in fill (streams over limit), two nodes may be
	// for chance to decide between them, so that many askers of one moment do not
	// all run to the same node.
	NearTie = 0.02
)

// standing orders nodes before their fill does: lower goes first. Those from
// standingFull on are no use to an agent, unless there are no others.
type standing int

const (
	standingHealthy standing = iota
	standingDegraded
	standingFull
	standingDraining
	standingNotReady
	standingSilent
)

// Fill is the share of the node's limit that is taken, with handedOut agents on
// their way to it. A node without a limit is full.
func (m *Member) Fill(handedOut uint32) float64 {
	if m.Load.Limit == 0 {
		return 1
	}
	return (float64(m.Load.Sessions) + float64(handedOut)) / float64(m.Load.Limit)
}

func (m *Member) standing(fill float64, now time.Time) standing {
	switch {
	case m.ReportedAt.IsZero() || now.Sub(m.ReportedAt) > MaxLoadAge:
		return standingSilent
	case !m.Load.Ready:
		return standingNotReady
	case m.Load.Draining:
		return standingDraining
	case fill >= 1:
		return standingFull
	case m.Load.KafkaAway || m.Load.Leaderless:
		return standingDegraded
	}
	return standingHealthy
}

// candidate is a member in the order of Rank.
type candidate struct {
	index    int
	id       string
	standing standing
	key      float64
}

func (c candidate) compare(other candidate) int {
	switch {
	case c.standing != other.standing:
		return int(c.standing) - int(other.standing)
	case c.key < other.key:
		return -1
	case c.key > other.key:
		return 1
	}
	return cmp.Compare(c.id, other.id)
}

// Rank returns the indices of up to count members (0: all) in the order in which
// an agent should try them: the least filled first, near ties by chance, those
// without Kafka or leader behind the healthy ones. Full, draining, unready and
// silent nodes are listed only when there are no others, the least bad first; so
// the answer is not empty while a member is alive. handedOut says of an index how
// many agents were sent to that node since its report. Without rnd ties go by NodeID.
func Rank(members []Member, handedOut func(i int) uint32, now time.Time, rnd *rand.Rand, count int) []int {
	if count <= 0 || count > len(members) {
		count = len(members)
	}
	best := make([]candidate, 0, count) // sorted
	for i := range members {
		m := &members[i]
		if !m.Alive {
			continue
		}
		fill := m.Fill(handedOut(i))
		c := candidate{index: i, id: m.NodeID, standing: m.standing(fill, now), key: fill}
		if rnd != nil {
			c.key += rnd.Float64() * NearTie
		}
		if len(best) == count {
			if c.compare(best[count-1]) >= 0 {
				continue
			}
			best = best[:count-1]
		}
		at, _ := slices.BinarySearchFunc(best, c, candidate.compare)
		best = slices.Insert(best, at, c)
	}
	ranked := make([]int, 0, len(best))
	for _, c := range best {
		if c.standing >= standingFull && best[0].standing < standingFull {
			break
		}
		ranked = append(ranked, c.index)
	}
	return ranked
}
